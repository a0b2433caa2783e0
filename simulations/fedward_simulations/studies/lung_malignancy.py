"""LIDC-IDRI nodules (Armato et al. 2011, doi:10.1118/1.3528204): crops of CT, each maker of scanners a site.

Labels are single radiologists' ratings. The crops hold stored values, which are not the same units at every maker.
"""

import csv
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedward_simulations.studies import Trial, hospital_folder

_FILES = '[data]\npatient = "^([^/]+)/"\nmodality = "CT"\n[labels]\npath = "file"\n[labels.words]\n'
_BINARY = _FILES + '1 = "benign"\n2 = "benign"\n4 = "malignant"\n5 = "malignant"\n'
THRESHOLDS = [f"at least {rating}" for rating in range(2, 6)]
ORDINAL = _FILES + "".join(f"{rating} = {THRESHOLDS[: rating - 1]}\n" for rating in range(1, 6))
MAKERS = {"GE MEDICAL SYSTEMS": "ge", "SIEMENS": "siemens", "Philips": "philips"}
_LEAST = -2048  # of the stored values, which a picture has from 0 on
_DATA = "LIDC-IDRI nodules rated 1, 2, 4 or 5, a site for each maker (doi:10.1118/1.3528204)"
_CAVEAT = (
    "Labels are single radiologists' ratings, not biopsies; values are as stored, not the same units at every maker."
)


def nodules(source: Path, maker: str) -> Iterator[tuple[dict[str, str], npt.NDArray[np.int32]]]:
    """The row of the table and the stored values [71, 71] of each nodule of a maker of `MAKERS`."""
    with np.load(source / "nodules_71x71_int16.npz") as held:
        images = dict(zip(held["noduleID"].tolist(), held["image"].astype(np.int32), strict=True))
    with (source / "nodules.csv").open(newline="") as file:
        for nodule in csv.DictReader(file):
            if nodule["manufacturer"] == maker:
                yield nodule, images[int(nodule["noduleID"])]


def write(source: Path, hospitals: Path, settings: str = _BINARY) -> None:
    """Pictures of 16 bits in a folder for each patient; ratings of 3 too, which no label of the binary study is."""
    for maker, hospital in MAKERS.items():
        folder = hospital_folder(hospitals, hospital, settings)
        rows = ["file,label\n"]
        for nodule, image in nodules(source, maker):
            path = f"{nodule['patient']}/{nodule['noduleID']}.png"
            (folder / path).parent.mkdir(exist_ok=True)
            Image.fromarray((image - _LEAST).astype(np.uint16)).save(folder / path)
            rows.append(f"{path},{nodule['malignancy']}\n")
        (folder / "labels.csv").write_text("".join(rows))


_TRIAL = Trial(
    name="lung-malignancy",
    template="lung-malignancy",
    source="lidc_nodules",
    write=write,
    data=_DATA,
    caveat=_CAVEAT,
)
TRIALS = (
    _TRIAL,
    replace(
        _TRIAL,
        name="lung-malignancy, ResNet",
        changes={"model": {"name": "resnet10"}},
    ),
    replace(
        _TRIAL,
        name="lung-malignancy, ordinal",
        write=partial(write, settings=ORDINAL),
        data="LIDC-IDRI nodules rated 1 to 5, a site for each maker (doi:10.1118/1.3528204)",
        changes={"cohort": {"labels": THRESHOLDS, "positive": None, "multi_label": True}},
    ),
)
