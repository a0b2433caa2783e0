"""A run's frozen cohort as tensors: decoded once, kept as one memory-mapped array, found again by the next round.

state/cache/<recipe digest>-<cohort content digest>[-<task>]/ holds images.npy (float32 [images, channels, *size], in
the order of the cohort's items), targets.npy where truth is in masks or boxes, and index.json (which row is which
image, and a digest over that). The folder appears whole under its name or not at all; one that is torn or does not fit
is built again. Labels and sides come from the cohort, so a change of split decodes nothing. No name and no file in it
holds an identifier. Which arrays: `cache_layout`; what makes room: `cache_room`.
"""

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from fedward_client import cache_room
from fedward_client.cache_index import FILE, Index, locked, purge
from fedward_client.cache_layout import Row, arrays_of, bytes_of_cache, folder_of
from fedward_client.cache_room import IMAGES, TARGETS
from fedward_client.catalog import paths, quarantine
from fedward_client.cohort import Cohort, CohortItem
from fedward_client.cohort_minimum import require
from fedward_client.freezing import freeze
from fedward_client.intake.optout import opted_out
from fedward_client.labelling import MASKED, shown_of
from fedward_client.opening import AnyRecipe, opener, recipe_of
from fedward_client.opening import Images as ImageOpener
from fedward_client.site import Site
from fedward_client.site_data import SiteData, Targets
from fedward_client.split import SIDES
from fedward_common.disk import sync, write_durably
from fedward_common.errors import DataError, UnfitImage, UnreadableFile
from fedward_common.events import Event, Listener, ignore
from fedward_common.study import Scale, StudySpec

_log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BUILDING = ".building-"

_Outcome = Literal["images", "unreadable", "gone"]  # the lists of the index


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What a cache is built from, and where it goes."""

    site: Site
    cohort: Cohort
    recipe: AnyRecipe
    study: StudySpec
    listener: Listener

    @property
    def root(self) -> Path:
        return cache_room.root_of(self.site)

    @property
    def folder(self) -> Path:
        return folder_of(self.site, self.study, self.cohort, self.recipe)

    @property
    def bytes_needed(self) -> int:
        return bytes_of_cache(len(self.cohort.items), self.study)

    @property
    def arrays(self) -> dict[str, Row]:
        return arrays_of(self.study)

    def tell(self, done: int, note: str = "") -> None:
        total = len(self.cohort.items)
        self.listener(Event(site=self.site.name, stage="cache", done=done, total=total, note=note))


def load(
    site: Site, study: StudySpec, run: str, listener: Listener = ignore, *, scale: Scale | None = None
) -> SiteData:
    """The tensors of `run`'s frozen cohort, decoded at the first call and mapped from disk afterwards.

    `scale` is the one that the run's sites measured, where the study leaves it to them.
    A file that cannot be read, and one that went or changed since the cohort was frozen, is left out and counted. What
    any cache holds of patients who have opted out is removed first.
    Raises what `freeze` raises, and DataError when what is left is too little for the study or when it has no room.
    """
    purge(site, opted_out(site))
    how = recipe_of(study.input.on_scale(scale), site.name)
    cohort = freeze(site, study, run, listener)
    job = _Job(site=site, cohort=cohort, recipe=how, study=study, listener=listener)
    job.root.mkdir(parents=True, exist_ok=True)
    with locked(job.root), _room_told(job):
        index, arrays = _open(job) or _build(job)
        cache_room.use(job.folder, job.study.digest)
    cohort = job.cohort.without(index.unreadable, "images that could not be read")
    cohort = cohort.without(index.gone, "images gone since the run began")
    if index.unreadable or index.gone:
        require(cohort, study, site)
    job.tell(len(job.cohort.items), _note(index))
    return _site_data(job, cohort, index, arrays)


Arrays = dict[str, npt.NDArray[Any]]  # by the names of their files


def _site_data(job: _Job, left: Cohort, index: Index, arrays: Arrays) -> SiteData:
    items = left.items  # in the order of the rows: both are the frozen items less the same ones
    _, patients = np.unique([item.patient for item in items], return_inverse=True)
    return SiteData(
        images=arrays[IMAGES],
        targets=_times(items) if job.study.study.task == "survival" else arrays.get(TARGETS),
        labels=np.array([item.label for item in items], dtype=np.int64),
        patients=patients.astype(np.int64),
        sides=np.array([SIDES.index(item.side) for item in items], dtype=np.int8),
        folds=np.array([item.fold for item in items], dtype=np.int16) if job.cohort.folded else None,
        groups={
            by: np.array([item.groups[place] for item in items])
            for place, by in enumerate(job.study.evaluation.subgroups)
        },
        cohort_digest=job.cohort.digest,
        rows_digest=index.digest,
        unreadable=len(index.unreadable),
        gone=len(index.gone),
    )


def _times(items: Sequence[CohortItem]) -> Targets:
    """Times of follow-up float64 [n]."""
    return np.array([item.time for item in items], dtype=np.float64)


@contextmanager
def _room_told(job: _Job) -> Iterator[None]:
    """A disk that fills up in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise cache_room.full(job.site, job.bytes_needed, error) from None


def _open(job: _Job) -> tuple[Index, Arrays] | None:
    """The cache as it lies on disk, None where there is none that is whole and fits."""
    try:
        index = Index.model_validate_json((job.folder / FILE).read_bytes())
        arrays, size = _all_mapped(job, job.folder)
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError, EOFError):
        _log.warning("%s: a cache is torn, building it again", job.site.name)
        return None
    if not _fits(job, index, arrays, size):
        _log.warning("%s: a cache does not fit its cohort, building it again", job.site.name)
        return None
    return None if _came_back(job, index) else (index, arrays)


def _all_mapped(job: _Job, folder: Path) -> tuple[Arrays, int]:
    """The arrays of a cache, and how many bytes they have."""
    arrays = {name: _mapped(folder / name, row.dtype) for name, row in job.arrays.items()}
    return arrays, sum((folder / name).stat().st_size for name in arrays)


def _mapped(path: Path, expected: np.dtype[Any]) -> npt.NDArray[Any]:
    """An array, mapped from its file; whoever has it holds a lock on that. Raises ValueError for a torn one."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # until the mapping goes, which has a duplicate of the descriptor: flock(2)
        version = np.lib.format.read_magic(file)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        if version != (1, 0) or fortran_order or dtype != expected:
            raise ValueError("it is no array as it is written here")
        # as a plain array: numpy's own class for maps takes a fifteenth longer to give a batch
        return np.asarray(np.memmap(file, dtype=dtype, mode="r", offset=file.tell(), shape=shape))


def _fits(job: _Job, index: Index, arrays: Arrays, size: int) -> bool:
    missing = {*index.unreadable, *index.gone}
    expected = tuple(item.image for item in job.cohort.items if item.image not in missing)
    return (
        index.digest == index.computed()
        and (index.recipe, index.content) == (job.recipe.digest, job.cohort.content_digest)
        and (index.size, index.images, index.patients) == (size, expected, job.cohort.people)
        and all(arrays[name].shape == (len(expected), *row.shape) for name, row in job.arrays.items())
    )


def _came_back(job: _Job, index: Index) -> bool:
    """Whether a file that was gone is there again, a network share that was not mounted for example."""
    if not index.gone:
        return False
    gone, opening = set(index.gone), opener(job.site, job.recipe, paths(job.site))
    return any(opening.is_there(item) for item in job.cohort.items if item.image in gone)


def _build(job: _Job) -> tuple[Index, Arrays]:
    """Decode everything beside the cache's place, then move it there."""
    for torn in (job.folder, *unfinished(job.root)):
        shutil.rmtree(torn, ignore_errors=True)
    cache_room.make(job.site, job.bytes_needed)
    folder = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=job.root))
    try:
        index = _fill(job, folder)
        write_durably(folder / FILE, index.model_dump_json().encode())
        cache_room.use(folder, job.study.digest)
        folder.rename(job.folder)
        sync(job.root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return index, _all_mapped(job, job.folder)[0]


def unfinished(root: Path) -> list[Path]:
    """What a killed process was building: nobody is, where the lock is held."""
    return list(root.glob(f"{_BUILDING}*"))


def _fill(job: _Job, folder: Path) -> Index:
    """Write a row a readable image to each array, plainly: on a full disk a memory map would kill the process."""
    examples = _Examples(job)
    outcome: dict[_Outcome, list[str]] = {"images": [], "unreadable": [], "gone": []}
    reasons: dict[str, str] = {}
    unfit: Counter[str] = Counter()
    with ExitStack() as opened:
        files = {name: opened.enter_context((folder / name).open("wb")) for name in job.arrays}
        _write_headers(files, len(job.cohort.items), job)
        for done, item in enumerate(job.cohort.items):
            job.tell(done)
            try:
                outcome[_write_rows(files, examples.of(item))].append(item.image)
            except UnfitImage as error:  # no quarantine: another study can take it
                outcome["unreadable"].append(item.image)
                unfit[str(error)] += 1
            except UnreadableFile as error:
                outcome["unreadable"].append(item.image)
                reasons[item.files[0]] = str(error)
        quarantine(job.site, reasons)
        for warning in examples.warnings():
            _log.warning("%s: %s", job.site.name, warning)
        for reason, count in unfit.items():
            _log.warning("%s: images that this study cannot take: %d; %s", job.site.name, count, reason)
        if not outcome["images"]:
            raise DataError(f"{job.site.name}: none of the cohort's images can be {_unusable(unfit)}")
        _write_headers(files, len(outcome["images"]), job)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    return Index(
        recipe=job.recipe.digest,
        content=job.cohort.content_digest,
        size=sum((folder / name).stat().st_size for name in files),
        images=tuple(outcome["images"]),
        patients=job.cohort.people,
        unreadable=tuple(outcome["unreadable"]),
        gone=tuple(outcome["gone"]),
    ).sealed()


def _unusable(unfit: Counter[str]) -> str:
    if not unfit:
        return "read now; check the data folder"
    return f"taken by this study: {unfit.most_common(1)[0][0]}"


class _Examples:
    """Opens items of a job, each as one row of each array."""

    def __init__(self, job: _Job) -> None:
        self._opener = opener(job.site, job.recipe, paths(job.site))
        self._task = job.study.study.task if TARGETS in job.arrays else None
        self._labels, self._shown = job.study.cohort.labels, shown_of(job.study.cohort.labels, job.site)
        self._outside, self._seen = 0, np.zeros(len(self._labels), np.bool_)

    def of(self, item: CohortItem) -> list[npt.NDArray[Any]] | None:
        """An item harmonised; None where its file went or changed. Raises UnreadableFile, UnfitImage."""
        if self._task is None:
            tensor = self._opener.tensor(item)
            return None if tensor is None else [tensor.astype("<f4", copy=False)]
        assert isinstance(self._opener, ImageOpener)
        boxes = self._task == "detection"
        found = self._opener.boxed(item) if boxes else self._opener.masked(item, self._shown)
        if found is None:
            return None
        tensor, truth = found
        if boxes:
            self._outside += len(item.boxes) - int(np.count_nonzero(truth[:, -1] >= 0))
        else:
            self._seen |= truth.reshape(len(truth), -1).any(axis=1)
        return [tensor.astype("<f4", copy=False), truth]

    def warnings(self) -> Iterator[str]:
        """What of the truth was not found where a network looks, for the site's own people."""
        if self._outside:
            yield f"{self._outside} findings lie outside of what the study's network sees of an image"
        if self._task in MASKED:
            for label, shown, seen in zip(self._labels, self._shown, self._seen, strict=True):
                if shown is not None and not seen:
                    yield f"no mask shows {label}: is its value under [masks] structures right?"


def _write_rows(files: Mapping[str, BinaryIO], rows: list[npt.NDArray[Any]] | None) -> _Outcome:
    """Add an example to the end of each array; says which list of the index it belongs to."""
    if rows is None:
        return "gone"
    for file, row in zip(files.values(), rows, strict=True):
        file.write(row.data)
    return "images"


def _write_headers(files: Mapping[str, BinaryIO], images: int, job: _Job) -> None:
    """The .npy headers; numpy pads them so that they are as long for fewer images as for more."""
    for name, file in files.items():
        row = job.arrays[name]
        file.seek(0)
        header = {
            "descr": np.lib.format.dtype_to_descr(row.dtype),
            "fortran_order": False,
            "shape": (images, *row.shape),
        }
        np.lib.format.write_array_header_1_0(file, header)


def _note(index: Index) -> str:
    counts = {"unreadable": len(index.unreadable), "gone since the run began": len(index.gone)}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
