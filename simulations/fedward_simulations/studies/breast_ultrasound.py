"""BUSI's breast ultrasound (Al-Dhabyani et al. 2020, doi:10.1016/j.dib.2019.104863), as this package brings it.

The field's small sample: 143 patients, three networks, each from scratch and begun with what it learned elsewhere. Here
that is lung nodules (`lung_malignancy`), for no weights of ImageNet are at hand.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedward_common.streams import stream
from fedward_simulations import busi
from fedward_simulations.partition import partition
from fedward_simulations.studies import ALEXNET, Trial, hospital_folder, lung_malignancy

PATIENTS = 143

_SETTINGS = '[data]\npatient = "^([^/]+)/"\nmodality = "US"\n'
DATA = "BUSI, breast ultrasound (doi:10.1016/j.dib.2019.104863)"
CAVEAT = "Its patients are groups of images that look alike."


def write(source: Path, hospitals: Path) -> None:
    """Three sites of `PATIENTS` together, drawn once."""
    deal(source, hospitals, ("harbour", "north", "valley"), most=PATIENTS)


def deal(source: Path, hospitals: Path, names: Sequence[str], *, most: int | None = None) -> None:
    """Patients, `most` at most, dealt out to hospitals of these names; of no collection of the data."""
    del source
    images = busi.load_index()
    order = stream(0, "ultrasound patients").permutation(sorted({row.patient for row in images}))
    taken = set(order[:most].tolist())
    labels = {row.patient: row.label for row in images if row.patient in taken}
    alike = (1,) * len(names)
    for name, patients in zip(names, partition(labels, alike, positive_tilt=alike), strict=True):
        folder, own = hospital_folder(hospitals, name, _SETTINGS), set(patients)
        for row in (each for each in images if each.patient in own):
            (folder / row.patient).mkdir(exist_ok=True)
            shutil.copy(busi.FOLDER / row.file, folder / row.patient)
        rows = (f"{patient},{labels[patient]}\n" for patient in patients)
        (folder / "labels.csv").write_text("".join(["patient_id,label\n", *rows]))


_NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "AlexNet": ALEXNET,
    "ResNet": {"model": {"name": "resnet10"}, "training": {"optimizer": {"lr": 5e-4}}},
    "DenseNet": {"model": {"name": "densenet121"}, "training": {"optimizer": {"lr": 5e-4}}},
}
_SCRATCH = Trial(
    name="",
    template="breast-ultrasound",
    source="",
    write=write,
    data=f"{DATA}: {PATIENTS} patients, dealt out to three sites",
    caveat=CAVEAT,
    published=f"transfer from ImageNet beats scratch on {PATIENTS} patients",
    changes={"input": {"size": [64, 64]}, "cohort": {"min_patients": 10}},
)


def _trials(network: str) -> tuple[Trial, ...]:
    """The nodules that a network begins with, and breast ultrasound with that and without."""
    how = _NETWORKS[network]
    nodules = replace(
        lung_malignancy.TRIALS[0],
        name=f"before/lung-malignancy, {network}",
        seeds=range(42, 43),
        pooled=False,
        shown=None,
        changes={**how, "training": {**how["training"], "rounds": 10}},
    )
    scratch = replace(
        _SCRATCH,
        name=f"breast-ultrasound, {network}",
        changes={**_SCRATCH.changes, **how},
    )
    transfer = replace(
        scratch,
        name=f"breast-ultrasound, {network}, transfer",
        source=nodules.source,
        caveat=f"{CAVEAT} Begun with a model of the lung nodules above, of 10 rounds.",
        changes={**scratch.changes, "model": {**how["model"], "start": {"file": f"{nodules.name}/model.safetensors"}}},
    )
    return nodules, scratch, transfer


TRIALS = tuple(trial for network in _NETWORKS for trial in _trials(network))
