"""Trained weights from a safetensors file. No other kind is read: pickle, as in .pt and .pth files, may run code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedward_common.errors import ModelError
from fedward_common.study_faults import printable

if TYPE_CHECKING:
    from fedward_common.study_spec import StudySpec

NAME = "start.safetensors"  # in a run's folder: the weights that it began with
_TYPES = {"F16", "F32", "F64", "U8", "I32", "I64"}  # those that travel

State = dict[str, npt.NDArray[np.generic]]


def read(path: Path) -> State:
    """The arrays of a file, any shapes, by name. Raises ModelError in words for what cannot be read."""
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 - the file is no mapping
            if (kind := file.get_slice(name).get_dtype()) not in _TYPES:
                raise ModelError(
                    f'{path}: "{printable(name)}" is of type {kind}; these are taken: '
                    f"{', '.join(sorted(_TYPES))}: save it as F32"
                )
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def header(path: Path) -> dict[str, str]:
    """What a file says of itself beside its arrays. Raises ModelError as `read` does."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            yield file
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}: the path counts from the study file's folder") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ModelError(
            f"{path} is no safetensors file ({error}): write one with safetensors.torch.save_file"
        ) from None


def sha256(arrays: State) -> str:
    """What [model] start.sha256 is of."""
    from fedward_common.records import model_sha256

    return model_sha256(arrays)


def read_kept(study: "StudySpec", folder: Path | None) -> State | None:
    """The weights that a resolved study begins with, from a run's folder; None where it names none.

    Raises ModelError where they are not there, or are others than the study's digest covers.
    """
    start = study.model.start
    if start is None:
        return None
    if folder is None:
        raise ModelError("the study begins with trained weights, and they are not here: start it as a run")
    arrays = read(folder / NAME)
    if sha256(arrays) != start.sha256:
        raise ModelError(f"{folder / NAME} is not what the study begins with (SHA-256 {start.sha256}): restore it")
    return arrays
