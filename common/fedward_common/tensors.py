"""Torch tensors over the memory of numpy arrays, of read-only ones too: what came in a message is not copied first."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

with warnings.catch_warnings():  # torch warns of read-only memory once in a process: here, where nothing writes to it
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"0", np.uint8))


def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """A tensor over the same memory. It must only be read where the array is read-only: no tensor can be marked so."""
    return torch.from_numpy(np.asarray(array, order="C"))
