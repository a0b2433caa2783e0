"""A hub's metrics, scraped over loopback from the real server and read as Prometheus reads them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedward_server.bulk import FOLDER
from fedward_server.events import EventKind, RunEvent
from fedward_server.hub_settings import MetricsSection
from fedward_server.journal import Journal
from fedward_server.live import LiveRuns
from fedward_server.monitoring import PREFIX, metrics_told
from fedward_server.presence import Presence, PresenceWatch
from fedward_server.store import RoundRow, SiteRoundRow
from fedward_server.superlink import free_port
from fedward_server.testing import Ground

Figures = dict[str, dict[str, float]]


@contextmanager
def told(ground: Ground, *, superlink: bool = True) -> Iterator[str]:
    """Where the metrics of the hub are told, whose gateway has its certificate."""
    ground.hub.renew_gateway()
    ground.hub.renew_dashboard()
    listen = f"127.0.0.1:{free_port()}"
    settings = ground.hub.settings.model_copy(update={"metrics": MetricsSection(listen=listen)})
    watch = PresenceWatch(ground.hub, ground.store)
    if superlink:
        watch.seen = {"north": Presence(connection="online"), "south": Presence(connection="never")}
    with metrics_told(replace(ground.hub, settings=settings), ground.store, watch, LiveRuns(ground.hub, ground.store)):
        yield listen


def scrape(listen: str) -> Figures:
    """By metric without its prefix, the figures by the value of their one label."""
    answer = httpx.get(f"http://{listen}/metrics", trust_env=False).raise_for_status()
    found: Figures = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        for sample in family.samples:
            assert len(sample.labels) < 2
            place = found.setdefault(sample.name.removeprefix(PREFIX), {})
            place["".join(sample.labels.values())] = sample.value
    return found


def scraped(ground: Ground, *, superlink: bool = True) -> Figures:
    with told(ground, superlink=superlink) as listen:
        return scrape(listen)


@pytest.fixture
def run(ground: Ground) -> str:
    """A run of both sites in its third round: one update of south was refused, and it waits for south."""
    ground.started("run-1", "north", "south")
    journal = Journal(ground.hub.runs / "run-1")
    rounds: list[tuple[EventKind, int, str]] = [("round", number, "") for number in (1, 2, 3)]
    events: list[tuple[EventKind, int, str]] = [("began", 0, ""), *rounds, ("waiting", 3, "south")]
    for kind, number, site in events:
        journal(RunEvent(kind=kind, run="run-1", round=number, rounds=20, site=site, note="13 patients of DOE^JANE"))
    for number, primary in ((1, 0.71), (2, None)):
        row = RoundRow(run="run-1", round=number, seconds=7.5, train_seconds=5, bytes_up=11, bytes_down=17)
        north = SiteRoundRow(run="run-1", round=number, site="north", patients=4711, bytes_up=11)
        south = SiteRoundRow(run="run-1", round=number, site="south", status="refused", reason="4711 patients")
        parts = [north, replace(south, status="accepted") if number == 1 else south]
        ground.store.record_round(replace(row, primary=primary), parts)
    return "run-1"


def test_how_sites_stand(ground: Ground) -> None:
    found = scraped(ground)
    assert found["superlink_up"] == {"": 1}
    assert found["site_connected"] == {"north": 1, "south": 0}
    ends = found["site_certificate_end_timestamp_seconds"]
    assert ends.keys() == {"north", "south"}
    assert found["certificate_end_timestamp_seconds"].keys() == {"superlink", "gateway", "authority", "dashboard"}
    assert found["sites_asking"] == {"": 0}
    ground.asks("east")
    assert scraped(ground)["sites_asking"] == {"": 1}


def test_without_a_superlink_nobody_knows_who_is_connected(ground: Ground) -> None:
    found = scraped(ground, superlink=False)
    assert found["superlink_up"] == {"": 0}
    assert "site_connected" not in found


def test_how_a_run_stands(ground: Ground, run: str) -> None:
    found = scraped(ground)
    assert found["runs"] == {"running": 1, "interrupted": 0, "finished": 0, "failed": 0, "stopped": 0}
    assert found["run_round"] == {run: 3}
    assert found["run_rounds"] == {run: 20}
    assert (found["run_sites_waited_for"], found["run_paused"]) == ({run: 1}, {run: 0})
    figures = {name: found[f"run_last_round_{name}"][run] for name in ("seconds", "train_seconds", "up_bytes")}
    assert figures == {"seconds": 7.5, "train_seconds": 5, "up_bytes": 11}
    assert found["run_last_round_down_bytes"] == {run: 17}
    assert found["run_primary_score"] == {run: 0.71}  # of the last model that was scored
    assert found["refused_updates_total"] == {"north": 0, "south": 1}


def test_a_run_that_is_over_is_a_number(ground: Ground, run: str) -> None:
    ground.store.finish_run(run, "finished", "ab" * 32)
    found = scraped(ground)
    assert found["runs"]["finished"] == 1
    assert not [name for name, figures in found.items() if run in figures]


def test_what_the_disk_holds(ground: Ground) -> None:
    place = ground.hub.folder / FOLDER / "up" / "north" / "run-1" / "1"
    place.mkdir(parents=True)
    (place / "chunk").write_bytes(bytes(1000))
    found = scraped(ground)
    assert found["bulk_held_bytes"] == {"north": 1000}
    assert found["bulk_quota_bytes"] == {"": 8192 * 2**20}
    assert 0 < found["disk_free_bytes"][""] < found["disk_size_bytes"][""]


def test_nothing_of_patients_is_told(ground: Ground, run: str) -> None:
    with told(ground) as listen:
        text = httpx.get(f"http://{listen}/metrics", trust_env=False).text
    assert run in text
    for word in ("4711", "13 patients", "JANE", str(ground.folder)):
        assert word not in text


def test_what_cannot_be_read_is_said(ground: Ground, run: str) -> None:
    assert set(scraped(ground)["readable"].values()) == {1}
    with told(ground) as listen:
        ground.hub.gateway_pem.write_text("damaged")
        (ground.hub.runs / run / "events.jsonl").unlink()
        (ground.hub.runs / run / "events.jsonl").mkdir()
        found = scrape(listen)
    assert found["readable"] == {"database": 1, "runs": 0, "certificates": 0, "disk": 1}
    assert "site_connected" in found
    assert "certificate_end_timestamp_seconds" not in found


def test_it_listens_while_it_is_wanted_and_only_then(ground: Ground) -> None:
    with told(ground) as listen:
        pass
    with pytest.raises(httpx.ConnectError):
        scrape(listen)
    presence, live = PresenceWatch(ground.hub, ground.store), LiveRuns(ground.hub, ground.store)
    with metrics_told(ground.hub, ground.store, presence, live):  # without [metrics]
        pass


def test_a_port_that_is_taken_is_no_reason_to_end(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        settings = ground.hub.settings.model_copy(update={"metrics": MetricsSection(listen=listen)})
        presence, live = PresenceWatch(ground.hub, ground.store), LiveRuns(ground.hub, ground.store)
        with metrics_told(replace(ground.hub, settings=settings), ground.store, presence, live):
            pass
    assert f"no metrics are told at {listen} (Address already in use): stop what listens there" in caplog.text
