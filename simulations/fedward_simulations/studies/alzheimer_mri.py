"""OASIS-1, elderly subjects (Marcus et al. 2007, doi:10.1162/jocn.2007.19.9.1498): an axial slice of each brain.

All come from one institution; they are dealt out to three sites, so these differ by chance alone.
"""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

from fedward_simulations.partition import partition
from fedward_simulations.studies import Trial, hospital_folder

_SETTINGS = """[data]
patient = "^(OAS1_[0-9]+)_"
modality = "MR"
[labels]
words = { "0.0" = "healthy", "0.5" = "impaired", "1.0" = "alzheimer" }
"""
_DATA = "OASIS-1, axial slices of subjects of 60 and more, dealt out to three sites (doi:10.1162/jocn.2007.19.9.1498)"
_CAVEAT = "All subjects come from one institution, so its three sites differ by chance alone."


def write(source: Path, hospitals: Path) -> None:
    """Three sites of subjects who are there once each; a label is the clinical dementia rating."""
    with (source / "labels.csv").open(newline="") as file:
        ratings = {row["subject"]: row["cdr"] for row in csv.DictReader(file)}
    slices = {path.stem: path for path in (source / "axial").glob("*.jpg")}
    sites = partition({name: ratings[name] for name in slices}, (1, 1, 1), positive_tilt=(1, 1, 1))
    for hospital, subjects in zip(("harbour", "north", "valley"), sites, strict=True):
        folder = hospital_folder(hospitals, hospital, _SETTINGS)
        rows = ["patient_id,label\n"]
        for name in sorted(subjects):
            shutil.copy(slices[name], folder)
            rows.append(f"{name.rsplit('_', 1)[0]},{ratings[name]}\n")
        (folder / "labels.csv").write_text("".join(rows))


_TRIAL = Trial(
    name="alzheimer-mri",
    template="alzheimer-mri",
    source="oasis1_slices",
    write=write,
    data=_DATA,
    caveat=_CAVEAT,
    published="better than AlexNet",
)
TRIALS = (
    _TRIAL,
    replace(
        _TRIAL,
        name="alzheimer-mri, AlexNet",
        published="-",
        changes={"model": {"name": "alexnet", "options": {"width": 512}}, "training": {"optimizer": {"lr": 1e-4}}},
    ),
)
