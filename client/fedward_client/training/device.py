"""Where the tensors live, and what makes the same data give the same bits there."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Device:
    """A torch device with the precision and memory layout that suit it."""

    torch: torch.device
    amp: bool  # bfloat16 where it is faster than float32: see `autocast`

    def autocast(self, dims: int) -> AbstractContextManager[object]:
        """The precision in which a network is trained on examples of so many `dims`.

        Of rows (none) it is float32 everywhere: their layers are so small that to cast them costs more than it saves.
        Scores are computed in float32 too: in bfloat16, of eight bits, many would be equal that are not.
        """
        return torch.autocast(self.torch.type, dtype=torch.bfloat16, enabled=self.amp and dims > 0)

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

    A CPU multiplies in bfloat16 where it has tiles for it (Intel AMX); without them that is slower than float32.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
    torch.backends.cudnn.benchmark = False
    if torch.cuda.is_available():
        return Device(torch.device("cuda"), amp=torch.cuda.is_bf16_supported())
    return Device(torch.device("cpu"), amp=torch.cpu._is_amx_tile_supported())
