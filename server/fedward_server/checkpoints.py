"""A run's state after a round, on disk: whole or not there, whatever moment the hub is killed at.

`round-000007.safetensors` holds the model and what the strategy remembers; `round-000007.json` names that file's
SHA-256, the study's digest and the sites that took part. Both are written in the folder `.saving`, synced and renamed,
the JSON last: without it there is no checkpoint. The last two rounds are kept. A checkpoint that does not match its
digest is torn; one of another study is refused, never read.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedward_common.disk import sync
from fedward_common.errors import CheckpointError

log = logging.getLogger(__name__)

_VERSION: Literal[1] = 1  # of the JSON's layout
BEST = "best"  # in a run's folder: the checkpoints of the round that is best so far
_KEPT = 2
_SAVING = ".saving"
_MODEL, _STRATEGY = "model/", "strategy/"
_KINDS = ("safetensors", "json")  # in this order: without its JSON there is no checkpoint
_FILE = re.compile(r"round-(\d{6,})\.(json|safetensors)")

_State = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a run needs to go on after `round`."""

    run: str
    study_digest: str  # 64 hex digits
    round: int
    arrays: Mapping[str, npt.NDArray[Any]]  # the model's state, any shapes
    strategy_state: Mapping[str, npt.NDArray[Any]]
    participation: list[str]  # sites whose update is in this model
    metrics: dict[str, Any]  # anything that is JSON


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")

    version: Literal[1]
    run: str
    study_digest: str
    round: Annotated[int, Field(ge=0)]
    participation: list[str]
    metrics: dict[str, JsonValue]
    arrays: list[str]  # the model's names in their order, which a safetensors file does not keep
    strategy_state: list[str]
    safetensors_sha256: str


class _Version(BaseModel):
    version: int


class _TornError(Exception):
    """A checkpoint is not whole; says why."""


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then remove all but the last two rounds, rounds above this one and what a killed save left.

    Raises CheckpointError where it cannot be written (disk full, no permission); those before it are then untouched.
    """
    with _explained(folder, checkpoint.round):
        saving = folder / _SAVING
        shutil.rmtree(saving, ignore_errors=True)
        saving.mkdir(parents=True)
        try:
            _write(saving, checkpoint)
            _commit(saving, folder, checkpoint.round)
        finally:
            shutil.rmtree(saving, ignore_errors=True)
        _prune(folder, checkpoint.round)


def keep_best(folder: Path, number: int) -> None:
    """Let a round that is on the disk stand as the best one too, whatever is removed later: by a second name, no copy.

    Raises CheckpointError where it cannot be written; the best one before it is then untouched.
    """
    best = folder / BEST
    with _explained(best, number):
        saving = best / _SAVING
        shutil.rmtree(saving, ignore_errors=True)
        saving.mkdir(parents=True)
        try:
            for kind in _KINDS:
                _link(folder / _name(number, kind), saving / _name(number, kind))
            _commit(saving, best, number)
        finally:
            shutil.rmtree(saving, ignore_errors=True)
        _prune(best, number)


def latest(folder: Path, *, study_digest: str) -> Checkpoint | None:
    """The newest whole checkpoint of a folder, None where it holds none.

    A torn one is passed over with a warning in the log. Raises CheckpointError for a checkpoint of another study or of
    a newer format, and where every checkpoint is torn.
    """
    torn: list[str] = []
    for number in sorted((n for n, kind in _files(folder) if kind == "json"), reverse=True):
        try:
            return _read(folder, number, study_digest)
        except _TornError as problem:
            log.warning("the checkpoint of round %d in %s is torn and passed over: %s", number, folder, problem)
            torn.append(f"round {number}: {problem}")
    if torn:
        raise CheckpointError(
            f"every checkpoint in {folder} is torn ({'; '.join(torn)}): "
            "restore the folder from a backup, or start a new run"
        )
    return None


def newest(folder: Path) -> int:
    """The last round that a folder holds a checkpoint of, 0 where it holds none; its files are not read."""
    return max((number for number, kind in _files(folder) if kind == "json"), default=0)


def final_places(folder: Path) -> tuple[Path, Path]:
    """Where a finished run's model may be: with the last round, or with the best."""
    return folder, folder / BEST


def of_round(folder: Path, number: int, *, study_digest: str) -> Checkpoint:
    """A run's checkpoint of one round, the last or the best. Raises CheckpointError where it is not there."""
    for place in final_places(folder):
        checkpoint = latest(place, study_digest=study_digest)
        if checkpoint is not None and checkpoint.round == number:
            return checkpoint
    raise CheckpointError(f"{folder} does not hold the model of round {number}: restore it from a backup")


# Writing -------------------------------------------------------------------------------------------------------------


def _name(number: int, kind: str) -> str:
    return f"round-{number:06d}.{kind}"


def _write(saving: Path, checkpoint: Checkpoint) -> None:
    tensors = saving / _name(checkpoint.round, "safetensors")
    arrays = {
        **{_MODEL + name: array for name, array in checkpoint.arrays.items()},
        **{_STRATEGY + name: array for name, array in checkpoint.strategy_state.items()},
    }
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, tensors)
    manifest = _Manifest(
        version=_VERSION,
        run=checkpoint.run,
        study_digest=checkpoint.study_digest,
        round=checkpoint.round,
        participation=checkpoint.participation,
        metrics=checkpoint.metrics,
        arrays=list(checkpoint.arrays),
        strategy_state=list(checkpoint.strategy_state),
        safetensors_sha256=_sha256(tensors),
    )
    (saving / _name(checkpoint.round, "json")).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    for path in saving.iterdir():
        sync(path)


def _commit(saving: Path, folder: Path, number: int) -> None:
    """Move both files to their names. A round saved again is withdrawn first: a new model never meets an old JSON."""
    (folder / _name(number, "json")).unlink(missing_ok=True)
    for kind in _KINDS:
        sync(folder)
        (saving / _name(number, kind)).replace(folder / _name(number, kind))
    sync(folder)


def _link(old: Path, new: Path) -> None:
    """Give a file a second name; a copy, on a disk that has no such thing."""
    try:
        new.hardlink_to(old)
    except OSError:
        shutil.copyfile(old, new)
        sync(new)


def _prune(folder: Path, newest: int) -> None:
    """Remove all but the last rounds up to `newest`; what lies above is of a run that was begun anew."""
    files = _files(folder)
    kept = sorted({number for number, _kind in files if number <= newest})[-_KEPT:]
    for number, kind in sorted(files, key=lambda file: file[1]):  # JSON first: no checkpoint ever lacks its arrays
        if number not in kept:
            (folder / _name(number, kind)).unlink(missing_ok=True)


def _files(folder: Path) -> list[tuple[int, str]]:
    """The rounds and kinds ("json", "safetensors") of the files in a folder."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [(int(match[1]), match[2]) for match in map(_FILE.fullmatch, names) if match]


@contextmanager
def _explained(folder: Path, number: int) -> Iterator[None]:
    """Turn what the file system raises into words."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        full = os.strerror(errno.ENOSPC) in reason
        todo = "free space on that disk" if full else "put that right"
        raise CheckpointError(
            f"the checkpoint of round {number} cannot be written to {folder}: {reason}; {todo}, then resume the run: "
            "the checkpoints before it are untouched"
        ) from error


# Reading -------------------------------------------------------------------------------------------------------------


def _read(folder: Path, number: int, study_digest: str) -> Checkpoint:
    manifest = _manifest(folder / _name(number, "json"))
    if manifest.study_digest != study_digest:
        raise CheckpointError(
            f"{folder} holds a checkpoint of another study (digest {manifest.study_digest[:12]}…, "
            f"not {study_digest[:12]}…): run the study as it was, or choose another folder"
        )
    if manifest.round != number:
        raise _TornError(f"its JSON is of round {manifest.round}")
    arrays = _arrays(folder / _name(number, "safetensors"), manifest.safetensors_sha256)
    return Checkpoint(
        run=manifest.run,
        study_digest=manifest.study_digest,
        round=number,
        arrays={name: arrays[_MODEL + name] for name in manifest.arrays},
        strategy_state={name: arrays[_STRATEGY + name] for name in manifest.strategy_state},
        participation=manifest.participation,
        metrics=manifest.metrics,
    )


def _manifest(path: Path) -> _Manifest:
    try:
        text = path.read_bytes()
        version = _Version.model_validate_json(text).version
        if version > _VERSION:
            raise CheckpointError(
                f"{path} is in format {version}, this Fedward reads {_VERSION}: install the version that wrote it"
            )
        return _Manifest.model_validate_json(text)
    except OSError as error:
        raise _TornError(f"its JSON cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise _TornError(f"its JSON is not whole ({error.errors(include_url=False)[0]['msg']})") from error


def _arrays(path: Path, sha256: str) -> _State:
    try:
        if _sha256(path) != sha256:
            raise _TornError("its arrays are not those that its JSON names (SHA-256 differs)")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _TornError(f"its arrays cannot be read ({error})") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
