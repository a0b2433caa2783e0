"""Invented patients in FLamby's columns of TCGA-BRCA: 39 numbers of each, and days to death or to when last seen.

At strength 1 age and stage move the hazard most, at 0 it is the same for all. Times to death are Weibull's, drawn as in
Bender, Augustin, Blettner 2005 (Statistics in Medicine 24:1713); each hospital has a baseline hazard of its own. When a
patient is last seen hangs on nothing else.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedward_common.metrics.base import Floats
from fedward_common.streams import stream

# by what is drawn: the shares of its levels, the rest having another one; and what each adds to the log-hazard
_DRAWN: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ethnicity": ((0.80, 0.16), (0.0, 0.0)),
    "race": ((0.06, 0.17, 0.08, 0.68), (0.0, 0.2, 0.0, 0.0)),
    "metastasis": ((0.15,), (0.3,)),
    "nodes": ((0.15, 0.12, 0.15, 0.05, 0.06), (-0.4, 0.2, 0.1, 0.6, 0.6)),
    "stage": ((0.08, 0.08, 0.33, 0.24, 0.14, 0.06), (-0.9, -0.9, -0.3, 0.2, 1.0, 1.8)),
    "tumour": ((0.20, 0.58, 0.12), (-0.2, 0.0, 0.3)),
    "edition": ((0.10, 0.35, 0.40), (0.0, 0.0, 0.0)),
    "code": ((0.98,), (0.0,)),
    "morphology": ((0.72, 0.18), (0.0, -0.2)),
    "prior": ((0.06,), (0.4,)),
    "synchronous": ((0.06,), (0.0,)),
    "therapy": ((0.15, 0.70), (0.0, -0.3)),
}
# groups of columns in the table's order: their first words, what is drawn, and its levels, "" of one without a column
_COLUMNS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("ethnicity", "ethnicity", ("not hispanic or latino", "not reported")),
    ("race", "race", ("asian", "black or african american", "not reported", "white")),
    ("ajcc_pathologic_m", "metastasis", ("MX",)),
    ("ajcc_pathologic_n", "nodes", ("N0 (i-)", "N1", "N1a", "N2", "N2a")),
    (
        "ajcc_pathologic_stage",
        "stage",
        ("", "Stage IA", "Stage IIA", "Stage IIB", "Stage IIIA", "Stage IIIC"),
    ),
    ("ajcc_pathologic_t", "tumour", ("T1c", "T2", "T3")),
    ("ajcc_staging_system_edition", "edition", ("5th", "6th", "7th")),
    ("icd_10_code", "code", ("C50.9",)),
    ("morphology", "morphology", ("8500/3", "8520/3")),
    ("primary_diagnosis", "morphology", ("Infiltrating duct carcinoma, NOS", "Lobular carcinoma, NOS")),
    ("prior_malignancy", "prior", ("yes",)),
    ("synchronous_malignancy", "synchronous", ("Not Reported",)),
    ("treatment_or_therapy", "therapy", ("not reported", "yes")),
    ("tumor_stage", "stage", ("stage i", "stage ia", "stage iia", "stage iib", "stage iiia", "stage iiic")),
)
_AGE, _SPREAD, _AGE_ADDS = 58.0, 13.0, 0.6  # years; what one deviation adds to the log-hazard
_SHAPE = 1.3  # of Weibull's distribution: the hazard rises


class Followed(NamedTuple):
    """Of patients [n]: log-hazards by which times were drawn, days of follow-up, and whether death ended them."""

    log_hazards: Floats
    times: Floats
    events: npt.NDArray[np.bool_]


def write(folder: Path, hospital: str, patients: int, strength: float) -> Followed:
    """`brca.csv` in `folder`. Risks that are the log-hazards have the best C-index that any model can be hoped for."""
    random = stream(0, "synthetic survival", hospital)
    age = np.clip(random.normal(_AGE, _SPREAD, patients), 26, 90).round()
    hazard = _AGE_ADDS * (age - _AGE) / _SPREAD
    levels = {}
    for name, (shares, adds) in _DRAWN.items():
        levels[name] = random.choice(len(shares) + 1, patients, p=(*shares, 1 - sum(shares)))
        hazard += np.array([*adds, 0.0])[levels[name]]
    hazard *= strength
    scale = random.uniform(1500, 3500)
    died = scale * (random.exponential(size=patients) / np.exp(hazard)) ** (1 / _SHAPE)
    seen = random.uniform(0, 1.5 * scale, patients)
    times, events = np.minimum(died, seen).round(), died <= seen
    columns = {"age_at_index": age}
    for words, name, called in _COLUMNS:
        columns |= {f"{words}_{level}": levels[name] == place for place, level in enumerate(called) if level}
    with (folder / "brca.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["pid", *columns, "E", "T"])
        for number, (event, time, *values) in enumerate(zip(events, times, *columns.values(), strict=True)):
            writer.writerow([f"{hospital}-{number:04d}", *(int(value) for value in values), float(event), time])
    return Followed(hazard, times, events)
