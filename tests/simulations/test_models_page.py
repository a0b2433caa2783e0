"""What networks weigh: against numbers by hand."""

import re
from pathlib import Path

import pytest

from fedward_common import models
from fedward_simulations import models_page
from fedward_simulations.models_page import Measured


def test_a_small_network_is_measured() -> None:
    found = models_page._apart("logistic-regression", 0)
    assert found.parameters == 13 * 2 + 2
    assert found.per_second > 100
    assert 0 < found.step_mib < 500
    assert found.faster is None, "rows are not cast"


def test_the_page_has_every_network_once_for_each_kind_of_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_page, "_apart", lambda name, dims: Measured(2**18 * (dims + 1), 12.4, 1234.5, 1.26))
    page = models_page.page()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(models.describe(name).dims) for name in models.names())
    assert "| `mlp` | classification, survival | 262,144 | 1.0 | 12 | 1.23e+03 | x 1.3 | Rumelhart" in page


def test_the_page_that_is_there_has_every_network_of_today() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    sections = dict(section.split("\n", 1) for section in page.split("\n## For ")[1:])
    found = {kind: re.findall(r"(?m)^\| `([\w-]+)` \|", section) for kind, section in sections.items()}
    assert found == {
        kind: [name for name in models.names() if dims in models.describe(name).dims]
        for dims, kind in models_page._KINDS.items()
    }
