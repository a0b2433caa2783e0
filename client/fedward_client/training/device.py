"""Where the tensors live, and what makes the same data give the same bits there."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True, slots=True)
class Device:
    """A torch device with the precision and memory layout that suit it."""

    torch: torch.device
    amp: bool  # bfloat16 where it is faster than float32: see `autocast`

    def autocast(self, model: nn.Module, shape: tuple[int, ...]) -> AbstractContextManager[object]:
        """The precision in which `model`, which is here, is trained on examples of `shape` [channels, *size].

        Of rows it is float32 everywhere: to cast them gains little, or costs. Scores are computed in float32 too:
        bfloat16 has eight significant bits, in which many would be equal that are not. To be asked before layers are
        frozen: afterwards all of them are in training, or none.
        """
        amp = self.amp and len(shape) > 1 and not (self.torch.type == "cpu" and _has_narrow_maps(model, shape))
        return torch.autocast(self.torch.type, dtype=torch.bfloat16, enabled=amp)

    def layout(self, dims: int) -> Any:
        """A torch memory format: of images, of 2 or 3 `dims`, channels-last on a GPU, where convolutions want it."""
        if self.torch.type != "cuda":
            return torch.contiguous_format
        return {2: torch.channels_last, 3: torch.channels_last_3d}.get(dims, torch.contiguous_format)

    def place(self, model: nn.Module, dims: int) -> None:
        """Move a network here, in this layout."""
        if self.torch.type == "cpu":  # where networks are made, in this layout; to look costs a small one a millisecond
            return
        model.to(device=self.torch)
        model.to(memory_format=self.layout(dims))  # type: ignore[call-overload]  # torch's stubs lack this overload

    def seed(self, seed: int) -> None:
        """Seed what is drawn here and on the CPU, as `torch.manual_seed` does.

        That one, where there is no GPU, keeps the call with its whole stack for each kind of GPU, in case one comes:
        milliseconds and memory for every call.
        """
        torch.default_generator.manual_seed(seed)
        if self.torch.type == "cuda":
            torch.cuda.manual_seed_all(seed)


@cache
def pick_device() -> Device:
    """The first GPU, else the CPU. Turns on deterministic algorithms.

    A CPU multiplies in bfloat16 where it has instructions for it (AVX512_BF16, which every one with Intel AMX has too);
    without them that is slower than float32.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # float32 is what it says, and what an exported network computes in
    if torch.cuda.is_available():
        return Device(torch.device("cuda"), amp=torch.cuda.is_bf16_supported())
    return Device(torch.device("cpu"), amp=torch.cpu._is_avx512_bf16_supported())


@cache
def gpu() -> tuple[str, int] | None:
    """The name and the bytes of the GPU that trains here; None where that is the processor."""
    if pick_device().torch.type != "cuda":
        return None
    found = torch.cuda.get_device_properties(pick_device().torch)
    return found.name, found.total_memory


def gpu_memory() -> tuple[int, int] | None:
    """Bytes of the GPU's memory that are free, and all; None before it was used, for to ask would take some of it."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's stubs
    return torch.cuda.mem_get_info() if used else None


def _has_narrow_maps(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a convolution gets maps that are narrower than its kernel or its stride on an axis.

    There oneDNN leaves parts of the weight's gradient unwritten in bfloat16 (seen with PyTorch 2.13, on processors with
    AMX and with AVX512_BF16 alone: values up to infinity and no numbers, others each time). Not in all such maps, and
    in none of images and series with a kernel of 3 and no strides, which are not looked at therefore, nor in any wider
    one: of kernels up to 11 and strides up to 4 on maps of up to 16, with 1 to 128 channels.
    """
    convolutions = [part for part in model.modules() if isinstance(part, _ConvNd)]
    watched = [
        part for part in convolutions if len(part.kernel_size) == 3 or max(part.stride) > 1 or max(part.kernel_size) > 3
    ]
    narrow = list[bool]()

    def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, _ConvNd)
        lengths = inputs[0].shape[2:]
        steps = zip(lengths, layer.kernel_size, layer.stride, strict=True)
        narrow.append(any(length < max(kernel, stride) for length, kernel, stride in steps))

    handles = [part.register_forward_pre_hook(look) for part in watched]
    training = model.training
    try:
        if watched:
            with torch.no_grad():
                model.eval()(torch.zeros(1, *shape))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return any(narrow)
