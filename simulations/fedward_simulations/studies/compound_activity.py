"""ChEMBL's inhibitors of the epidermal growth factor receptor, and UCI's voices of people with Parkinson's disease.

Laboratories differ in the chemistry they make: a compound goes to one by its scaffold (Bemis, Murcko: The properties of
known drugs. J. Med. Chem. 39, 1996), and compounds of one scaffold are on one side of the split.
"""

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fedward_simulations.studies import Trial, hospital_folder

LABORATORIES = ("east", "north", "west")
_TABLE = '[table]\nfiles = "rows.csv"\nmap = "columns.toml"\n'
_COMPOUNDS = """patient = "scaffold"
target = { column = "pIC50", threshold = { value = 6.3, below = "inactive", above = "active" } }
features = [{ kind = "compound", column = "smiles", radius = 2, bits = 1024 }]
"""
_CLINICS = ("first", "second")


def write(source: Path, hospitals: Path) -> None:
    """Three laboratories, each with about a third of the scaffolds."""
    with (source / "egfr_compounds_lipinski.csv").open(newline="") as file:
        found = [(_scaffold(row["smiles"]), row["smiles"], row["pIC50"]) for row in csv.DictReader(file)]
    for place, name in enumerate(LABORATORIES):
        own = [row for row in found if _draw(row[0]) % len(LABORATORIES) == place]
        _hospital(hospitals, name, _COMPOUNDS, ["scaffold", "smiles", "pIC50"], own)


def write_voices(source: Path, hospitals: Path) -> None:
    """Two clinics; people go to them in turns, the ill and the healthy each. phon_R01_S07_3 is a recording of S07."""
    with (source / "parkinsons.data").open(newline="") as file:
        header, *rows = csv.reader(file)
    status = header.index("status")
    features = [name for name in header[1:] if name != "status"]
    people = {row[0].split("_")[2]: row[status] for row in rows}
    order = sorted(people, key=lambda person: (people[person], person))
    columns = "".join(f'[[features]]\nkind = "numeric"\ncolumn = "{name}"\n' for name in features)
    settings = f'patient = "person"\ntarget = {{ column = "status", classes = {_ILL} }}\n{columns}'
    for place, name in enumerate(_CLINICS):
        own = [row for row in rows if order.index(row[0].split("_")[2]) % len(_CLINICS) == place]
        _hospital(hospitals, name, settings, ["person", *header[1:]], [[row[0].split("_")[2], *row[1:]] for row in own])


_ILL = '{ 0 = "healthy", 1 = "parkinson" }'
_FEATURES = [
    "MDVP:Fo(Hz)",
    "MDVP:Fhi(Hz)",
    "MDVP:Flo(Hz)",
    "MDVP:Jitter(%)",
    "MDVP:Jitter(Abs)",
    "MDVP:RAP",
    "MDVP:PPQ",
    "Jitter:DDP",
    "MDVP:Shimmer",
    "MDVP:Shimmer(dB)",
    "Shimmer:APQ3",
    "Shimmer:APQ5",
    "MDVP:APQ",
    "Shimmer:DDA",
    "NHR",
    "HNR",
    "RPDE",
    "DFA",
    "spread1",
    "spread2",
    "D2",
    "PPE",
]


def _hospital(hospitals: Path, name: str, columns: str, header: list[str], rows: Iterable[Iterable[str]]) -> None:
    folder = hospital_folder(hospitals, name, _TABLE)
    (folder / "columns.toml").write_text(columns)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _scaffold(smiles: str) -> str:
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    return MurckoScaffoldSmiles(smiles) or "no ring"  # type: ignore[no-untyped-call]


def _draw(scaffold: str) -> int:
    return int.from_bytes(hashlib.sha256(scaffold.encode()).digest()[:4], "big")


_AUTOENCODER = {"name": "sparse-autoencoder", "options": {"hidden": [512, 128], "dropout": 0.3}}
_EGFR = Trial(
    name="compound-activity, EGFR",
    template="compound-activity",
    source="kinase_chembl",
    write=write,
    data="ChEMBL, 4,635 compounds on EGFR, by TeachOpenCADD (Sydow et al. 2019, doi:10.1186/s13321-019-0351-x)",
    caveat="Compounds are dealt out to three laboratories by scaffold; patients are scaffolds.",
    published="accuracy +28.0 and +18.8 points over support vector machine and nearest neighbours",
    accuracies=True,
)
_VOICES = Trial(
    name="Parkinson by voice",
    template="compound-activity",
    source="uci_parkinsons_voice",
    write=write_voices,
    data="UCI Parkinsons, 195 recordings of 32 people (Little et al. 2007, doi:10.24432/C59C74)",
    caveat="Two clinics were made of one study; few people are tested, so figures say little.",
    accuracies=True,
    changes={
        "study": {
            "id": "parkinson-voice",
            "title": "Parkinson's disease by voice",
            "purpose": "Tell people with Parkinson's disease from healthy ones by how they hold a vowel",
        },
        "cohort": {"labels": ["healthy", "parkinson"], "positive": "parkinson", "min_patients": 5},
        "input": {"kind": "table", "features": _FEATURES},
        "model": {"options": {"hidden": [64, 16], "visible": "gaussian", "dropout": 0.3}},
        "evaluation": {"keep": "last"},  # there are too few for validation
    },
)
TRIALS = (
    _EGFR,
    replace(
        _EGFR,
        name="compound-activity, EGFR, sparse autoencoder",
        published="accuracy +23.5 and +14.3 points over these",
        changes={"model": _AUTOENCODER},
    ),
    _VOICES,
)
