"""UCI's Heart Disease (Janosi, Steinbrunn, Pfisterer, Detrano 1989, doi:10.24432/C52P4X): four hospitals' tables.

FLamby's protocol (Ogier du Terrail et al., NeurIPS 2022, arXiv:2210.04620, and its code): without slope, ca and thal,
rows with a missing value left out, a third of each hospital's patients tested, always the same ones; logistic
regression, batches of 4, 15 rounds of 100 steps, seeds 42 to 46; the accuracy at a probability of a half on all
hospitals' test patients. What differs here: hospitals measure one scale before round 1, where FLamby scales each
hospital's features by that hospital's own mean and deviation (ADR 0020); first weights are drawn otherwise; Flower's
FedAdam corrects the bias of its moments. The network has two outputs, which move apart twice as fast as FLamby's single
one moves, so its rates stand halved.
"""

import csv
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

from fedward_simulations.studies import Trial, hospital_folder

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
DATA = "UCI Heart Disease, four hospitals (doi:10.24432/C52P4X)"

_USED = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
_LEVELS = {"cp": ["1", "2", "3", "4"], "restecg": ["0", "1", "2"]}
_FLAMBY: Mapping[str, Mapping[str, Any]] = {
    "cohort": {"min_patients": 5, "every_label": False},  # no healthy patient of Switzerland trains
    "split": {"kind": "column"},
    "input": {"missing": "leave-out"},
}


def write(source: Path, hospitals: Path) -> None:
    """The four files as they are, a hospital each."""
    for name in HOSPITALS:
        folder = hospital_folder(hospitals, name, '[table]\nfiles = "*.data"\nmap = "heart-disease"\n')
        shutil.copy(source / f"processed.{name}.data", folder)


def write_flamby(source: Path, hospitals: Path) -> None:
    """The rows that FLamby takes, with who is tested in the label table."""
    for name in HOSPITALS:
        rows = _complete(source / f"processed.{name}.data")
        ill = np.array([row[-1] != "0" for row in rows])
        stratify = ill if min(ill.sum(), (~ill).sum()) > 2 else None
        _, tested = train_test_split(
            np.arange(len(rows)), test_size=0.34, train_size=0.66, random_state=43, shuffle=True, stratify=stratify
        )
        folder = hospital_folder(hospitals, name, '[table]\nfiles = "rows.csv"\nmap = "columns.toml"\n')
        (folder / "columns.toml").write_text(_map())
        patients = [f"{name}-{number}" for number in range(len(rows))]
        _write_csv(
            folder / "rows.csv",
            ["patient", *_USED],
            ([who, *row[:-1]] for who, row in zip(patients, rows, strict=True)),
        )
        sides = np.full(len(rows), "train", dtype=object)
        sides[tested] = "test"
        labels = np.where(ill, "disease", "healthy")
        _write_csv(
            folder / "labels.csv", ["patient_id", "label", "split"], zip(patients, labels, sides, strict=True)
        )  # fmt: skip


def _complete(path: Path) -> list[list[str]]:
    """Rows without slope, ca and thal in which nothing is missing: ten features and the diagnosis."""
    with path.open(newline="") as file:
        rows = [row[:10] + row[13:] for row in csv.reader(file) if row]
    return [row for row in rows if not {"?", "-9", ""}.intersection(row)]


def _map() -> str:
    """The map of the columns of `rows.csv`."""
    lines = ['patient = "patient"\n']
    for column in _USED:
        levels = _LEVELS.get(column)
        lines.append(f'[[features]]\nkind = "{"category" if levels else "numeric"}"\ncolumn = "{column}"\n')
        lines += [f"levels = {levels}\n"] if levels else []
    return "".join(lines)


def _write_csv(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


_SGD = {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0}
_ADAM = {"eta": 0.005, "beta_1": 0.9, "beta_2": 0.999, "tau": 1e-8}

_TRIAL = Trial(name="heart-disease", template="heart-disease", source="heart_disease_uci4", write=write, data=DATA)
TRIALS = (
    _TRIAL,
    replace(
        _TRIAL,
        name="heart-disease, mlp",
        changes={"model": {"name": "mlp", "options": {"width": 16, "depth": 1, "dropout": 0.2}}},
    ),
)
_ON_FLAMBYS = replace(_TRIAL, write=write_flamby, seeds=range(42, 47), accuracies=True)
FLAMBY = {
    "FedAvg": replace(
        _ON_FLAMBYS,
        name="heart-disease, FLamby's FedAvg",
        changes={**_FLAMBY, "training": {"optimizer": {**_SGD, "lr": 5e-4}}},
    ),
    "FedAvg, ten times the rate": replace(
        _ON_FLAMBYS,
        name="heart-disease, FLamby's FedAvg, ten times the rate",
        changes={**_FLAMBY, "training": {"optimizer": {**_SGD, "lr": 5e-3}}},
    ),
    "FedAdam": replace(
        _ON_FLAMBYS,
        name="heart-disease, FLamby's FedAdam",
        changes={
            **_FLAMBY,
            "training": {"optimizer": {**_SGD, "lr": 5e-3}},
            "strategy": {"name": "fedadam", "min_sites": 4, "options": _ADAM},
        },
    ),
}
PUBLISHED = {"FedAvg": 0.748, "FedAdam": 0.779, "pooled": 0.795}  # FLamby's; pooled by Adam in 50 epochs
