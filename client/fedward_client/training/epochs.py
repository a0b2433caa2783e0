"""Writes down a round's training after each epoch, so that a killed site goes on there, with the same bits.

Model, optimizer, sums and torch's random state are all that an epoch hands to the next: the order of images is drawn
from streams named by the epoch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward_client.site_state import Journal
from fedward_common import __version__

_SHARE = 0.01  # of the time since the last writing that the next one may take
_CHEAP_S = 0.02  # what takes less is always written


@dataclass(slots=True)
class Progress:
    """How far a round's training is. The sum of losses stays on the model's device: no wait for a GPU at each step."""

    loss_sum: torch.Tensor
    epoch: int = 0  # whole ones
    step: int = 0
    seen: int = 0  # images

    def add(self, loss: torch.Tensor, examples: int) -> None:
        """A step was made: the mean loss of its batch, and how many examples that had."""
        self.loss_sum += loss * examples
        self.step += 1
        self.seen += examples


@dataclass(kw_only=True, slots=True)
class EpochJournal:
    """The journal of one model's training in one round. `began_with` names what the round began with.

    A large model after a short epoch is passed over until writing it takes less than 1 % of the time it would save.
    """

    journal: Journal
    began_with: str
    last_too: bool = False  # also after the last epoch, where the round trains something else afterwards
    _cost_s: float = 0.0  # of the last writing, in processor time
    _written: float = 0.0  # when that was

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write down where an epoch ended."""
        if _CHEAP_S < self._cost_s > _SHARE * (time.monotonic() - self._written):
            return
        begun = time.thread_time()
        self._write(model, optimizer, progress)
        self._cost_s, self._written = time.thread_time() - begun, time.monotonic()

    def _write(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        states = optimizer.state_dict()["state"]
        arrays = {
            **{f"model/{name}": _array(tensor) for name, tensor in model.state_dict().items()},
            **{
                f"optimizer/{index}/{key}": _array(tensor)
                for index, state in states.items()
                for key, tensor in state.items()
                if tensor is not None
            },
            **{f"random/{kind}": _array(state) for kind, (state, _) in _random(progress.loss_sum.device).items()},
            "loss_sum": _array(progress.loss_sum),
        }
        notes = {"epoch": progress.epoch, "step": progress.step, "seen": progress.seen, **self._named}
        self.journal.save(arrays, notes)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
        """Go back to what was written down; None where there is nothing of this round, beginning with the same."""
        found = self.journal.load()
        if found is None or any(found[1].get(key) != value for key, value in self._named.items()):
            return None
        arrays, notes = found
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                tensor.copy_(torch.from_numpy(arrays[f"model/{name}"]))
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, array in arrays.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                states.setdefault(int(index), {})[key] = torch.from_numpy(array)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        device = next(model.parameters()).device
        for kind, (_, use) in _random(device).items():
            use(torch.from_numpy(arrays[f"random/{kind}"]))
        loss_sum = torch.from_numpy(arrays["loss_sum"]).to(device)
        epoch, step, seen = (int(notes[key]) for key in ("epoch", "step", "seen"))
        return Progress(loss_sum=loss_sum, epoch=epoch, step=step, seen=seen)

    @property
    def _named(self) -> dict[str, str | int]:
        return {"began_with": self.began_with, "fedward": __version__, "torch": torch.__version__}


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.asarray(tensor.detach().cpu().numpy())
    return array


def _random(device: torch.device) -> dict[str, tuple[torch.Tensor, Callable[[torch.Tensor], object]]]:
    """The states of torch's generators, and what sets each."""
    states: dict[str, tuple[torch.Tensor, Callable[[torch.Tensor], object]]] = {
        "cpu": (torch.get_rng_state(), torch.set_rng_state)
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device), lambda state: torch.cuda.set_rng_state(state, device)
    return states
