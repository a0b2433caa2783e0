"""What a site keeps of a run between its rounds: control variates, layers and models of its own, epochs in progress.

state/rounds/<study digest>/<run>/ holds `000007-control.safetensors`, one file a round and part; of each part the last
two rounds stand. `000007-model.journal` is a round's training as far as it has come, and goes when the round is
answered. A file appears whole under its name, with a digest over all that it holds; one that is torn is passed over.
Nothing here ever leaves the site. A run that nothing was written for in 30 days is removed.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedward_common.disk import sync
from fedward_common.records import Arrays, model_sha256
from fedward_common.study import StudySpec

log = logging.getLogger(__name__)

FOLDER = "rounds"  # in a site's state folder
KEPT = 2  # rounds of a part
UNTOUCHED_S = 30 * 24 * 3600

_FILE = re.compile(r"(\d{6,})-([a-z0-9-]+)\.(safetensors|journal)")
_WRITING = ".writing-"
_NOTES, _DIGEST = "notes", "sha256"

Notes = Mapping[str, str | int]
Held = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class RunState:
    """One run's folder. Nothing is made before something is saved; one process at a time saves."""

    folder: Path

    @classmethod
    def of(cls, root: Path, study: StudySpec, run: str) -> "RunState":
        """The folder of a run under a site's `root`."""
        return cls(root / study.digest / run)

    def load(self, part: str, *, before: int | None = None) -> Held:
        """The arrays of the last round before `before` (of any round without it); empty where there are none."""
        numbers = [number for number in self._rounds(part, "safetensors") if before is None or number < before]
        for number in sorted(numbers, reverse=True):
            if found := read(self._path(number, part, "safetensors")):
                return found[0]
        return {}

    def save(self, part: str, number: int, arrays: Arrays) -> None:
        """Keep a round's arrays, on the disk when this returns. What stands of later rounds goes: they come again."""
        self._make()
        write(self._path(number, part, "safetensors"), arrays, {"round": number}, durably=True)
        numbers = self._rounds(part, "safetensors")
        kept = sorted(one for one in numbers if one <= number)[-KEPT:]
        for one in set(numbers) - set(kept):
            self._path(one, part, "safetensors").unlink(missing_ok=True)

    def drop(self, part: str, *, after: int) -> None:
        """Forget a part's arrays of the rounds after `after`: what they went with did not count."""
        for number in self._rounds(part, "safetensors"):
            if number > after:
                self._path(number, part, "safetensors").unlink(missing_ok=True)

    def journal(self, part: str, number: int) -> "Journal":
        """Where a round's training writes down how far it is."""
        return Journal(self._path(number, part, "journal"), self._make)

    def settle(self, number: int) -> None:
        """A round is answered: remove the journals up to it, and what a killed process was writing."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            found = _FILE.fullmatch(path.name)
            if path.name.startswith(_WRITING) or (found and found[3] == "journal" and int(found[1]) <= number):
                path.unlink(missing_ok=True)

    def _rounds(self, part: str, kind: str) -> list[int]:
        if not self.folder.is_dir():
            return []
        found = [_FILE.fullmatch(path.name) for path in self.folder.iterdir()]
        return [int(one[1]) for one in found if one and (one[2], one[3]) == (part, kind)]

    def _path(self, number: int, part: str, kind: str) -> Path:
        return self.folder / f"{number:06d}-{part}.{kind}"

    def _make(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_untouched(self.folder.parent.parent)


@dataclass(frozen=True, slots=True)
class Journal:
    """One file, written over and over while a round is trained. What the system has not written yet may be lost."""

    path: Path
    make: Callable[[], None]

    def load(self) -> tuple[Held, Notes] | None:
        """What was written last; None where there is nothing whole."""
        return read(self.path)

    def save(self, arrays: Arrays, notes: Notes) -> None:
        """Write it in the place of what stands there."""
        self.make()
        write(self.path, arrays, notes, durably=False)


def write(path: Path, arrays: Arrays, notes: Notes, *, durably: bool) -> None:
    """Write arrays and notes under a temporary name, then rename; `durably`: it survives a loss of power."""
    whole = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    text = json.dumps(dict(notes), sort_keys=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_WRITING)
    os.close(descriptor)
    temporary = Path(name)
    try:
        save_file(whole, temporary, metadata={_NOTES: text, _DIGEST: _digest(whole, text)})
        if durably:
            sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durably:
        sync(path.parent)


def read(path: Path) -> tuple[Held, Notes] | None:
    """What `write` wrote; None where there is no such file, or where it is torn."""
    try:
        with safe_open(path, "pt") as file:  # torch's tensors are the file's own pages, numpy's a copy
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118 - it is no dict
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError) as error:
        log.warning("%s cannot be read and is passed over: %s", path.name, error)
        return None
    text = metadata.get(_NOTES, "")
    if metadata.get(_DIGEST) != _digest(arrays, text):
        log.warning("%s is torn and is passed over", path.name)
        return None
    notes: Notes = json.loads(text)
    return arrays, notes


def _digest(arrays: Arrays, text: str) -> str:
    return hashlib.sha256(f"{model_sha256(arrays)}\0{text}".encode()).hexdigest()


def _remove_untouched(root: Path) -> None:
    """Remove runs that nothing was written for in `UNTOUCHED_S`, and studies that no run is left of."""
    oldest = time.time() - UNTOUCHED_S
    for study in root.iterdir():
        with suppress(FileNotFoundError):  # the steward has it forgotten at this moment
            for run in study.iterdir():
                if run.stat().st_mtime < oldest:
                    log.info("what was kept of run %s is removed: it was untouched for 30 days", run.name)
                    shutil.rmtree(run, ignore_errors=True)
            if not any(study.iterdir()):
                study.rmdir()
