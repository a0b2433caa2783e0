"""Fingerprints of compounds that are written as SMILES. Pure: text in, bits out.

Extended-connectivity fingerprints: Rogers, Hahn: Extended-connectivity fingerprints. J. Chem. Inf. Model. 50, 2010,
doi:10.1021/ci100050t, as RDKit makes them (Morgan's algorithm), folded to a number of bits.
"""

from functools import lru_cache
from typing import Any

from fedward_common.errors import SettingsError

MAX_BITS, MAX_RADIUS = 4096, 4
MAX_SMILES = 2000  # characters


def names(column: str, radius: int, bits: int) -> tuple[str, ...]:
    """What the bits are called, so that those of another radius or number are not taken for them."""
    return tuple(f"{column} ECFP{2 * radius} {place}/{bits}" for place in range(bits))


def fingerprint(smiles: str, radius: int, bits: int) -> tuple[float, ...]:
    """The bits [bits] of a compound, 1 where one of its circular substructures of up to `radius` bonds sets it.

    Raises ValueError for what is no SMILES, and SettingsError where RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError:
        raise SettingsError("to read compounds RDKit is needed: pip install 'fedward[compounds]'") from None
    if len(smiles) > MAX_SMILES:
        raise ValueError(f"a compound has more than {MAX_SMILES} characters")
    if smiles.split() != [smiles]:  # RDKit takes what follows a space for a name, so most words for an atom
        raise ValueError("a compound is no SMILES")
    with rdBase.BlockLogs():  # they repeat what is in the table
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        raise ValueError("a compound is no SMILES")
    return tuple(_generator(radius, bits).GetFingerprintAsNumPy(molecule).tolist())


@lru_cache
def _generator(radius: int, bits: int) -> Any:
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
