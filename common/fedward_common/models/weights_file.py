"""Trained weights from a safetensors file. No other kind is read: pickle, as in .pt and .pth files, may run code."""

import json
import math
from collections.abc import Iterator, Mapping
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
_PART = 2**16  # bytes that are read at a time

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


def parameters(path: Path) -> int:
    """How many numbers that can be learned, and statistics, the arrays of a file hold. Raises ModelError as `read`."""
    with _opened(path) as file:
        arrays = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
        return sum(math.prod(array.get_shape()) for array in arrays if array.get_dtype().startswith("F"))


def with_header(path: Path, header: Mapping[str, str]) -> tuple[int, Iterator[bytes]]:
    """A file that can be read, with other words of itself: how many bytes that is, and the bytes in parts.

    The format: 8 bytes that say how long the JSON is which follows, little-endian; the JSON; the arrays' bytes.
    """
    with path.open("rb") as file:
        old = int.from_bytes(file.read(8), "little")
        arrays = json.loads(file.read(old))
    text = json.dumps({**arrays, "__metadata__": dict(header)}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays stay aligned

    def parts() -> Iterator[bytes]:
        yield len(text).to_bytes(8, "little") + text
        with path.open("rb") as file:
            file.seek(8 + old)
            while part := file.read(_PART):
                yield part

    return path.stat().st_size - old + len(text), parts()


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
