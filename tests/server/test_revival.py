"""Runs that died: noticed, let go on, given up; without a SuperLink, which the integration tests have."""

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_common.audit import entries
from fedward_common.errors import RunError
from fedward_common.study import find, load, resolved
from fedward_server import runs
from fedward_server.events import EventKind, RunEvent
from fedward_server.hub import Hub
from fedward_server.journal import Journal, Tail, standing
from fedward_server.locks import held
from fedward_server.revival import HUB_STOPPED, MOST_DEATHS, PROCESS_DIED, Revival, deaths
from fedward_server.store import RunRow, Store
from fedward_server.superlink import free_port

RUN = "study-1"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return Hub.init(tmp_path_factory.mktemp("revival") / "hub", name="alliance", port=free_port())


@pytest.fixture
def store(hub: Hub) -> Iterator[Store]:
    with hub.store() as opened:
        yield opened


@pytest.fixture
def run(hub: Hub, store: Store, request: pytest.FixtureRequest) -> Iterator[RunRow]:
    """A run that is at work by the records, and whose process has gone."""
    study = resolved(load(find("breast-ultrasound")))
    name = f"{RUN}-{request.node.name}"
    folder = hub.runs / name
    folder.mkdir()
    (folder / runs.STUDY).write_bytes(study.canonical_json())
    (folder / runs.LOCK).touch()
    store.start_run(name, study.study.id, study.digest, study.canonical_json().decode(), runs.ENGINE)
    store.set_flower_run(name, "7")
    yield store.run(name)
    store.finish_run(name, "finished", None)


@pytest.fixture
def superlink(hub: Hub) -> Iterator[None]:
    """What answers at the hub's address as if it were well, and takes no run."""

    class Well(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(hub.tls.certificate, hub.tls.key)
    with ThreadingHTTPServer(("127.0.0.1", hub.port), Well) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert hub.link.healthy()
        yield
        server.shutdown()
        thread.join()


def told(hub: Hub, run: RunRow) -> list[tuple[EventKind, int, str]]:
    return [(event.kind, event.round, event.note) for event in Tail(hub.runs / run.run).new()]


def audited(hub: Hub, run: RunRow) -> list[str]:
    return [entry.event for entry in entries(hub.folder / "audit.jsonl") if entry.data.get("run") == run.run]


def on_disk(hub: Hub, run: RunRow, number: int) -> None:
    (hub.runs / run.run / f"round-{number:06d}.json").touch()


def test_a_run_whose_process_is_gone_is_interrupted_and_one_that_is_held_is_not(
    hub: Hub, store: Store, run: RunRow
) -> None:
    on_disk(hub, run, 4)
    with held(hub.runs / run.run / runs.LOCK):
        Revival(hub, store).look()
        assert store.run(run.run).status == "running"
    Revival(hub, store).look()
    row = store.run(run.run)
    assert (row.status, row.reason) == ("interrupted", PROCESS_DIED)
    assert told(hub, run) == [("died", 4, PROCESS_DIED)]
    assert audited(hub, run) == ["run interrupted"]
    assert standing(Tail(hub.runs / run.run).new()).interruptions == [(4, PROCESS_DIED)]


def test_a_hub_that_is_stopped_interrupts_its_runs_and_no_death_is_counted(hub: Hub, store: Store, run: RunRow) -> None:
    for _ in range(2 * MOST_DEATHS):
        Revival(hub, store).all_ended("interrupted", HUB_STOPPED)
        assert store.go_on(run.run, "interrupted")
    assert told(hub, run) == [("interrupted", 0, HUB_STOPPED)] * 2 * MOST_DEATHS
    assert deaths(hub.runs / run.run) == 0


def test_without_a_superlink_a_run_waits(hub: Hub, store: Store, run: RunRow) -> None:
    revival = Revival(hub, store)
    revival.all_ended("died", PROCESS_DIED)
    revival.look()
    assert store.run(run.run).status == "interrupted"
    assert [kind for kind, _, _ in told(hub, run)] == ["died"]


def test_a_run_that_flower_does_not_take_has_died_again_and_is_not_handed_over_at_once(
    hub: Hub, store: Store, run: RunRow, superlink: None
) -> None:
    revival = Revival(hub, store)
    revival.all_ended("died", PROCESS_DIED)
    revival.look()
    row = store.run(run.run)
    assert row.status == "interrupted"
    assert row.reason is not None
    assert row.reason.startswith("`flwr run` failed")
    assert [kind for kind, _, _ in told(hub, run)] == ["died", "resumed", "died"]
    revival.look()
    assert len(told(hub, run)) == 3


def test_the_third_death_after_one_round_is_the_end(hub: Hub, store: Store, run: RunRow) -> None:
    revival = Revival(hub, store)
    for number in (1, 2, 2, 2):
        on_disk(hub, run, number)
        assert store.run(run.run).status == "running"
        revival.all_ended("died", PROCESS_DIED)
        store.go_on(run.run, "interrupted")
    row = store.run(run.run)
    assert row.status == "failed"
    assert row.reason == (
        f"it died 3 times in a row after round 2, the last time because {PROCESS_DIED}; its run.log and the hub's logs "
        "may tell more: put that right, then `fedward study resume` goes on"
    )
    assert told(hub, run)[-1][:2] == ("failed", 2)
    assert deaths(hub.runs / run.run) == 0  # from here on, a person has let it go on


def test_a_run_that_cannot_go_on_as_it_was_fails(hub: Hub, store: Store, run: RunRow, superlink: None) -> None:
    revival = Revival(hub, store)
    revival.all_ended("died", PROCESS_DIED)
    (hub.runs / run.run / runs.STUDY).unlink()
    revival.look()
    row = store.run(run.run)
    assert row.status == "failed"
    assert row.reason is not None
    assert "restore its folder from a backup" in row.reason


def test_a_run_that_was_interrupted_can_be_stopped_while_the_hub_is_down_and_not_be_resumed_by_hand(
    hub: Hub, store: Store, run: RunRow
) -> None:
    Revival(hub, store).all_ended("interrupted", HUB_STOPPED)
    with pytest.raises(RunError, match="was interrupted, and goes on by itself while the hub is up"):
        runs.resume(hub, run.run)
    runs.stop(hub, run.run)
    assert store.run(run.run).status == "stopped"
    Revival(hub, store).look()
    assert store.run(run.run).status == "stopped"
    with pytest.raises(RunError, match="is not running: it was stopped"):
        runs.stop(hub, run.run)


def test_events_that_cannot_be_written_leave_the_supervisor_alone(hub: Hub, store: Store, run: RunRow) -> None:
    journal = hub.runs / run.run / "events.jsonl"
    journal.mkdir()  # stands in the way, as a full disk does
    Revival(hub, store).look()
    assert store.run(run.run).status == "interrupted"


KINDS = st.sampled_from(["began", "round", "aggregated", "died", "interrupted", "resumed", "failed", "stopped"])


@given(st.lists(st.tuples(KINDS, st.integers(0, 3)), max_size=20))
def test_deaths_are_those_after_the_last_end_and_the_last_round(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[EventKind, int]]
) -> None:
    folder = tmp_path_factory.mktemp("deaths")
    (folder / "round-000002.json").touch()
    journal = Journal(folder)
    for kind, number in found:
        journal(RunEvent(kind=kind, run=RUN, round=number, rounds=3))
    ends = [place for place, (kind, _) in enumerate(found) if kind in {"failed", "stopped"}]
    assert deaths(folder) == found[ends[-1] + 1 if ends else 0 :].count(("died", 2))
