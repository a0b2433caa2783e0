"""What a trained model says of a folder or a file that a hospital has: read as its data are read in training.

Nothing stays behind and nothing is learned: the catalog is made in a folder that goes, and labels are not asked for.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward_client.catalog import Catalog, paths, scan
from fedward_client.catalog_rows import ImageRow, TableRow
from fedward_client.cohort import CohortItem
from fedward_client.cohort_choice import Offered, offered, units_of
from fedward_client.evaluation import BATCH, outputs
from fedward_client.evaluation_of_masks import LIKELY
from fedward_client.findings import Finding, findings_of
from fedward_client.gridded import Gridded, middle_of
from fedward_client.harmonize.grid import restored
from fedward_client.harmonize.recipe import Masks
from fedward_client.labelling import UNKNOWN
from fedward_client.opening import Images, Opener, opener, recipe_of
from fedward_client.predict_source import site_of
from fedward_client.registering import Registered, register
from fedward_client.scored import on_device
from fedward_client.site import Site
from fedward_client.training.detection import decoded
from fedward_client.training.device import Device, pick_device
from fedward_client.volume import Affine
from fedward_common import __version__
from fedward_common.errors import DataError, UnreadableFile, UsageError
from fedward_common.events import Event, Listener, ignore
from fedward_common.models import Detector
from fedward_common.models.trained import RESEARCH_USE, Trained
from fedward_common.sentences import joined
from fedward_common.study import Input, SeriesInput, StudySpec

GONE = "it changed while it was read"

Place = tuple[str, int]  # a file below the input, and the number of a row in it; 0 for the whole file
Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One patient's, or of masks and findings one image's; or a file or row without one, with the reason.

    `place` is the first file and row.
    """

    place: Place
    examples: int = 0  # images, windows or rows
    scores: tuple[float, ...] = ()  # `outputs`, the mean over the examples; () where there is none, as of an image
    findings: tuple[Finding, ...] = ()  # of a detector
    sizes: tuple[float, ...] = ()  # of the structures in an image, in `unit`
    unit: str = ""  # "ml", of a 2-D study "mm2", or "voxels" of an image that does not say where it lies
    fit: tuple[float, ...] = ()  # of a registration: how unlike the images are before and after, percent folded
    note: str = ""  # what was not looked at or left out, and why
    files: tuple[Path, ...] = ()  # that it is of


Keep = Callable[[Prediction, Masks, Affine | None], None]  # an image's masks [structures, frames, rows, columns]


@dataclass(frozen=True, slots=True)
class Onto:
    """The file or folder of the image onto which a model that registers brings all others; what takes these."""

    source: Path
    keep: Callable[[Prediction, Registered], None] = lambda _, __: None


def predict(
    source: Path,
    about: Trained,
    model: nn.Module,
    listener: Listener = ignore,
    *,
    keep: Keep | None = None,
    onto: Onto | None = None,
) -> list[Prediction]:
    """What `model` says of each patient in a folder or a file, in the order of the files.

    The masks of a model that finds structures go to `keep`, image by image; one that registers needs `onto`. Who is on
    the opt-out list is left out. Raises SettingsError for a folder's settings, UsageError for a part of one and for an
    `onto` that is not one image, DataError where nothing in it is what the study takes, or its features cannot be
    brought to the study's scale.
    """
    study, device = about.study.model_copy(update={"input": about.input}), pick_device()
    device.place(model, len(study.input.size))
    fixed = None if onto is None else _only(onto.source, study, model, device)
    with _opened(source, study, model, device, listener) as (there, patients, refused):
        found = [Prediction(place=place, note=reason) for place, reason in refused.items()]
        for done, rows in enumerate(patients):
            listener(Event(site=there.site.name, stage="evaluate", done=done, total=len(patients)))
            match study.study.task:
                case "segmentation":
                    found += there.segmented(rows, keep)
                case "registration":
                    assert onto is not None
                    assert fixed is not None
                    found += there.registered(rows, fixed, onto)
                case "detection":
                    found += there.detected(rows)
                case _:
                    found += there.scored(rows)
    return sorted(found, key=lambda each: each.place)


def _only(source: Path, study: StudySpec, model: nn.Module, device: Device) -> Gridded:
    """The one image that a file or a folder holds, be it a part of a hospital's folder."""
    try:
        with _opened(source, study, model, device, ignore, part=True) as (there, patients, refused):
            reading = _Reading(refused=refused)
            images = list(islice((image for rows in patients for _, image in there.gridded(rows, reading)), 2))
    except DataError as error:
        raise UsageError(f"{source} has no image to bring others onto: {error}") from None
    if len(images) == 1:
        if images[0].sheared:
            raise UsageError(
                f"{source} has axes that are not at right angles, as CT of a tilted gantry has, and ITK takes no field "
                "on those: resample it first, or give another --onto"
            )
        return images[0]
    why = "; ".join(sorted({*reading.refused.values(), reading.note} - {""}))
    told = "it holds more than one" if images else f"none of its files can be taken: {why}"
    raise UsageError(f"{source} is not one image to bring others onto, {told}: give another --onto")


@contextmanager
def _opened(
    source: Path, study: StudySpec, model: nn.Module, device: Device, listener: Listener, *, part: bool = False
) -> Iterator[tuple["_Model", list[list[Offered]], dict[Place, str]]]:
    """A model before the patients of a folder or a file, these, and what cannot be read, with the reason.

    A `part` of a hospital's folder is taken as a single file is.
    """
    with TemporaryDirectory(prefix="fedward-") as scratch:
        site = site_of(source.resolve(), Path(scratch), study.cohort.modality or "", part=part)
        scan(site, listener)
        files = paths(site)
        where = {key: path.relative_to(site.data).as_posix() for key, path in files.items()}
        with Catalog.open(site) as catalog:
            there = sorted(offered(catalog, study), key=lambda row: _place(row, where))
            refused = {_refused_place(key, where): reason for key, reason in catalog.quarantine().items()}
            links = "" if there or refused else catalog.counts().passed_by
        units_of((), study, site, Counter())  # tells of a missing map of columns
        if not there and not refused:
            raise DataError(
                f'nothing in the input is what the study takes, which is [input] kind = "{study.input.kind}", or its '
                "patients are on the opt-out list" + (f"; {links}" if links else "")
            )
        theirs = dict.fromkeys(files, source.resolve()) if source.is_file() else files  # a single file is a copy
        opened = opener(site, recipe_of(study.input, site.name), files)
        yield _Model(site, study, model, device, where, theirs, opened), _by_patient(there), refused


def preface(about: Trained) -> Iterator[str]:
    """What must be said with every prediction: sentences, and which model it is."""
    yield RESEARCH_USE
    yield f"Model {about.model_sha256} of the study {about.study.study.id}, digest {about.study.digest}"
    yield f"Written by Fedward {__version__}"
    for label, threshold in about.thresholds.items():
        yield f"{label} is called from a probability of {threshold!r} on, chosen on validation patients"
    if about.study.study.task == "detection":
        yield "score orders findings, the more certain first: it is no probability, and most with a low score are none"
    if about.study.study.task == "registration":
        yield (
            "unlike is 1 less the squared local correlation with the image that others are brought onto: 0 is alike; "
            "a place where voxels fold has no one counterpart"
        )
    if about.study.study.task == "survival":
        yield (
            "log_risk is the logarithm of the hazard relative to other patients, the higher the sooner is "
            f"{about.study.cohort.positive} to be expected: it is no probability and no time"
        )
    yield from about.limits or ("The model came without a card: ask who trained it for its limits.",)


def _place(row: Offered, where: dict[str, str]) -> Place:
    return (where[row.file], row.number) if isinstance(row, TableRow) else (where[row.key], 0)


def _refused_place(key: str, where: dict[str, str]) -> Place:
    """Of a file, or of a row of a table, whose key is the file's and a number."""
    file, _, number = key.partition("-")
    return where[file], int(number or 0)


def _voxel(affine: Affine | None, dims: int) -> tuple[float, str]:
    """How large a voxel of an image is, and in what unit."""
    if affine is None:
        return 1.0, "voxels"
    column, row, _ = axes = affine[:3, :3].T
    if dims == 2:
        return float(np.linalg.norm(np.cross(column, row))), "mm2"
    return float(abs(np.linalg.det(axes))) / 1000, "ml"


def _by_patient(there: list[Offered]) -> list[list[Offered]]:
    found: dict[str, list[Offered]] = {}
    for row in there:
        found.setdefault(row.patient, []).append(row)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class _Reading:
    """What of a patient was read, of how many `frames`, and what was not, with the reason."""

    read: dict[Path, None] = field(default_factory=dict)
    frames: set[int] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)
    refused: dict[Place, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """What the study does not take, "" where it takes all."""
        counts = "; ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()) if count)
        return counts and f"left out: {counts}"

    def rest(self, place: Place, *, told: bool) -> Iterator[Prediction]:
        """What has no answer: the patient at `place`, unless one of theirs was `told`; unreadable files."""
        if not told and (self.note or not self.refused):
            yield Prediction(place=place, note=self.note)
        for where, reason in self.refused.items():
            yield Prediction(place=where, note=reason)


@dataclass(frozen=True, slots=True)
class _Model:
    """A model before a folder's patients, one after the other."""

    site: Site
    study: StudySpec
    model: nn.Module
    device: Device
    where: dict[str, str]
    files: dict[str, Path]
    opener: Opener

    def scored(self, rows: list[Offered]) -> Iterator[Prediction]:
        """The scores of a patient, and what could not be read."""
        reading, place = _Reading(), _place(rows[0], self.where)
        tensors = (tensor for _, tensor in self._read(rows, self.opener.tensor, reading))
        scores = list[npt.NDArray[np.float64]]()
        while batch := list(islice(tensors, BATCH)):
            scores.append(outputs(self.model, np.stack(batch), study=self.study, device=self.device))
        if scores:
            scored = np.concatenate(scores)
            mean = tuple(scored.mean(axis=0).tolist())
            files, seen = tuple(reading.read), map(middle_of, sorted(reading.frames))
            note = joined(*seen, reading.note)
            yield Prediction(place=place, examples=len(scored), scores=mean, note=note, files=files)
        yield from reading.rest(place, told=bool(scores))

    def segmented(self, rows: list[Offered], keep: Keep | None) -> Iterator[Prediction]:
        """Each image of a patient, whose masks go to `keep`, and what could not be read."""

        def answer(found: Prediction, image: Gridded) -> Prediction:
            likely = self._output(image).sigmoid()[0].numpy()
            masks = restored(likely, image.back, image.volume.pixels[:, 0].shape) >= LIKELY
            each, unit = _voxel(image.volume.affine, len(self.study.input.size))
            found = replace(found, sizes=tuple((masks.sum(axis=(1, 2, 3)) * each).tolist()), unit=unit)
            if keep is not None:
                keep(found, masks.astype(np.uint8), image.volume.affine)
            return found

        return self._each(rows, answer)

    def registered(self, rows: list[Offered], fixed: Gridded, onto: Onto) -> Iterator[Prediction]:
        """Each image of a patient, brought onto `fixed` and given to `onto`, and what could not be read."""

        def answer(found: Prediction, image: Gridded) -> Prediction:
            moved = register(self.model, image, fixed, self.device)
            found = replace(found, fit=(*moved.unlike, 100 * moved.folded))
            onto.keep(found, moved)
            return found

        return self._each(rows, answer)

    def detected(self, rows: list[Offered]) -> Iterator[Prediction]:
        """Each image of a patient with its findings, and what could not be read."""
        labels = self.study.cohort.labels

        def answer(found: Prediction, image: Gridded) -> Prediction:
            assert isinstance(self.model, Detector)  # none other is built
            [boxes] = decoded(self._output(image), self.model.anchors, self.study.input.size)
            return replace(found, findings=findings_of(boxes, image.back, image.volume, labels))

        return self._each(rows, answer)

    def _each(self, rows: list[Offered], answer: Callable[[Prediction, Gridded], Prediction]) -> Iterator[Prediction]:
        """The answer to each image of a patient, and what could not be read or answered."""
        reading, count = _Reading(), 0
        for files, image in self.gridded(rows, reading):
            theirs = tuple(self.files[key] for key in files)
            note = joined(image.unseen, "" if count else reading.note)  # a patient's, by the first image
            found = Prediction(place=self._place_of(files[0]), examples=1, note=note, files=theirs)
            try:
                found = answer(found, image)
            except UnreadableFile as error:
                reading.refused[found.place] = str(error)
                continue
            count += 1
            yield found
        yield from reading.rest(_place(rows[0], self.where), told=count > 0)

    def gridded(self, rows: list[Offered], reading: _Reading) -> Iterator[tuple[tuple[str, ...], Gridded]]:
        """Each image of a patient and its files; what could not be read goes to `reading`."""
        assert isinstance(self.opener, Images)
        images = self.opener

        def opened(item: CohortItem) -> Gridded | None:
            volume = images.volume(item)
            return None if volume is None else Gridded(*images.recipe.gridded(volume), volume)

        return self._read(rows, opened, reading)

    def _output(self, image: Gridded) -> torch.Tensor:
        """The network's [1, …] of an image, float32 in memory."""
        with torch.inference_mode():
            found: torch.Tensor = self.model(on_device(np.stack([image.tensor]), self.device)).cpu()
        return found

    def _place_of(self, file: str, row: int = 0) -> Place:
        return self.where[file], row

    def _read(
        self, rows: list[Offered], opened: Callable[[CohortItem], Read | None], reading: _Reading
    ) -> Iterator[tuple[tuple[str, ...], Read]]:
        """What of a patient can be opened, with its files."""
        flat = len(self.study.input.size) == 2
        frames = {row.key: row.frames for row in rows if isinstance(row, ImageRow) and flat}
        for unit in units_of(rows, self.study, self.site, reading.left_out):
            place = self._place_of(unit.files[0], 0 if isinstance(self.study.input, Input | SeriesInput) else unit.at)
            item = CohortItem(
                image=unit.key,
                files=unit.files,
                at=unit.at,
                patient=unit.patient,
                label=UNKNOWN,
                side="test",
                content=unit.content,
            )
            try:
                found = opened(item)
            except UnreadableFile as error:
                reading.refused[place] = str(error)
                continue
            if found is None:
                reading.refused[place] = GONE
            else:
                reading.frames.add(frames.get(unit.key, 1))
                reading.read.update(dict.fromkeys(self.files[key] for key in unit.files))
                yield unit.files, found
