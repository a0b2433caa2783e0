"""OASIS-1, elderly subjects (Marcus et al. 2007, doi:10.1162/jocn.2007.19.9.1498): an axial slice of each brain.

All come from one institution; they are dealt out to three sites, so these differ by chance alone. For registration each
slice has two structures, by grey values alone: the brain, and the fluid in it.
"""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import binary_fill_holes  # type: ignore[import-untyped]

from fedward_simulations.partition import partition
from fedward_simulations.studies import ALEXNET, Trial, hospital_folder

_SETTINGS = """[data]
patient = "^(OAS1_[0-9]+)_"
modality = "MR"
[labels]
words = { "0.0" = "healthy", "0.5" = "impaired", "1.0" = "alzheimer" }
"""
_MASKS = """[masks]
files = 'masks/(.+)\\.png'
image = '\\1.jpg'
structures = { brain = [1, 2], fluid = 2 }
"""
_OUTSIDE = 16  # grey values up to this one are background, and what JPEG makes of it
_FLUID = 0.5  # of the brain's median: fluid is darker
_DATA = "OASIS-1, axial slices of subjects of 60 and more, dealt out to three sites (doi:10.1162/jocn.2007.19.9.1498)"
_CAVEAT = "All subjects come from one institution, so its three sites differ by chance alone."
_HARD = (
    "One slice tells little: of all 138 subjects, logistic regression on 30 principal components tells a rating above "
    "0 with an area of 0.65 in ten-fold cross-validation."
)
_SHARES = {"split": {"shares": [0.5, 0.15, 0.35]}}  # only 16 are demented: more are tested than in the template


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


def write_with_masks(source: Path, hospitals: Path) -> None:
    """The same, and beside each slice a picture of its structures: 1 where the brain is, 2 where fluid is in it."""
    write(source, hospitals)
    for folder in sorted(hospitals.iterdir()):
        with (folder / "site.toml").open("a") as file:
            file.write(_MASKS)
        (folder / "masks").mkdir()
        for path in sorted(folder.glob("*.jpg")):
            with Image.open(path) as image:
                Image.fromarray(structures(np.asarray(image.convert("L")))).save(folder / "masks" / f"{path.stem}.png")


def structures(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Of a skull-stripped slice [rows, columns]: 1 where the brain is, 2 where fluid is in it, else 0."""
    there = grey > _OUTSIDE
    brain = np.asarray(binary_fill_holes(there))
    fluid = brain & (grey < _FLUID * np.median(grey[there]))
    return brain.astype(np.uint8) + fluid.astype(np.uint8)


_TRIAL = Trial(
    name="alzheimer-mri",
    template="alzheimer-mri",
    source="oasis1_slices",
    write=write,
    data=_DATA,
    caveat=f"{_CAVEAT} {_HARD}",
    published="better than AlexNet",
    changes=_SHARES,
)
TRIALS = (
    _TRIAL,
    replace(
        _TRIAL,
        name="alzheimer-mri, AlexNet",
        published="-",
        changes={**_SHARES, **ALEXNET},
    ),
    replace(
        _TRIAL,
        name="brain-registration, OASIS",
        template="brain-registration",
        write=write_with_masks,
        caveat=f"{_CAVEAT} Structures are grey values' classes, brain and fluid in it, which nobody drew.",
        published="-",
        changes={
            "cohort": {"labels": ["brain", "fluid"]},
            "input": {"size": [104, 88], "spacing": None, "orientation": None},
        },
    ),
)
