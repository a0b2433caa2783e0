"""DNA of UCI's collections: splice junctions (doi:10.24432/C5M888) and promoters of E. coli (doi:10.24432/C5S01D).

Splice junctions (Noordewier, Towell, Shavlik 1990) are 60 bases around a place in a gene. Labels: EI, an exon ends
there; IE, an intron does; N, neither. Whole genes go to one hospital, and to one side of its split; genes that share a
sequence count as one. Promoters (Harley and Reynolds 1987, Towell et al. 1990) are 57 bases, half of them without one.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from fedward_simulations.studies import Trial, hospital_folder

HOSPITALS = ("harbour", "north", "valley")
_SETTINGS = '[table]\nfiles = "windows.csv"\nmap = "columns.toml"\n'
_MAP = """patient = "gene"
target = {{ column = "class", classes = {{ {classes} }} }}
features = [{{ kind = "sequence", column = "sequence", length = {length} }}]
"""

Window = tuple[object, str, str]  # its gene, its bases, its class


def write_splices(source: Path, hospitals: Path) -> None:
    """Three hospitals, each with a third of the genes. A donor's name is its gene: HUMA1ATP-DONOR-1972."""
    with (source / "uci_splice.csv").open(newline="") as file:
        _, *rows = csv.reader(file, skipinitialspace=True)
    genes = _genes([re.sub(r"-[A-Z]+-\d+ *$", "", donor) for _, donor, _ in rows], [row[2] for row in rows])
    windows = [(gene, dna, label) for gene, (label, _, dna) in zip(genes, rows, strict=True)]
    for place, name in enumerate(HOSPITALS):
        own = [window for window in windows if window[0] % len(HOSPITALS) == place]
        _write(hospitals, name, own, 'EI = "EI", IE = "IE", N = "N"', 60)


def write_promoters(source: Path, hospitals: Path) -> None:
    """Two hospitals, each with every other window of either class."""
    with (source / "uci_promoters.data").open(newline="") as file:
        rows = sorted((label, name, dna.strip()) for label, name, dna in csv.reader(file))
    for place, hospital in enumerate(HOSPITALS[:2]):
        own = [(name, dna, label) for label, name, dna in rows[place::2]]
        _write(hospitals, hospital, own, '"-" = "none", "+" = "promoter"', 57)


def _write(hospitals: Path, name: str, windows: Sequence[Window], classes: str, length: int) -> None:
    folder = hospital_folder(hospitals, name, _SETTINGS)
    (folder / "columns.toml").write_text(_MAP.format(classes=classes, length=length))
    with (folder / "windows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("gene", "sequence", "class"), *windows])


def _genes(names: list[str], sequences: list[str]) -> list[int]:
    """A number for each row, the same for rows that share a name or a sequence, directly or by others."""
    _, left = np.unique(names, return_inverse=True)
    _, right = np.unique(sequences, return_inverse=True)
    right = right + len(left)
    size = 2 * len(left)
    graph = coo_array((np.ones(len(left), np.bool_), (left, right)), shape=(size, size))
    _, parts = connected_components(graph, directed=False)
    genes: list[int] = np.unique(parts[left], return_inverse=True)[1].tolist()
    return genes


TRIALS = (
    Trial(
        name="splice sites",
        template="variant-effect",
        source="dna_small",
        write=write_splices,
        data="UCI Splice-junction Gene Sequences, human and other primates (doi:10.24432/C5M888)",
        caveat="Genes are dealt out to three sites; related genes, and one gene of two primates, can be apart.",
        changes={
            "cohort": {"labels": ["EI", "IE", "N"], "positive": None},
            "input": {"length": 60},
            "model": {"options": {"width": 32, "dropout": 0.3, "pooling": "none"}},
            "training": {"augmentation": []},
        },
    ),
    Trial(
        name="promoters",
        template="variant-effect",
        source="dna_small",
        write=write_promoters,
        data="UCI Promoter Gene Sequences, E. coli (doi:10.24432/C5S01D)",
        caveat="Sequences, 106 in all, are dealt out to two sites; each is tested once.",
        changes={
            "cohort": {"labels": ["none", "promoter"], "positive": "promoter"},
            "split": {"kind": "folds", "folds": 5},
            "input": {"length": 57},
            "model": {"options": {"width": 32, "dropout": 0.3, "pooling": "none"}},
            "training": {"augmentation": [], "batch_size": 8},
        },
    ),
)
