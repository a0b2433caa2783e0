"""Windows of DNA in a table, some active: those hold a motif, drawn from a matrix of known strength.

At strength 1 each base of the motif is the consensus', at 0 it is the background's: nothing tells windows apart.
"""

from pathlib import Path

import numpy as np

from fedward_common.metrics.base import Floats
from fedward_common.streams import stream

LENGTH = 200  # bases of a window
MAP = """patient = "gene"
target = { column = "active", classes = { 0 = "inactive", 1 = "active" } }
features = [{ kind = "sequence", column = "sequence", length = 200 }]
"""

_BASES = np.array(list("ACGT"))
_BACKGROUND = (0.3, 0.2, 0.2, 0.3)
_CONSENSUS = "CCAGCAGGGGGC"  # the core of CTCF's (Kim et al. 2007, doi:10.1016/j.cell.2006.12.048)
_WINDOWS = 4  # of a gene, half of them active


def matrix(strength: float) -> Floats:
    """The motif as a position weight matrix: the probability of A, C, G and T [4] at each of its places [12, 4]."""
    consensus = np.array(list(_CONSENSUS))[:, None] == _BASES
    found: Floats = strength * consensus + (1 - strength) * np.array(_BACKGROUND)
    return found


def window(random: np.random.Generator, strength: float, *, active: bool) -> tuple[str, int]:
    """A window, and where its motif begins; an inactive one has a place for it, and background there."""
    bases = random.choice(_BASES, LENGTH, p=_BACKGROUND)
    start = int(random.integers(LENGTH - len(_CONSENSUS)))
    if active:
        bases[start : start + len(_CONSENSUS)] = [random.choice(_BASES, p=row) for row in matrix(strength)]
    return "".join(bases), start


def breaks(random: np.random.Generator, sequence: str, start: int) -> str:
    """The window with a variant of one base in the motif that begins at `start`: one that the consensus lacks."""
    place = int(random.integers(len(_CONSENSUS)))
    other = random.choice([base for base in "ACGT" if base not in (_CONSENSUS[place], sequence[start + place])])
    return sequence[: start + place] + str(other) + sequence[start + place + 1 :]


def write(folder: Path, hospital: str, genes: int, strength: float) -> None:
    """`windows.csv` and the map of its columns in `folder`, four windows of each gene."""
    random = stream(0, "synthetic regulatory", hospital)
    rows = ["gene,sequence,active\n"]
    for gene in range(genes):
        for number in range(_WINDOWS):
            active = number % 2 == 1
            rows.append(f"{hospital}-{gene},{window(random, strength, active=active)[0]},{int(active)}\n")
    (folder / "windows.csv").write_text("".join(rows))
    (folder / "columns.toml").write_text(MAP)
