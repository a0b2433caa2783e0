"""Invented compounds in a table: rings with two substituents, of which one kind makes them active.

At strength 1 a sulfonamide adds two units of pIC50 to what an assay finds, whose own spread is 0.3; at 0 it adds none.
"""

from pathlib import Path

from fedward_common.streams import stream

MAP = """patient = "molecule"
target = { column = "pIC50", threshold = { value = 6.3, below = "inactive", above = "active" } }
features = [{ kind = "compound", column = "smiles", radius = 2, bits = 1024 }]
"""
_RINGS = ("c1ccc({})cc1{}", "c1cnc({})cc1{}", "c1cc2ccccc2c({})c1{}", "c1cc2[nH]ccc2c({})c1{}", "C1CCN({})CC1{}")
_OTHERS = ("C", "CC", "OC", "F", "C(F)(F)F", "C(=O)N", "C(=O)OC", "CN(C)C", "C#N", "c1ccccc1", "CCO", "C1CC1")
_DRIVER = "S(=O)(=O)N"


def write(folder: Path, laboratory: str, compounds: int, strength: float, *, measured: bool = True) -> None:
    """`assay.csv` and the map of its columns in `folder`; every other compound has the sulfonamide.

    A laboratory that has `measured` none has compounds alone.
    """
    random = stream(0, "synthetic compounds", laboratory)
    rows = ["molecule,smiles,pIC50\n"]
    for number in range(compounds):
        driven = number % 2 == 0
        first = _DRIVER if driven else random.choice(_OTHERS)
        smiles = str(random.choice(_RINGS)).format(first, "C({})C{}".format(*random.choice(_OTHERS, 2)))
        found = 5.3 + random.normal(0, 0.3) + 2 * (strength * driven + (1 - strength) * random.integers(2))
        rows.append(f"{laboratory}-{number},{smiles},{f'{found:.3f}' if measured else ''}\n")
    (folder / "assay.csv").write_text("".join(rows))
    (folder / "columns.toml").write_text(MAP)
