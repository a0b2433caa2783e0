"""Breast pathology's pipeline on real tissue of another organ: LC25000's lung (Borkowski et al., arXiv:1912.12142).

Its tiles were published with augmented copies of each; the groups are those of Batchkala et al. 2024, and all tiles of
one are one patient's here. Whose tissue a tile is was never published, so tiles of one patient can be on two sides.
"""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

from fedward_simulations.partition import partition
from fedward_simulations.studies import ALEXNET, Trial, hospital_folder

_SETTINGS = """[data]
patient = "^([^/]+)/"
"""
_CAVEAT = (
    "Lung tissue, of patients who were never told apart: tiles of one patient may be "
    "on both sides of the split, so the figures are optimistic."
)


def write(source: Path, hospitals: Path) -> None:
    """Three sites of groups of tiles, a folder each."""
    with (source / "labels.csv").open(newline="") as file:
        tiles = list(csv.DictReader(file))
    labels = {tile["tile_group"]: tile["label"] for tile in tiles}
    sites = partition(labels, (1, 1, 1), positive_tilt=(1, 1, 1))
    for hospital, groups in zip(("harbour", "north", "valley"), sites, strict=True):
        folder = hospital_folder(hospitals, hospital, _SETTINGS)
        (folder / "labels.csv").write_text(
            "patient_id,label\n" + "".join(f"{group},{labels[group]}\n" for group in sorted(groups))
        )
        for tile in (each for each in tiles if each["tile_group"] in set(groups)):
            (folder / tile["tile_group"]).mkdir(exist_ok=True)
            shutil.copy(source / tile["file"], folder / tile["tile_group"])


_TRIAL = Trial(
    name="breast-pathology, lung tissue",
    template="breast-pathology",
    source="lc25000_lung_clean",
    write=write,
    data="LC25000, lung tiles by group, dealt out to three sites (arXiv:1912.12142)",
    caveat=_CAVEAT,
    published="accuracy 99.74 % on four breast tissues",
    changes={"cohort": {"labels": ["lung_n", "lung_aca", "lung_scc"]}},
)
ALEXNETS = replace(
    _TRIAL,
    name="breast-pathology, lung tissue, AlexNet",
    published="-",
    changes={**_TRIAL.changes, "input": {"size": [64, 64]}, **ALEXNET},
)
TRIALS = (_TRIAL, ALEXNETS)
