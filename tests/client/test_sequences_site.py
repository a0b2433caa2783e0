"""A hospital of DNA windows: from a CSV, by the hospital's map, to what a network sees."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedward_client.cache import load
from fedward_client.catalog import Catalog, scan
from fedward_client.choosing_rows import INCOMPLETE
from fedward_client.freezing import freeze, from_catalog
from fedward_client.site import Site
from fedward_client.training.augment import Augmentation
from fedward_common.dna import codes, one_hot
from fedward_common.errors import DataError
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

MAP = """patient = "gene"
target = { column = "active", classes = { 0 = "inactive", 1 = "active" } }
[[features]]
kind = "sequence"
column = "dna"
length = 20
"""
HEADER = "gene,dna,active\n"


def rows(genes: int = 40) -> list[str]:
    """Two windows of each gene; every other gene is active."""
    random = np.random.default_rng(0)
    return [
        f"gene{gene:02d},{''.join(random.choice(list('ACGTacgtN'), 24))},{gene % 2}\n"
        for gene in range(genes)
        for _ in range(2)
    ]


@pytest.fixture
def hospital(tmp_path: Path) -> Callable[..., Site]:
    """`hospital(rows)`: a folder with one table, opened and scanned."""

    def build(body: list[str]) -> Site:
        (tmp_path / "windows.csv").write_text(HEADER + "".join(body))
        (tmp_path / "columns.toml").write_text(MAP)
        (tmp_path / "site.toml").write_text('[site]\nname = "north"\n[table]\nmap = "columns.toml"\n')
        site = Site.open(tmp_path)
        scan(site)
        return site

    return build


def study(length: int = 16, column: str = "dna") -> StudySpec:
    return tiny_study(
        cohort={"labels": ["inactive", "active"], "positive": "active"},
        input={"kind": "sequence", "column": column, "length": length},
        model={"name": "cnn-1d", "options": {"width": 8}},
        split={"shares": [1.0, 0.0, 0.0]},
    )


def test_a_window_is_what_stands_in_the_middle_of_the_column(hospital: Callable[..., Site]) -> None:
    site, body = hospital(rows()), rows()
    data, items = load(site, study(), "run-1"), freeze(site, study(), "run-1").items
    assert data.images.dtype == np.float32
    assert data.images.shape == (80, 4, 16)
    sides: dict[str, set[str]] = {}
    for image, item in zip(data.images, items, strict=True):
        _, dna, active = body[item.at - 2].strip().split(",")  # the header is row 1
        assert image.tolist() == one_hot(codes(dna, 16)).tolist()
        assert item.label == int(active)
        sides.setdefault(item.patient, set()).add(item.side)
    assert len(sides) == 40
    assert all(len(each) == 1 for each in sides.values())


def test_other_letters_are_in_quarantine_and_a_missing_sequence_is_left_out(hospital: Callable[..., Site]) -> None:
    site = hospital([*rows(), "gene90,ACGTRACGTACG,1\n", "gene91,ACGU,0\n", "gene92,,1\n", "gene93,ACGTACGTACG,2\n"])
    with Catalog.open(site) as catalog:
        counts = catalog.counts()
    assert counts.table_rows == 81
    assert counts.quarantine == {
        "a row of a table: column 'dna' holds letters other than A, C, G, T and N": 2,
        "a row of a table: its target, column 'active', is of no class that the map lists": 1,
    }
    assert from_catalog(site, study()).left_out == {INCOMPLETE: 1}


def test_a_study_takes_no_more_than_the_map_keeps(hospital: Callable[..., Site]) -> None:
    site = hospital(rows())
    with pytest.raises(DataError, match=r"no feature 'dna\[-11\]' of the study's; it has dna\[-10\], dna\[-9\], "):
        from_catalog(site, study(22))
    with pytest.raises(DataError, match=r"no feature 'rna\[-8\]'"):
        from_catalog(site, study(column="rna"))


def test_the_other_strand_is_read_in_half_of_the_draws() -> None:
    window = torch.from_numpy(one_hot(codes("AACGTNACGG", 10)))
    other = torch.from_numpy(one_hot(codes("CCGTNACGTT", 10)))
    augment = Augmentation(["reverse-complement"], (10,))
    seeds = range(200)
    found = augment(window.expand(200, 4, 10), seeds)
    assert type(found) is torch.Tensor
    turned = [torch.equal(each, other) for each in found]
    assert all(torch.equal(each, other if is_other else window) for each, is_other in zip(found, turned, strict=True))
    assert 70 < sum(turned) < 130
    assert torch.equal(augment(window.expand(200, 4, 10), seeds), found)


def test_a_sequence_has_no_scale() -> None:
    section = study().input
    assert section.on_scale(None) == section
    with pytest.raises(ValueError, match="no scale that sites measure"):
        section.on_scale((0.5,))
