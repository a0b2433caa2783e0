"""Dashboards, alerts and docs/monitoring.md name the metrics that hub and site tell, and no others."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric

from fedward_client.monitoring import Found, SiteCollector
from fedward_client.tally import Tally
from fedward_client.traffic import Traffic
from fedward_server.live import LiveRuns
from fedward_server.monitoring import HubCollector
from fedward_server.presence import PresenceWatch
from fedward_server.testing import ground

ROOT = Path(__file__).parents[2]
PLACES = ROOT / "deploy/monitoring"
NAME = re.compile(r"\bfedward_(?:hub|site)_\w+")
OTHERS = {"up", "node_textfile_mtime_seconds"}  # Prometheus's own, and node_exporter's


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Metric]]:
    """By place and name, every metric; without samples where there is nothing to tell."""
    with ground(tmp_path_factory.mktemp("hub")) as made:
        made.hub.renew_gateway()
        made.hub.renew_dashboard()
        watch = PresenceWatch(made.hub, made.store)
        hub = named(HubCollector(made.hub, made.store, watch, LiveRuns(made.hub, made.store)).collect())
    traffic, tally = Traffic(), Tally()
    traffic.passed(sent=1)
    counted = {**tally.numbers(), "paused": False, "waiting": 0, "gpu_memory": (1, 2)}
    now = datetime.now(UTC)
    found = Found(now=0, disk=(1, 2), counted=counted, traffic=traffic.numbers(), certificate_ends=now)
    return {"hub": hub, "site": named(SiteCollector("north", found).collect())}


def named(metrics: Iterator[Metric]) -> dict[str, Metric]:
    return {each.name + ("_total" if each.type == "counter" else ""): each for each in metrics}


def panels(place: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((PLACES / place / "dashboard.json").read_text())["panels"]
    return found


@pytest.mark.parametrize("place", ["hub", "site"])
def test_a_dashboard_shows_every_metric(told: dict[str, dict[str, Metric]], place: str) -> None:
    expressions = " ".join(target["expr"] for panel in panels(place) for target in panel["targets"])
    assert set(NAME.findall(expressions)) == told[place].keys()


@pytest.mark.parametrize("place", ["hub", "site"])
def test_panels_have_titles_and_places_of_their_own(place: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(place):
        assert panel["title"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in panels(place)}) == len(panels(place))


@pytest.mark.parametrize("place", ["hub", "site"])
def test_a_legend_names_labels_that_are_there(told: dict[str, dict[str, Metric]], place: str) -> None:
    for panel in panels(place):
        for target in panel["targets"]:
            labels = {name for each in NAME.findall(target["expr"]) for name in labels_of(told[place][each])}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel["title"]


def labels_of(metric: Metric) -> set[str]:
    names: tuple[str, ...] = metric._labelnames  # type: ignore[attr-defined]  # of a metric without samples, too
    return set(names)


@pytest.mark.parametrize("place", ["hub", "site"])
def test_alerts_name_metrics_that_are_there_and_say_what_to_do(told: dict[str, dict[str, Metric]], place: str) -> None:
    rules = re.split(r"\n      - alert: ", (PLACES / place / "alerts.yml").read_text())[1:]
    assert len(rules) > 5
    for rule in rules:
        [expression] = re.findall(r"^ +expr: (.+)$", rule, re.MULTILINE)
        assert set(NAME.findall(expression)) <= told[place].keys(), rule
        assert NAME.search(expression) or OTHERS & set(re.findall(r"\w+", expression)), rule
        assert re.search(r"^ +summary: \S", rule, re.MULTILINE), rule
        assert re.search(r"^ +action: \S", rule, re.MULTILINE), rule


def test_the_page_lists_every_metric_with_its_label(told: dict[str, dict[str, Metric]]) -> None:
    text = (ROOT / "docs/monitoring.md").read_text("utf-8")
    rows = re.findall(r"^\| `(fedward_\w+)` \| (?:`(\w+)`)? ?\| ", text, re.MULTILINE)
    told_of = {**told["hub"], **told["site"]}
    assert {name for name, _ in rows} == told_of.keys()
    for name, label in rows:
        assert {label} - {""} == labels_of(told_of[name]) - ({"site"} if name.startswith("fedward_site_") else set()), (
            name
        )
