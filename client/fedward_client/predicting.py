"""What a trained model says of a folder or a file that a hospital has: read as its data are read in training.

Nothing stays behind and nothing is learned: the catalog is made in a folder that goes, and labels are not asked for.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from torch import nn

from fedward_client.catalog import Catalog, TableRow, paths, scan
from fedward_client.choosing import Unit
from fedward_client.cohort import CohortItem, Offered, offered, units_of
from fedward_client.evaluation import BATCH, outputs
from fedward_client.intake.bids_root import is_bids
from fedward_client.labelling import UNKNOWN
from fedward_client.opening import Opener, Tensor, opener, recipe_of
from fedward_client.site import KEY, KEY_BYTES, SETTINGS, STATE, Site
from fedward_client.training.device import Device, pick_device
from fedward_common import __version__
from fedward_common.errors import DataError, UnreadableFile, UsageError
from fedward_common.events import Event, Listener, ignore
from fedward_common.models.trained import RESEARCH_USE, Trained
from fedward_common.study import Input, SeriesInput, StudySpec

EACH_FILE = "(.+)"  # a file that does not say whose it is, in a folder without settings, is a patient's of its own
GONE = "it changed while it was read"
PREDICTED = ("classification", "survival")  # tasks whose models give numbers

Place = tuple[str, int]  # a file below the input, and the number of a row in it; 0 for the whole file


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One patient's, or a file or row without one, with the reason. `place` is the patient's first file and row."""

    place: Place
    examples: int = 0  # images, windows or rows
    scores: tuple[float, ...] = ()  # `outputs`, the mean over the examples; () where there is none
    note: str = ""  # what was left out, and why
    files: tuple[Path, ...] = ()  # that the scores are of


def predict(source: Path, about: Trained, model: nn.Module, listener: Listener = ignore) -> list[Prediction]:
    """What `model` says of each patient in a folder or a file, in the order of the files.

    Who is on the opt-out list is left out. Raises SettingsError for a folder's settings, UsageError for a part of one
    and for a model that gives images, DataError where nothing in the folder is what the study takes, or its features
    cannot be brought to the study's scale.
    """
    if about.study.study.task not in PREDICTED:
        raise UsageError(
            f'the model is of [study] task = "{about.study.study.task}", and `fedward model predict` knows '
            f"{' and '.join(PREDICTED)} only: use it as ONNX, from `fedward model export`"
        )
    study, device = about.study.model_copy(update={"input": about.input}), pick_device()
    device.place(model, len(study.input.size))
    with TemporaryDirectory(prefix="fedward-") as scratch:
        site = _site(source.resolve(), Path(scratch), study.cohort.modality or "")
        scan(site, listener)
        files = paths(site)
        where = {key: path.relative_to(site.data).as_posix() for key, path in files.items()}
        with Catalog.open(site) as catalog:
            there = sorted(offered(catalog, study), key=lambda row: _place(row, where))
            refused = {_refused_place(key, where): reason for key, reason in catalog.quarantine().items()}
        units_of((), study, site, Counter())  # tells of a missing map of columns
        if not there and not refused:
            raise DataError(
                f'nothing in the input is what the study takes, which is [input] kind = "{study.input.kind}", or its '
                "patients are on the opt-out list"
            )
        theirs = dict.fromkeys(files, source.resolve()) if source.is_file() else files  # a single file is a copy
        opened = opener(site, recipe_of(study.input, site.name), files)
        scorer = _Scorer(site, study, model, device, where, theirs, opened)
        found = [Prediction(place=place, note=reason) for place, reason in refused.items()]
        patients = _by_patient(there)
        for done, rows in enumerate(patients):
            listener(Event(site=site.name, stage="evaluate", done=done, total=len(patients)))
            found += scorer.patient(rows)
    return sorted(found, key=lambda each: each.place)


def preface(about: Trained) -> Iterator[str]:
    """What must be said with every prediction: sentences, and which model it is."""
    yield RESEARCH_USE
    yield f"Model {about.model_sha256} of the study {about.study.study.id}, digest {about.study.digest}"
    yield f"Written by Fedward {__version__}"
    for label, threshold in about.thresholds.items():
        yield f"{label} is called from a probability of {threshold!r} on, chosen on validation patients"
    if about.study.study.task == "survival":
        yield (
            "log_risk is the logarithm of the hazard, relative to other patients: the higher, the sooner is "
            f"{about.study.cohort.positive} to be expected. It is no probability and no time"
        )
    yield from about.limits or ("The model came without a card: ask who trained it for its limits.",)


def _site(source: Path, scratch: Path, modality: str) -> Site:
    """The input as a hospital's folder, under the settings of the hospital that it lies in, where it lies in one.

    Without, files that do not say what they are are taken as what the study asks for. Raises UsageError for a part of
    a hospital's folder: what its files mean, and who is on its opt-out list, is said of the whole.
    """
    folder = source if source.is_dir() else source.parent
    home = next((each for each in (folder, *folder.parents) if (each / SETTINGS).is_file() or is_bids(each)), None)
    if home is not None and source.is_dir() and source != home:
        raise UsageError(f"{source} is a part of the hospital's folder {home}: give that folder, or a single file")
    copies = scratch / "input"
    copies.mkdir()
    state = scratch / STATE
    state.mkdir(mode=0o700)
    (state / KEY).write_bytes(bytes(KEY_BYTES))  # no pseudonym leaves; a fixed key gives one order every time
    site = Site.open(home or copies, state=state)
    if home is None:
        site = replace(site, data=folder, patient_pattern=EACH_FILE, modality=modality)
    if source.is_file():
        copy = copies / source.relative_to(site.data if source.is_relative_to(site.data) else folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        site = replace(site, data=copies)
    return replace(site, threads=1)  # other processes would open the folder anew


def _place(row: Offered, where: dict[str, str]) -> Place:
    return (where[row.file], row.number) if isinstance(row, TableRow) else (where[row.key], 0)


def _refused_place(key: str, where: dict[str, str]) -> Place:
    """Of a file, or of a row of a table, whose key is the file's and a number."""
    file, _, number = key.partition("-")
    return where[file], int(number or 0)


def _by_patient(there: list[Offered]) -> list[list[Offered]]:
    found: dict[str, list[Offered]] = {}
    for row in there:
        found.setdefault(row.patient, []).append(row)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Scores patients one after the other."""

    site: Site
    study: StudySpec
    model: nn.Module
    device: Device
    where: dict[str, str]
    files: dict[str, Path]
    opener: Opener

    def patient(self, rows: list[Offered]) -> Iterator[Prediction]:
        """What the model says of a patient, and what could not be read."""
        left_out: Counter[str] = Counter()
        refused: dict[Place, str] = {}
        read: dict[Path, None] = {}
        tensors = self._tensors(rows, left_out, refused, read)
        scores = list[npt.NDArray[np.float64]]()
        while batch := list(islice(tensors, BATCH)):
            scores.append(outputs(self.model, np.stack(batch), study=self.study, device=self.device))
        note = "; ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()) if count)
        if scores:
            scored = np.concatenate(scores)
            yield Prediction(
                place=_place(rows[0], self.where),
                examples=len(scored),
                scores=tuple(scored.mean(axis=0).tolist()),
                note=note,
                files=tuple(read),
            )
        elif not refused:
            yield Prediction(place=_place(rows[0], self.where), note=f"left out: {note}")
        for place, reason in refused.items():
            yield Prediction(place=place, note=reason)

    def _row(self, unit: Unit) -> int:
        return 0 if isinstance(self.study.input, Input | SeriesInput) else unit.at

    def _tensors(
        self, rows: list[Offered], left_out: Counter[str], refused: dict[Place, str], read: dict[Path, None]
    ) -> Iterator[Tensor]:
        for unit in units_of(rows, self.study, self.site, left_out):
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
                tensor = self.opener.tensor(item)
            except UnreadableFile as error:
                refused[self.where[unit.files[0]], self._row(unit)] = str(error)
                continue
            if tensor is None:
                refused[self.where[unit.files[0]], self._row(unit)] = GONE
            else:
                read.update(dict.fromkeys(self.files[key] for key in unit.files))
                yield tensor
