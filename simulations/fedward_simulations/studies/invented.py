"""Templates for which no public collection is at hand, on invented patients: what can be learned is planted.

Files are in the formats that hospitals have: DICOM of three makers, Daphnet's recordings, tables. Where a writer has a
strength, nothing is planted at 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fedward_common.streams import stream
from fedward_simulations.studies import ALEXNET, Trial, breast_pathology, hospital_folder
from fedward_simulations.synthetic import abdomen, brain, chest, freezing, images, regulatory, survival

NODULES = (
    '[boxes]\nfile = "annotations.csv"\nlabel = "nodule"\n'
    'centre = ["coordX", "coordY", "coordZ"]\ndiameter = "diameter_mm"\n'
)
LIVERS = '[masks]\nstructures = { liver = "Liver", tumour = "Tumour" }\n'
_THREE = ("harbour", "north", "valley")


def write_brains(source: Path, hospitals: Path, *, strength: float = 1.0) -> None:
    """A hospital for each maker of scanners, with 20 patients of each label."""
    del source
    for hospital, scanner in brain.SCANNERS.items():
        folder = hospital_folder(hospitals, hospital)
        rows = ["patient_id,label\n"]
        for number, label in enumerate(20 * tuple(brain.NIGRA)):
            brain.write(folder, scanner, number, label, strength=strength)
            rows.append(f"P{number:04d},{label}\n")
        (folder / "labels.csv").write_text("".join(rows))


def write_pictures(
    hospitals: Path,
    settings: str,
    labels: Mapping[str, str],
    draw: Callable[[np.random.Generator, str], Any],
    each: int,
) -> None:
    """Three hospitals with so many patients of each label; `labels` are the hospitals' words for the study's."""
    for hospital in _THREE:
        folder = hospital_folder(hospitals, hospital, settings)
        random, rows = stream(0, "pictures", hospital), ["file,label\n"]
        for number in range(each * len(labels)):
            word, label = list(labels.items())[number % len(labels)]
            path = folder / f"P{number:03d}" / "image.png"
            path.parent.mkdir()
            image = draw(random, label)
            Image.fromarray(image if image.dtype == np.uint8 else (image + 2048).astype(np.uint16)).save(path)
            rows.append(f"P{number:03d}/image.png,{word}\n")
        (folder / "labels.csv").write_text("".join(rows))


def picture_settings(modality: str, words: Mapping[str, str]) -> str:
    """The site.toml of hospitals that `write_pictures` makes."""
    table = ", ".join(f'"{word}" = "{label}"' for word, label in words.items())
    return f'[data]\npatient = "^([^/]+)/"\nmodality = "{modality}"\n[labels]\npath = "file"\nwords = {{ {table} }}\n'


def write_tissue(source: Path, hospitals: Path) -> None:
    """Tiles of the four tissues, of 12 patients each, one of each patient."""
    del source
    words = {label: label for label in images.TISSUES}
    write_pictures(hospitals, picture_settings("", words), words, images.tile, 12)


def write_chests(source: Path, hospitals: Path, *, strength: float = 1.0) -> None:
    """CT of 40 chests from scanners of two makers each, a table of nodules beside them."""
    del source
    for name, scanner in list(chest.SCANNERS.items())[:2]:
        folder = hospital_folder(hospitals, name, NODULES)
        chest.write(folder, scanner, 40, shape=(24, 96, 96), strength=strength)


def write_abdomens(source: Path, hospitals: Path, *, strength: float = 1.0) -> None:
    """CT of 20 abdomens from scanners of three makers each, and DICOM segmentations of them."""
    del source
    for name, scanner in abdomen.SCANNERS.items():
        folder = hospital_folder(hospitals, name, LIVERS)
        for number in range(20):
            abdomen.write(folder, scanner, number, strength=strength)


def write_windows(source: Path, hospitals: Path, *, strength: float = 0.9) -> None:
    """Regulatory DNA of 100 genes a hospital, half of the windows with a motif."""
    del source
    for hospital in _THREE:
        folder = hospital_folder(hospitals, hospital, '[table]\nmap = "columns.toml"\n')
        regulatory.write(folder, hospital, 100, strength)


def write_recordings(
    source: Path, hospitals: Path, *, patients: int = 5, strength: float = 1.0, seconds: float = 120.0
) -> None:
    """Two hospitals' recordings of wearables."""
    del source
    for hospital in ("east", "west"):
        folder = hospital_folder(hospitals, hospital)
        for number in range(1, patients + 1):
            freezing.write(folder, hospital, number, strength, seconds=seconds)


def write_followed(source: Path, hospitals: Path) -> None:
    """400 patients with breast cancer a hospital, some of whom die."""
    del source
    for hospital in ("east", "north", "west"):
        folder = hospital_folder(hospitals, hospital, '[table]\nmap = "tcga-brca"\n')
        survival.write(folder, hospital, 400, 1.0)


_TRIAL = Trial(name="", template="", source="", write=write_brains, data="", shown="synthetic")
_BRAINS = replace(
    _TRIAL,
    name="parkinson-mri",
    template="parkinson-mri",
    data="DICOM of scanners of three makers, 20 patients of each label a hospital",
    published="better than AlexNet, on 18,204 images",
)


def _against(other: str, name: str) -> Trial:
    """Parkinson's disease against one other label."""
    cohort = {"labels": [other, "parkinson"], "positive": "parkinson"}
    return replace(_BRAINS, name=f"parkinson-mri, against {name}", published="-", changes={"cohort": cohort})


_TILES = replace(
    _TRIAL,
    name="breast-pathology",
    template="breast-pathology",
    write=write_tissue,
    data="Stained tiles of 12 patients of each tissue a hospital",
    published="accuracy 99.74 %",
)
TRIALS = (
    _BRAINS,
    _against("healthy", "healthy people"),
    _against("msa", "multiple system atrophy"),
    replace(
        _BRAINS,
        name="parkinson-mri, AlexNet",
        published="-",
        changes=ALEXNET,
    ),
    replace(
        _TRIAL,
        name="freezing-of-gait, synthetic",
        template="freezing-of-gait",
        write=write_recordings,
        data="Recordings in Daphnet's format, 5 patients a hospital, two minutes each",
        changes={"split": {"folds": 5}},
    ),
    _TILES,
    replace(
        _TILES,
        name="breast-pathology, AlexNet",
        published="-",
        changes={"input": {"size": [64, 64]}, **ALEXNET},
    ),
    replace(
        _TILES,
        name="breast-pathology, AlexNet, transfer",
        caveat="Begun with a model of the lung tissue of LC25000.",
        published="-",
        changes={
            "input": {"size": [64, 64]},
            **ALEXNET,
            "model": {**ALEXNET["model"], "start": {"file": f"{breast_pathology.ALEXNETS.name}/model.safetensors"}},
        },
    ),
    replace(
        _TRIAL,
        name="lung-nodule",
        template="lung-nodule",
        write=write_chests,
        data="CT of scanners of two makers, 40 patients each, nodules of 7 to 20 mm beside vessels",
        caveat="Voxels of 3 x 4 x 4 mm of the middle of the chest, for it was trained without a GPU.",
        changes={"input": {"size": [16, 48, 48], "spacing": [3.0, 4.0, 4.0]}},
    ),
    replace(
        _TRIAL,
        name="liver-segmentation",
        template="liver-segmentation",
        write=write_abdomens,
        data="CT of scanners of three makers with DICOM segmentations, 20 patients each",
        caveat="Voxels of 8 mm, for it was trained without a GPU.",
        changes={
            "split": {"shares": [0.4, 0.2, 0.4]},
            "input": {"size": [16, 48, 48], "spacing": [8.0, 8.0, 8.0]},
        },
    ),
    replace(
        _TRIAL,
        name="variant-effect",
        template="variant-effect",
        write=write_windows,
        data="Windows of DNA, half with a motif, of 100 genes a hospital",
    ),
    replace(
        _TRIAL,
        name="survival",
        template="survival",
        write=write_followed,
        data="Follow-up in TCGA-BRCA's columns, 400 patients a hospital",
        caveat="Who knows each patient's hazard ranks them with a C-index of 0.73.",
        published="C-index: FLamby pooled .704, FedAvg .735, FedAdam .842",
    ),
    replace(
        _TRIAL,
        name="survival, mlp",
        template="survival",
        write=write_followed,
        data="The same patients",
        changes={"model": {"name": "mlp", "options": {"width": 16, "depth": 1, "dropout": 0.2}}},
    ),
)
