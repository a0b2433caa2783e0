"""A run's frozen cohort as tensors: decoded once, kept as one memory-mapped array, found again by the next round.

state/cache/<recipe digest>-<cohort content digest>/ holds images.npy (float32 [images, channels, *size], in the order
of the cohort's items) and index.json (which row is which image, and a digest over that). The folder appears whole under
its name or not at all; one that is torn or does not fit is built again. Labels and sides come from the cohort, so a
change of split decodes nothing. No name and no file in it holds an identifier. What makes room: `cache_room`.
"""

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from fedward_client import cache_room
from fedward_client.cache_index import FILE, Index, locked, purge
from fedward_client.cache_room import IMAGES
from fedward_client.catalog import paths, quarantine
from fedward_client.cohort import Cohort, CohortItem, freeze, require
from fedward_client.intake.optout import opted_out
from fedward_client.opening import AnyRecipe, Opener, opener, recipe_of
from fedward_client.site import Site
from fedward_client.split import SIDES, Side, sides_in
from fedward_common.disk import sync, write_durably
from fedward_common.errors import DataError, UnfitImage, UnreadableFile
from fedward_common.events import Event, Listener, ignore
from fedward_common.study import AnyInput, Scale, StudySpec

_log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BUILDING = ".building-"

Images = npt.NDArray[np.float32]
_Outcome = Literal["images", "unreadable", "gone"]  # the lists of the index


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteData:
    """A cohort's tensors, one row an image: what training and evaluation see of a site."""

    images: Images  # [n, channels, *size], memory-mapped, read-only
    # [n], index into the study's labels; of several labels an image [n, labels]: 1, 0, or -1 where it is not known
    labels: npt.NDArray[np.int64]
    patients: npt.NDArray[np.int64]  # [n], index of the patient, 0..
    sides: npt.NDArray[np.int8]  # [n], index into SIDES
    folds: npt.NDArray[np.int16] | None = None  # [n], the fold that tests each, in a study with folds
    cohort_digest: str
    unreadable: int = 0  # images of the cohort whose file could not be decoded
    gone: int = 0  # images of the cohort whose file went or changed since the run began

    def has(self, label: int) -> npt.NDArray[np.bool_]:
        """Whether each image has a label (its index), as far as that is known."""
        found: npt.NDArray[np.bool_] = self.labels[:, label] == 1 if self.labels.ndim == 2 else self.labels == label
        return found

    def in_fold(self, fold: int | None, folds: int | None) -> "SiteData":
        """The same images on the sides that they have in a fold of so many; as they are where there is none."""
        if fold is None or folds is None or self.folds is None:
            return self
        return replace(self, sides=sides_in(fold, folds, self.folds))

    def indices(self, side: Side, *, unlabelled: bool = False) -> npt.NDArray[np.int64]:
        """The rows on one side, ascending: those with a label, or those without one too."""
        known = (self.labels >= 0).reshape(len(self.labels), -1).any(axis=1)
        return np.flatnonzero((self.sides == SIDES.index(side)) & (known | unlabelled)).astype(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What a cache is built from, and where it goes."""

    site: Site
    cohort: Cohort
    recipe: AnyRecipe
    study: str  # digest
    listener: Listener

    @property
    def root(self) -> Path:
        return cache_room.root_of(self.site)

    @property
    def folder(self) -> Path:
        return _folder(self.site, self.cohort, self.recipe)

    @property
    def bytes_needed(self) -> int:
        return _bytes(len(self.cohort.items), self.recipe)

    def tell(self, done: int, note: str = "") -> None:
        total = len(self.cohort.items)
        self.listener(Event(site=self.site.name, stage="cache", done=done, total=total, note=note))


def _folder(site: Site, cohort: Cohort, by: AnyRecipe) -> Path:
    return cache_room.root_of(site) / f"{by.digest}-{cohort.content_digest}"


def check_room(site: Site, study: StudySpec, cohort: Cohort) -> None:
    """Raise DataError where a cohort's tensors are not there and have no room; nothing is removed for them yet."""
    if not _folder(site, cohort, recipe_of(study.input, site.name)).exists():
        cache_room.plan(site, bytes_of_cache(len(cohort.items), study.input))


def bytes_of_cache(images: int, section: AnyInput) -> int:
    """What so many images of a study take on disk."""
    return _bytes(images, recipe_of(section, ""))


def _bytes(images: int, how: AnyRecipe) -> int:
    return images * prod(how.shape) * 4 + 4096


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
    job = _Job(site=site, cohort=cohort, recipe=how, study=study.digest, listener=listener)
    job.root.mkdir(parents=True, exist_ok=True)
    with locked(job.root), _room_told(job):
        index, images = _open(job) or _build(job)
        cache_room.use(job.folder, job.study)
    cohort = job.cohort.without(index.unreadable, "images that could not be read")
    cohort = cohort.without(index.gone, "images gone since the run began")
    if index.unreadable or index.gone:
        require(cohort, study, site)
    job.tell(len(job.cohort.items), _note(index))
    return _site_data(job, cohort, index, images)


def _site_data(job: _Job, left: Cohort, index: Index, images: Images) -> SiteData:
    items = left.items  # in the order of the rows: both are the frozen items less the same ones
    _, patients = np.unique([item.patient for item in items], return_inverse=True)
    return SiteData(
        images=images,
        labels=np.array([item.label for item in items], dtype=np.int64),
        patients=patients.astype(np.int64),
        sides=np.array([SIDES.index(item.side) for item in items], dtype=np.int8),
        folds=np.array([item.fold for item in items], dtype=np.int16) if job.cohort.folded else None,
        cohort_digest=job.cohort.digest,
        unreadable=len(index.unreadable),
        gone=len(index.gone),
    )


@contextmanager
def _room_told(job: _Job) -> Iterator[None]:
    """A disk that fills up in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise cache_room.full(job.site, job.bytes_needed, error) from None


def _open(job: _Job) -> tuple[Index, Images] | None:
    """The cache as it lies on disk, None where there is none that is whole and fits."""
    try:
        index = Index.model_validate_json((job.folder / FILE).read_bytes())
        images = _mapped(job.folder / IMAGES)
        size = (job.folder / IMAGES).stat().st_size
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError, EOFError):
        _log.warning("%s: a cache is torn, building it again", job.site.name)
        return None
    if not _fits(job, index, images, size):
        _log.warning("%s: a cache does not fit its cohort, building it again", job.site.name)
        return None
    return None if _came_back(job, index) else (index, images)


def _mapped(path: Path) -> Images:
    """An array, mapped from its file; whoever has it holds a lock on that. Raises ValueError for a torn one."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # until the mapping goes, which has a duplicate of the descriptor: flock(2)
        version = np.lib.format.read_magic(file)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        if version != (1, 0) or fortran_order or dtype != np.dtype("<f4"):
            raise ValueError("it is no array as it is written here")
        # as a plain array: numpy's own class for maps takes a fifteenth longer to give a batch
        return np.asarray(np.memmap(file, dtype=dtype, mode="r", offset=file.tell(), shape=shape))


def _fits(job: _Job, index: Index, images: Images, size: int) -> bool:
    missing = {*index.unreadable, *index.gone}
    expected = tuple(item.image for item in job.cohort.items if item.image not in missing)
    return (
        index.digest == index.computed()
        and (index.recipe, index.content) == (job.recipe.digest, job.cohort.content_digest)
        and (index.size, index.images, index.patients) == (size, expected, job.cohort.people)
        and images.dtype == np.float32
        and images.shape == (len(expected), *job.recipe.shape)
    )


def _came_back(job: _Job, index: Index) -> bool:
    """Whether a file that was gone is there again, a network share that was not mounted for example."""
    if not index.gone:
        return False
    gone, opening = set(index.gone), opener(job.site, job.recipe, paths(job.site))
    return any(opening.is_there(item) for item in job.cohort.items if item.image in gone)


def _build(job: _Job) -> tuple[Index, Images]:
    """Decode everything beside the cache's place, then move it there."""
    for torn in (job.folder, *unfinished(job.root)):
        shutil.rmtree(torn, ignore_errors=True)
    cache_room.make(job.site, job.bytes_needed)
    folder = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=job.root))
    try:
        index = _fill(job, folder / IMAGES)
        write_durably(folder / FILE, index.model_dump_json().encode())
        cache_room.use(folder, job.study)
        folder.rename(job.folder)
        sync(job.root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return index, _mapped(job.folder / IMAGES)


def unfinished(root: Path) -> list[Path]:
    """What a killed process was building: nobody is, where the lock is held."""
    return list(root.glob(f"{_BUILDING}*"))


def _fill(job: _Job, path: Path) -> Index:
    """Write one row a readable image. Plain writes: on a full disk they fail, a memory map would kill the process."""
    opening = opener(job.site, job.recipe, paths(job.site))
    outcome: dict[_Outcome, list[str]] = {"images": [], "unreadable": [], "gone": []}
    reasons: dict[str, str] = {}
    unfit: Counter[str] = Counter()
    with path.open("wb") as file:
        _write_header(file, len(job.cohort.items), job.recipe)
        for done, item in enumerate(job.cohort.items):
            job.tell(done)
            try:
                outcome[_write_row(file, item, opening)].append(item.image)
            except UnfitImage as error:  # no quarantine: another study can take it
                outcome["unreadable"].append(item.image)
                unfit[str(error)] += 1
            except UnreadableFile as error:
                outcome["unreadable"].append(item.image)
                reasons[item.files[0]] = str(error)
        quarantine(job.site, reasons)
        for reason, count in unfit.items():
            _log.warning("%s: images that this study cannot take: %d; %s", job.site.name, count, reason)
        if not outcome["images"]:
            raise DataError(f"{job.site.name}: none of the cohort's images can be {_unusable(unfit)}")
        file.seek(0)
        _write_header(file, len(outcome["images"]), job.recipe)
        file.flush()
        os.fsync(file.fileno())
    return Index(
        recipe=job.recipe.digest,
        content=job.cohort.content_digest,
        size=path.stat().st_size,
        images=tuple(outcome["images"]),
        patients=job.cohort.people,
        unreadable=tuple(outcome["unreadable"]),
        gone=tuple(outcome["gone"]),
    ).sealed()


def _unusable(unfit: Counter[str]) -> str:
    if not unfit:
        return "read now; check the data folder"
    return f"taken by this study: {unfit.most_common(1)[0][0]}"


def _write_row(file: BinaryIO, item: CohortItem, opening: Opener) -> _Outcome:
    """Harmonise one item to the end of `file`; says which list of the index it belongs to. Raises UnreadableFile."""
    tensor = opening.tensor(item)
    if tensor is None:
        return "gone"
    file.write(tensor.astype("<f4", copy=False).data)
    return "images"


def _write_header(file: BinaryIO, images: int, how: AnyRecipe) -> None:
    """The .npy header; numpy pads it so that it is as long for fewer images as for more."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (images, *how.shape)}
    np.lib.format.write_array_header_1_0(file, header)


def _note(index: Index) -> str:
    counts = {"unreadable": len(index.unreadable), "gone since the run began": len(index.gone)}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
