"""The four limits of the field, each answered by ways that are measured beside one another on public data.

All train one small network for one budget, and test it on patients of a hospital that took no part in training. A
hospital's patients, and which of their labels are known, are drawn once; seeds draw validation patients, first weights
and the order of training.
"""

import csv
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from fedward_common.streams import stream
from fedward_simulations.studies import Trial, breast_ultrasound, hospital_folder
from fedward_simulations.studies.lung_malignancy import MAKERS, nodules

TESTED = 150  # patients, at most, of the hospital that takes no part in training

_SEED = 20261129
_FOLDERS = '[data]\npatient = "^([^/]+)/"\n'
_FILES = f'{_FOLDERS}modality = "CT"\n[labels]\npath = "file"\n'
_ONE_LABEL = f'{_FILES}label = "malignant"\nwords = {{ "0" = "benign", "1" = "malignant" }}\n'
FINDINGS = ("malignant", "lobulated", "spiculated")
_SEVERAL = f"{_FILES}findings = {list(FINDINGS)}\n"
_SKIN_LABELS = {"nv": "naevus", "mel": "melanoma"}  # the two that every source has many of


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """What stands in the way, and the trials of each way around it."""

    name: str  # of its figure
    title: str
    question: str
    axis: str
    ways: Mapping[str, Mapping[str, Trial]]  # by way and place on the axis; the others are held against the first,
    beside: Mapping[str, str] = field(default_factory=dict)  # or against what stands here
    before: tuple[Trial, ...] = ()  # whose models others begin with
    joined: bool = False  # places on the axis are amounts
    note: str = ""  # what a reader must know, and what this version does not have

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Those to run, in this order."""
        return (*self.before, *(trial for way in self.ways.values() for trial in way.values()))


# Hospitals -----------------------------------------------------------------------------------------------------------


def write_nodules(
    source: Path,
    hospitals: Path,
    *,
    settings: str = _ONE_LABEL,
    most: int | None = None,
    known: float = 1.0,
    unknown: str = "",
    others: bool = False,
    unlabelled: str = "",
    coarse: bool = False,
) -> None:
    """A hospital for each maker of scanners, GE's tested; files say how large a pixel is.

    Those that train have `most` patients at most, and know each finding of an image with probability `known`: else
    `unknown` is written. With `others`, the rest of their patients are there without a label; the hospital `unlabelled`
    has no label at all. With `coarse`, GE's images have half the rows and columns.
    """
    for maker, hospital in MAKERS.items():
        tested = hospital == "ge"
        folder = hospital_folder(hospitals, hospital, settings)
        own = [(row, image) for row, image in nodules(source, maker) if row["malignancy"] != "3"]
        patients = _drawn({row["patient"] for row, _ in own}, TESTED if tested else most)
        taken = [(row, image) for row, image in own if row["patient"] in patients or (others and not tested)]
        rows = [f"file,{','.join(FINDINGS)}\n"]
        for row, image in taken:
            path = f"{row['patient']}/{row['noduleID']}.nii"
            (folder / path).parent.mkdir(exist_ok=True)
            size = float(row["PixelSpacing"])
            values = image
            if tested and coarse:
                values, size = image[:70, :70].reshape(35, 2, 35, 2).mean(axis=(1, 3)), 2 * size
            columns = values.T[..., None].astype(np.int16)
            nibabel.Nifti1Image(columns, np.diag([-size, -size, 1, 1])).to_filename(folder / path)
            found = {
                "malignant": int(row["malignancy"]) > 3,
                "lobulated": int(row["lobulation"]) > 1,
                "spiculated": int(row["spiculation"]) > 1,
            }
            labelled = row["patient"] in patients and hospital != unlabelled
            share = 1.0 if tested else known if labelled else 0.0
            told = (
                str(int(value)) if stream(_SEED, "known", path, name).random() < share else unknown
                for name, value in found.items()
            )
            rows.append(f"{path},{','.join(told)}\n")
        (folder / "labels.csv").write_text("".join(rows))


def write_skin(source: Path, hospitals: Path) -> None:
    """A hospital for each source of HAM10000, of which a private practice's patients are tested; each lesion is one.

    Other lesions than naevi and melanomas are left out: most of one source are at no other.
    """
    with (source / "labels.csv").open(newline="") as file:
        told = (row for row in csv.DictReader(file) if row["dx"] in _SKIN_LABELS)
        images = sorted(told, key=lambda row: row["source"])
    for name, group in groupby(images, key=lambda row: row["source"]):
        own = list(group)
        folder = hospital_folder(hospitals, name.replace("_", "-"), _FOLDERS)
        lesions = _drawn({row["lesion_id"] for row in own}, TESTED if name == "rosendahl" else None)
        labels = {row["lesion_id"]: _SKIN_LABELS[row["dx"]] for row in own if row["lesion_id"] in lesions}
        for row in (each for each in own if each["lesion_id"] in lesions):
            (folder / row["lesion_id"]).mkdir(exist_ok=True)
            shutil.copy(source / "images" / f"{row['image_id']}.jpg", folder / row["lesion_id"])
        rows = (f"{lesion},{label}\n" for lesion, label in labels.items())
        (folder / "labels.csv").write_text("".join(["patient_id,label\n", *rows]))


def _drawn(patients: set[str], most: int | None) -> set[str]:
    """Of `patients`, `most` at most; fewer of them are among more."""
    order = stream(_SEED, "patients").permutation(sorted(patients))
    return set(order[:most].tolist())


# Trials --------------------------------------------------------------------------------------------------------------

_BUDGET: dict[str, Any] = {
    "rounds": 4,
    "local_epochs": None,
    "local_steps": 50,
    "batch_size": 16,
    "optimizer": {"name": "adamw", "lr": 0.002},
    "augmentation": [],
}
_SIZE = {"size": [32, 32]}
_AUTOENCODER = {"name": "sparse-autoencoder", "options": {"hidden": [128], "dropout": 0.3}}
_CNN = {"name": "small-cnn"}

_LUNG = Trial(
    name="",
    template="lung-malignancy",
    source="lidc_nodules",
    write=write_nodules,
    data="LIDC-IDRI nodules, a site for each maker (doi:10.1118/1.3528204)",
    caveat="Labels are single radiologists' ratings; nodules rated 3 for malignancy are left out.",
    pooled=False,
    changes={
        "split": {"kind": "leave-site-out", "site": "ge"},
        "cohort": {"min_patients": 5},
        "input": _SIZE,
        "model": _CNN,
        "training": _BUDGET,
    },
)
_SKIN = replace(
    _LUNG,
    template="image-classification",
    source="ham10000_3sources",
    write=write_skin,
    data="HAM10000, melanomas and naevi, a site for each source (doi:10.1038/sdata.2018.161)",
    caveat="Lesions stand for patients, who were never told apart.",
    changes={
        **_LUNG.changes,
        "split": {"kind": "leave-site-out", "site": "rosendahl"},
        "cohort": {"labels": ["naevus", "melanoma"], "positive": "melanoma"},
        "input": {**_SIZE, "channels": 3},
    },
)


def _arm(trial: Trial, *names: str, changes: Mapping[str, Any] | None = None, **writing: Any) -> Trial:
    """The trial under another name, with more changes; `writing` goes to the writer of its hospitals."""
    merged = dict(trial.changes)
    for section, more in (changes or {}).items():
        merged[section] = more if section == "phases" else {**merged.get(section, {}), **more}
    write = partial(trial.write, **writing) if writing else trial.write
    return replace(trial, name="/".join(("limits", *names)), write=write, changes=merged)


_ULTRASOUND = replace(
    _LUNG,
    name="limits/ultrasound",
    template="breast-ultrasound",
    source="",
    write=partial(breast_ultrasound.deal, names=("north", "south")),
    data=f"{breast_ultrasound.DATA}, dealt out to two sites",
    caveat=breast_ultrasound.CAVEAT,
    changes={
        "input": _SIZE,
        "model": _CNN,
        "training": {**_BUDGET, "rounds": 8, "augmentation": ["flip", "affine"]},
        "strategy": {"min_sites": 2},
    },
)


_WITHOUT_LABELS: dict[str, dict[str, Any]] = {
    "convolutional": {},
    "with pseudo-labels": {"cohort": {"unlabelled": True}, "training": {"pseudo_labels_after": 2}},
    "autoencoder": {"model": _AUTOENCODER},
    "autoencoder, first on all without labels": {
        "model": _AUTOENCODER,
        "cohort": {"unlabelled": True},
        "phases": [{"rounds": 4, "local_epochs": None, "local_steps": 50, "optimizer": {"lr": 0.002}}],
    },
}
_BESIDE = {"autoencoder, first on all without labels": "autoencoder"}


def _few() -> Limit:
    ways: dict[str, dict[str, Any]] = {
        "convolutional": {},
        "with augmentation": {"training": {"augmentation": ["flip", "affine", "contrast"]}},
        "begun with an ultrasound model": {"model": {"start": {"file": f"{_ULTRASOUND.name}/model.safetensors"}}},
        **_WITHOUT_LABELS,
    }
    places = {"20": 20, "40": 40, "all": None}
    return Limit(
        name="few-images",
        title="Too few images",
        question="Do augmentation, a model of another study or images without labels help where patients are few?",
        axis="labelled patients of a hospital, at most",
        ways={
            way: {
                place: _arm(_LUNG, "few-images", way, place, changes=changes, most=most, others="cohort" in changes)
                for place, most in places.items()
            }
            for way, changes in ways.items()
        },
        beside=_BESIDE,
        before=(_ULTRASOUND,),
        joined=True,
        note="What is trained with pseudo-labels, or on all without labels, sees the images of every patient of a "
        "hospital that trains.",
    )


_FEW = _few()


def _missing() -> Limit:
    known = {way: _FEW.ways[way]["all"] for way in _WITHOUT_LABELS}
    known["with pseudo-labels"] = known["convolutional"]  # where all labels are known there are none

    def withheld(way: str, changes: Mapping[str, Any]) -> Trial:
        alone = {**changes, "strategy": {"min_sites": 1}}  # Siemens, where Philips cannot train
        return _arm(_LUNG, "missing-labels", way, "withheld", changes=alone, unlabelled="philips")

    return Limit(
        name="missing-labels",
        title="Labels missing or partial: a hospital that has none",
        question="One of the two hospitals that train has images and no label: do they help where it cannot train?",
        axis="labels of Philips' patients",
        ways={
            way: {"known": known[way], "withheld": withheld(way, changes)} for way, changes in _WITHOUT_LABELS.items()
        },
        beside=_BESIDE,
        note="Withheld, the first and the third way are of Siemens' patients alone.",
    )


def _partial() -> Limit:
    study = {"cohort": {"labels": list(FINDINGS), "positive": None, "multi_label": True}}
    whole = _arm(_LUNG, "partial-labels", "all", changes=study, settings=_SEVERAL)

    def way(name: str, unknown: str) -> dict[str, Trial]:
        parts = {"half": 0.5, "a fifth": 0.2}
        return {"all": whole} | {
            place: _arm(whole, "partial-labels", name, place, known=known, unknown=unknown)
            for place, known in parts.items()
        }

    return Limit(
        name="partial-labels",
        title="Labels missing or partial: findings that are known of some images",
        question="Three findings, known of some images only: is the unknown left out of the loss, or taken for absent?",
        axis="labels that are known",
        ways={"unknown taken for absent": way("absent", "0"), "unknown left out of the loss": way("masked", "")},
        joined=True,
        note="Where an image may have several labels there are no pseudo-labels.",
    )


def _standard() -> Limit:
    def way(name: str, lung: Mapping[str, Any], skin: Mapping[str, Any]) -> dict[str, Trial]:
        return {
            "nodules, by maker": _arm(_LUNG, "no-standard", name, "nodules", changes={"input": lung}),
            "skin, by source": _arm(_SKIN, "no-standard", name, "skin", changes={"input": skin}),
        }

    named = {name: {"intensity": name} for name in ("percentile", "zscore", "landmarks")}
    return Limit(
        name="no-standard",
        title="No acquisition standard",
        question="Does it help to make grey values and colours of all scanners alike?",
        axis="collection",
        ways={
            "as stored": way(
                "stored",
                {"intensity": "window", "window": [700.0, 1400.0]},
                {"intensity": "percentile", "percentiles": [0.0, 100.0]},
            ),
            **{name: way(name, changes, changes) for name, changes in named.items()},
        },
        note="Colours have no window: as stored, theirs go from an image's least value to its greatest.",
    )


def _resolution() -> Limit:
    def way(name: str, section: Mapping[str, Any]) -> dict[str, Trial]:
        return {
            place: _arm(_LUNG, "low-resolution", name, place, changes={"input": section}, coarse=coarse)
            for place, coarse in {"full": False, "half": True}.items()
        }

    return Limit(
        name="low-resolution",
        title="Low resolution",
        question="The tested hospital has half the rows and columns: does one spacing for all make up for it?",
        axis="resolution of the tested hospital",
        ways={
            "stretched to 64 x 64 pixels": way("stretched", {"size": [64, 64]}),
            "spacing of 1.4 mm, 36 x 36 pixels": way("spacing", {"size": [36, 36], "spacing": [1.4, 1.4]}),
        },
        joined=True,
        note="The ways also differ in how many pixels the network sees: not all of their difference is the spacing's.",
    )


LIMITS = (_FEW, _missing(), _partial(), _standard(), _resolution())
