"""A laboratory of compounds: from a CSV, by its map, to what a network sees."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedward_client.cache import load
from fedward_client.catalog import Catalog, scan
from fedward_client.choosing_rows import INCOMPLETE
from fedward_client.freezing import freeze
from fedward_client.intake.columns import TableMap
from fedward_client.site import Site
from fedward_common.compounds import fingerprint
from fedward_common.errors import DataError, SettingsError
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

MAP = """patient = "series"
target = { column = "pIC50", threshold = { value = 6.3, below = "inactive", above = "active" } }
[[features]]
kind = "compound"
column = "smiles"
bits = 128
"""
HEADER = "series,smiles,pIC50\n"


def rows(series: int = 40) -> list[str]:
    """Two compounds of each series; those of every other one are active, at the threshold or above."""
    return [f"s{n},{'C' * (n + 1)}{end},{6.3 if n % 2 else 6.29}\n" for n in range(series) for end in ("O", "N")]


@pytest.fixture
def laboratory(tmp_path: Path) -> Callable[..., Site]:
    """`laboratory(rows)`: a folder with one table, opened and scanned."""

    def build(body: list[str]) -> Site:
        (tmp_path / "assay.csv").write_text(HEADER + "".join(body))
        (tmp_path / "columns.toml").write_text(MAP)
        (tmp_path / "site.toml").write_text('[site]\nname = "north"\n[table]\nmap = "columns.toml"\n')
        site = Site.open(tmp_path)
        scan(site)
        return site

    return build


def study(bits: int = 128, radius: int = 2) -> StudySpec:
    return tiny_study(
        [{"rounds": 1}],
        cohort={"labels": ["inactive", "active"], "positive": "active"},
        input={"kind": "compound", "column": "smiles", "bits": bits, "radius": radius},
        model={"name": "rbm", "options": {"visible": "binary"}},
        split={"shares": [1.0, 0.0, 0.0]},
    )


def test_compounds_come_as_their_fingerprints(laboratory: Callable[..., Site]) -> None:
    site = laboratory(rows())
    data, cohort = load(site, study(), "run-1"), freeze(site, study(), "run-1")
    assert data.images.shape == (80, 128)
    assert data.images.dtype == np.float32
    lines = rows()
    for image, label, item in zip(data.images, data.labels, cohort.items, strict=True):
        _, smiles, measured = lines[item.at - 2].strip().split(",")  # the header is row 1
        assert image.tolist() == list(fingerprint(smiles, 2, 128))
        assert label == (float(measured) >= 6.3)
    assert len(cohort.people) == 40


def test_what_is_no_compound_is_set_aside_without_being_named(laboratory: Callable[..., Site]) -> None:
    site = laboratory([*rows(), "s99,C1CC(secret,6.5\n", "s98,,6.5\n", "s97,CCC,high\n"])
    with Catalog.open(site) as catalog:
        counts = catalog.counts()
    assert counts.quarantine == {
        "a row of a table: column 'smiles' holds a compound that is no SMILES, or too long a one": 1,
        "a row of a table: column 'pIC50' holds no number": 1,
    }
    assert len(load(site, study(), "run-1").images) == 80


@pytest.mark.parametrize(("bits", "radius"), [(64, 2), (128, 3)])
def test_other_fingerprints_than_the_maps_are_refused(laboratory: Callable[..., Site], bits: int, radius: int) -> None:
    with pytest.raises(DataError, match=rf"has no feature 'smiles ECFP{2 * radius} 0/{bits}' of the study's"):
        freeze(laboratory(rows()), study(bits, radius), "run-1")


def test_a_row_without_a_compound_is_left_out_under_one_name(laboratory: Callable[..., Site]) -> None:
    """Not under each of its bits, which the catalog would hold for every such row."""
    site = laboratory([*rows(), "s98,,6.5\n"])
    with Catalog.open(site) as catalog:
        missing = [row.missing for row in catalog.table_rows() if row.missing]
    assert missing == [("smiles ECFP4 64/128",)]
    assert freeze(site, study(), "run-1").left_out == {INCOMPLETE: 1}


@pytest.mark.parametrize(
    "threshold",
    [
        {"value": float("nan"), "below": "x", "above": "y"},
        {"value": "6.3", "below": "x", "above": "y"},
        {"value": 6.3, "below": "x", "above": "x"},
    ],
)
def test_a_threshold_that_tells_nothing_apart_is_refused(threshold: dict[str, object]) -> None:
    target = {"column": "a", "threshold": threshold}
    with pytest.raises(SettingsError):
        TableMap.of({"features": [{"kind": "compound", "column": "smiles"}], "target": target})


def test_a_target_has_classes_or_a_threshold() -> None:
    target = {"column": "a", "classes": {"0": "x"}, "threshold": {"value": 1, "below": "x", "above": "y"}}
    with pytest.raises(SettingsError, match="classes of its levels or a threshold, not both"):
        TableMap.of({"features": [{"kind": "compound", "column": "smiles"}], "target": target})
