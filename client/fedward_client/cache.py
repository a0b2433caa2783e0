"""A run's frozen cohort as tensors: decoded once, kept as one memory-mapped array, found again by the next round.

state/cache/<recipe digest>-<cohort content digest>/ holds images.npy (float32 [images, channels, *size], in the order
of the cohort's items) and index.json (which row is which image, and a digest over that). The folder appears whole under
its name or not at all; one that is torn or does not fit is built again. Labels and sides come from the cohort, so a
change of split decodes nothing. No name and no file in it holds an identifier.
"""

import errno
import hashlib
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from fedward_client.cache_index import FILE, Index, locked, purge, root_of
from fedward_client.catalog import paths, quarantine
from fedward_client.choosing import content_of
from fedward_client.cohort import Cohort, CohortItem, freeze, require, write_durably
from fedward_client.harmonize import Recipe, recipe
from fedward_client.intake.dicom import read_slices
from fedward_client.intake.files import read_volume
from fedward_client.intake.optout import opted_out
from fedward_client.site import Site
from fedward_client.split import SIDES, Side
from fedward_client.volume import Volume
from fedward_common.disk import sync
from fedward_common.errors import DataError, UnfitImage, UnreadableFile
from fedward_common.events import Event, Listener, ignore
from fedward_common.study import Input, StudySpec

_log = logging.getLogger(__name__)

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
    cohort_digest: str
    unreadable: int = 0  # images of the cohort whose file could not be decoded
    gone: int = 0  # images of the cohort whose file went or changed since the run began

    def has(self, label: int) -> npt.NDArray[np.bool_]:
        """Whether each image has a label (its index), as far as that is known."""
        found: npt.NDArray[np.bool_] = self.labels[:, label] == 1 if self.labels.ndim == 2 else self.labels == label
        return found

    def indices(self, side: Side) -> npt.NDArray[np.int64]:
        """The rows on one side, ascending."""
        return np.flatnonzero(self.sides == SIDES.index(side)).astype(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What a cache is built from, and where it goes."""

    site: Site
    cohort: Cohort
    recipe: Recipe
    listener: Listener

    @property
    def root(self) -> Path:
        return root_of(self.site)

    @property
    def folder(self) -> Path:
        return self.root / f"{self.recipe.digest}-{self.cohort.content_digest}"

    @property
    def bytes_needed(self) -> int:
        return bytes_of_cache(len(self.cohort.items), self.recipe.input)

    def tell(self, done: int, note: str = "") -> None:
        total = len(self.cohort.items)
        self.listener(Event(site=self.site.name, stage="cache", done=done, total=total, note=note))


def bytes_of_cache(images: int, section: Input) -> int:
    """What so many images of a study take on disk."""
    return images * prod(recipe(section).shape) * 4 + 4096


def load(site: Site, study: StudySpec, run: str, listener: Listener = ignore) -> SiteData:
    """The tensors of `run`'s frozen cohort, decoded at the first call and mapped from disk afterwards.

    A file that cannot be read, and one that went or changed since the cohort was frozen, is left out and counted. What
    any cache holds of patients who have opted out is removed first.
    Raises what `freeze` raises, and DataError when what is left is too little for the study or when the disk is full.
    """
    purge(site, opted_out(site))
    job = _Job(site=site, cohort=freeze(site, study, run, listener), recipe=recipe(study.input), listener=listener)
    job.root.mkdir(parents=True, exist_ok=True)
    with locked(job.root):
        index, images = _open(job) or _build(job)
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
        cohort_digest=job.cohort.digest,
        unreadable=len(index.unreadable),
        gone=len(index.gone),
    )


def _open(job: _Job) -> tuple[Index, Images] | None:
    """The cache as it lies on disk, None where there is none that is whole and fits."""
    try:
        index = Index.model_validate_json((job.folder / FILE).read_bytes())
        images: Images = np.load(job.folder / "images.npy", mmap_mode="r")
        size = (job.folder / "images.npy").stat().st_size
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError, EOFError):
        _log.warning("%s: a cache is torn, building it again", job.site.name)
        return None
    if not _fits(job, index, images, size):
        _log.warning("%s: a cache does not fit its cohort, building it again", job.site.name)
        return None
    return None if _came_back(job, index) else (index, images)


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
    gone, where = set(index.gone), paths(job.site)
    return any(_paths(item, where) for item in job.cohort.items if item.image in gone)


def _build(job: _Job) -> tuple[Index, Images]:
    """Decode everything beside the cache's place, then move it there."""
    for torn in (job.folder, *job.root.glob(".building-*")):  # nobody else is building: the lock is held
        shutil.rmtree(torn, ignore_errors=True)
    _check_free(job)
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=job.root))
    try:
        index = _fill(job, folder / "images.npy")
        write_durably(folder / FILE, index.model_dump_json().encode())
        folder.rename(job.folder)
        sync(job.root)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(folder, ignore_errors=True)  # before the free space is told
        raise _full(job) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return index, np.load(job.folder / "images.npy", mmap_mode="r")


def _check_free(job: _Job) -> None:
    if shutil.disk_usage(job.root).free < job.bytes_needed:
        raise _full(job)


def _full(job: _Job) -> DataError:
    free = shutil.disk_usage(job.root).free
    return DataError(
        f"{job.site.name}: the cache needs {_mib(job.bytes_needed)}, the disk of the state folder has {_mib(free)}; "
        "make room, or put the state folder on another disk"
    )


def _mib(size: int) -> str:
    """Whole MiB: to the byte, it would tell how many images there are."""
    return f"{-(-size // 2**20)} MiB"


def _fill(job: _Job, path: Path) -> Index:
    """Write one row a readable image. Plain writes: on a full disk they fail, a memory map would kill the process."""
    where = paths(job.site)
    outcome: dict[_Outcome, list[str]] = {"images": [], "unreadable": [], "gone": []}
    reasons: dict[str, str] = {}
    unfit: Counter[str] = Counter()
    with path.open("wb") as file:
        _write_header(file, len(job.cohort.items), job.recipe)
        for done, item in enumerate(job.cohort.items):
            job.tell(done)
            try:
                outcome[_write_row(file, _paths(item, where), job.recipe)].append(item.image)
            except UnfitImage as error:  # no quarantine: another study can take it
                outcome["unreadable"].append(item.image)
                unfit[str(error)] += 1
            except UnreadableFile as error:
                outcome["unreadable"].append(item.image)
                reasons[item.image] = str(error)
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


def _paths(item: CohortItem, where: Mapping[str, Path]) -> list[Path]:
    """Where an image's files are, none when one is not there or they are no longer those that were frozen."""
    paths = [where[key] for key in item.files if key in where]
    try:
        digests = [_digest(path) for path in paths]
    except OSError:
        return []
    whole = len(paths) == len(item.files) and content_of(digests) == item.content
    return paths if whole else []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _write_row(file: BinaryIO, paths: list[Path], recipe: Recipe) -> _Outcome:
    """Harmonise one image to the end of `file`; says which list of the index it belongs to. Raises UnreadableFile."""
    if not paths:
        return "gone"
    image = recipe.apply(_read(paths, recipe))
    file.write(image.astype("<f4", copy=False).data)
    return "images"


def _read(paths: list[Path], recipe: Recipe) -> Volume:
    """An image of its files: the slices of a volume, or one file, which must be a volume where one is wanted."""
    if len(paths) > 1:
        return read_slices(paths)
    return read_volume(paths[0], voi=recipe.voi, stack=recipe.is_3d)


def _write_header(file: BinaryIO, images: int, recipe: Recipe) -> None:
    """The .npy header; numpy pads it so that it is as long for fewer images as for more."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (images, *recipe.shape)}
    np.lib.format.write_array_header_1_0(file, header)


def _note(index: Index) -> str:
    counts = {"unreadable": len(index.unreadable), "gone since the run began": len(index.gone)}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
