"""Hippocampus of the Medical Segmentation Decathlon (Antonelli et al. 2022, doi:10.1038/s41467-022-30695-9).

One hospital's patients, whose images were stored in three ways: 8 bits, and numbers of two ranges. Each is a site here,
as scanners of three makers would be.
"""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

from fedward_simulations.studies import Trial, hospital_folder

SETTINGS = """[data]
patient = "hippocampus_(\\\\d+)"
modality = "MR"
[masks]
files = 'labelsTr/(.+)'
image = 'imagesTr/\\1'
structures = { anterior = 1, posterior = 2 }
"""
_BRIGHT = 2200.0  # of an image's largest value: between two ranges of numbers, half of the rest on either side
_DATA = (
    "hippocampus of the Medical Segmentation Decathlon, a site for each way in which images were stored "
    "(doi:10.1038/s41467-022-30695-9)"
)
_CAVEAT = "All patients are of one hospital."


def site_of(row: dict[str, str]) -> str:
    """Which site an image of the index is of."""
    if row["dtype"] == "uint8":
        return "eight-bit"
    return "bright" if float(row["max"]) > _BRIGHT else "dark"


def write(source: Path, hospitals: Path) -> None:
    """Images and masks as the collection has them."""
    folders = {name: hospital_folder(hospitals, name, SETTINGS) for name in ("bright", "dark", "eight-bit")}
    with (source / "index.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for ours, theirs in (("imagesTr", "images"), ("labelsTr", "labels")):
                target = folders[site_of(row)] / ours / row["file"]
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(source / theirs / row["file"], target)


_TRIAL = Trial(name="", template="", source="msd_hippocampus", write=write, data=_DATA)
TRIALS = (
    replace(
        _TRIAL,
        name="hippocampus-segmentation",
        template="hippocampus-segmentation",
        caveat=f"{_CAVEAT} Voxels of 1.5 mm, for it was trained without a GPU.",
        changes={
            "input": {"size": [28, 40, 28], "spacing": [1.5, 1.5, 1.5]},
            "training": {"rounds": 15, "local_steps": None, "local_epochs": 4},
        },
    ),
    replace(
        _TRIAL,
        name="brain-registration",
        template="brain-registration",
        caveat=f"{_CAVEAT} Voxels of 2 mm, for it was trained without a GPU.",
        changes={
            "input": {"size": [20, 28, 20], "spacing": [2.0, 2.0, 2.0]},
            "training": {"rounds": 15, "local_steps": None, "local_epochs": 4},
        },
    ),
)
