"""UCI's splice junctions (Noordewier, Towell, Shavlik 1990, doi:10.24432/C5M888): 60 bases around a place in a gene.

Labels: EI, an exon ends there; IE, an intron does; N, neither. Whole genes go to one hospital, and to one side of its
split; genes that share a sequence count as one.
"""

import csv
import re
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from fedward_simulations.studies import Trial, hospital_folder

HOSPITALS = ("harbour", "north", "valley")
_MAP = """patient = "gene"
target = { column = "class", classes = { EI = "EI", IE = "IE", N = "N" } }
features = [{ kind = "sequence", column = "sequence", length = 60 }]
"""


def write(source: Path, hospitals: Path) -> None:
    """Three hospitals, each with a third of the genes. A donor's name is its gene: HUMA1ATP-DONOR-1972."""
    with (source / "uci_splice.csv").open(newline="") as file:
        _, *rows = csv.reader(file, skipinitialspace=True)
    genes = _genes([re.sub(r"-[A-Z]+-\d+ *$", "", donor) for _, donor, _ in rows], [row[2] for row in rows])
    for place, name in enumerate(HOSPITALS):
        folder = hospital_folder(hospitals, name, '[table]\nfiles = "windows.csv"\nmap = "columns.toml"\n')
        (folder / "columns.toml").write_text(_MAP)
        with (folder / "windows.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["gene", "sequence", "class"])
            own = [(gene, row) for gene, row in zip(genes, rows, strict=True) if gene % len(HOSPITALS) == place]
            writer.writerows([gene, sequence, label] for gene, (label, _, sequence) in own)


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
        write=write,
        data="UCI Splice-junction Gene Sequences, human and other primates (doi:10.24432/C5M888)",
        caveat="Genes are dealt out to three sites; related genes, and one gene of two primates, can be apart.",
        changes={
            "cohort": {"labels": ["EI", "IE", "N"], "positive": None},
            "input": {"length": 60},
            "model": {"options": {"width": 32, "dropout": 0.3, "pooling": "none"}},
            "training": {"augmentation": []},
        },
    ),
)
