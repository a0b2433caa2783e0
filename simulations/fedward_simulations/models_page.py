"""`python -m fedward_simulations.models_page`: what each network weighs and how fast it trains, as docs/models.md.

Each is built and trained for a few steps in a process of its own, on one thread of a processor, so that its memory is
its own; sizes of examples are the same for all networks of as many axes. One that does several tasks is trained for the
first of them.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from fedward_simulations.markdown import render
from fedward_simulations.peak_memory import peak_mib

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from fedward_common.study_task import Task

BATCH = 8
SIZES = {0: (), 1: (256,), 2: (128, 128), 3: (32, 64, 64)}
CHANNELS = {0: 13, 1: 9, 2: 1, 3: 1}
_STEPS, _SECONDS = 3, 3.0  # of training, at least
_KINDS = {0: "rows of 13 features", 1: "9 signals of 256 samples", 2: "128 x 128 pixels", 3: "32 x 64 x 64 voxels"}


class Measured(NamedTuple):
    """A network of as many axes: its parameters, and the memory and speed of training it."""

    parameters: int
    step_mib: float  # that training takes beyond what the process had before
    per_second: float  # examples, in float32
    faster: float | None  # how many times as many as a client trains it where a processor has tiles; None: as before


def measure(name: str, dims: int) -> Measured:
    """Build and train a network here. Once a process: memory is the process's."""
    import torch
    from torch import Tensor

    from fedward_client.training.device import Device
    from fedward_common import models

    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = models.describe(name).tasks[0]
    other = torch.nn.Linear(1, 2)  # what torch imports for it is no network's
    _train(other, lambda: _loss(other, "classification", torch.rand(BATCH, 1)), 1, 0.0)
    before = peak_mib()
    classes = models.outputs(task, 2)
    network = models.build(name, options={}, size=SIZES[dims], channels=CHANNELS[dims], classes=classes, task=task)
    examples = torch.rand(BATCH, CHANNELS[dims], *SIZES[dims])
    seconds = _train(network, lambda: _loss(network, task, examples), _STEPS, _SECONDS)
    step_mib = peak_mib() - before
    shape = models.example_shape(task, CHANNELS[dims], SIZES[dims])
    precision = Device(torch.device("cpu"), amp=True).autocast(network, shape)

    def cast_loss() -> Tensor:
        with precision:
            return _loss(network, task, examples)

    cast = _train(network, cast_loss, _STEPS, _SECONDS) if dims else None
    return Measured(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        step_mib=step_mib,
        per_second=BATCH / seconds,
        faster=None if cast is None else seconds / cast,
    )


def _train(network: "nn.Module", loss: "Callable[[], Tensor]", steps: int, seconds: float) -> float:
    """Seconds of the fastest step, of so many at least that take so long together."""
    import torch

    optimizer = torch.optim.AdamW(network.parameters())
    times: list[float] = []
    while len(times) < steps or sum(times) < seconds:
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss().backward()  # type: ignore[no-untyped-call]  # of torch
        optimizer.step()
        times.append(time.perf_counter() - started)
    return min(times)


def _loss(network: "nn.Module", task: "Task", examples: "Tensor") -> "Tensor":
    """Of a task, with any truth."""
    import torch

    if task == "segmentation":
        from fedward_client.training.segmentation_loss import segmentation_loss

        logits = network(examples)
        return segmentation_loss(logits, torch.ones(logits.shape, dtype=torch.uint8), torch.ones(logits.shape[:2]))
    if task == "registration":
        from fedward_client.training.registration_loss import registration_loss

        fixed = examples.flip(0)
        return registration_loss(examples, fixed, network(torch.cat([examples, fixed], dim=1)), smoothness=1.0)
    if task == "detection":
        from fedward_client.training.detection import detection_loss
        from fedward_common.models.retinanet import RetinaNet

        assert isinstance(network, RetinaNet)
        dims = examples.dim() - 2
        boxes = torch.tensor([8.0] * dims + [20.0] * dims + [0.0]).expand(len(examples), 1, -1)
        return detection_loss(network(examples), boxes, network.anchors, network.levels)
    if task == "survival":
        from fedward_client.training.survival_loss import cox_loss

        order = torch.arange(len(examples))
        return cox_loss(network(examples).squeeze(1), order, order % 2)
    return torch.nn.functional.cross_entropy(network(examples), torch.arange(len(examples)) % 2)


def page() -> str:
    """docs/models.md."""
    from fedward_common import models

    cards = [models.describe(name) for name in models.names()]
    kinds = {
        kind: [(card, _apart(card.name, dims)) for card in cards if dims in card.dims]
        for dims, kind in sorted(_KINDS.items(), reverse=True)
    }
    return render("models.md", batch=BATCH, kinds=kinds)


def _apart(name: str, dims: int) -> Measured:
    """`measure` in a process of its own."""
    code = (
        "import json, sys; from fedward_simulations.models_page import measure; "
        "print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name, str(dims)], check=True, capture_output=True, text=True, timeout=600
    )
    return Measured(*json.loads(done.stdout))


def main(out: Annotated[Path, typer.Option(help="The page that is written.")] = Path("docs/models.md")) -> None:
    """Measure every network and write docs/models.md.

    Example: python -m fedward_simulations.models_page
    """
    out.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
