"""Who takes part in a deployment: a fixed roster, sites that come late or wait for approval, nodes that lie."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Error, Message

from fedward_common.errors import RunError
from fedward_common.study import SiteEntry, StudySpec
from fedward_common.testing import Answerer, FakeGrid, FakeSite, tiny_study
from fedward_server import rounds
from fedward_server.events import RunEvent
from fedward_server.exchange import GONE, Connected, Node
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine

NORTH = {"north": Node(1)}
BOTH = {**NORTH, "valley": Node(2)}

UNAPPROVED = "waits for approval by its steward"


def study(*names: str, min_sites: int = 1, deadline_s: float = 20.0) -> StudySpec:
    """A study with a roster."""
    spec = tiny_study(training={"rounds": 1}, strategy={"min_sites": min_sites, "round_deadline_s": deadline_s})
    return spec.model_copy(update={"sites": tuple(SiteEntry(name=name) for name in names)})


def run(
    folder: Path,
    spec: StudySpec,
    grid: FakeGrid,
    connected: Connected | None,
    wait_s: float = 0.0,
) -> tuple[RunResult, list[RunEvent]]:
    events: list[RunEvent] = []
    engine = RoundEngine(
        grid=grid,
        study=spec,
        run="run-1",
        engine="deployment",
        folder=folder,
        on_round=lambda _row: None,
        listener=events.append,
        connected=connected,
        wait_s=wait_s,
    )
    return engine(), events


def refuses(reason: str, times: int, site: Answerer, code: int = 1000) -> Answerer:
    """A site that refuses a few times before it answers."""
    left = times

    def answer(message: Message) -> Message | None:
        nonlocal left
        left -= 1
        if left >= 0:
            return Message(Error(code=code, reason=reason), reply_to=message)
        return site(message)

    return answer


def notes(events: Iterable[RunEvent], kind: str) -> list[tuple[str, str]]:
    return [(event.site, event.note) for event in events if event.kind == kind]


def test_a_site_that_waits_for_approval_is_asked_again_and_told_once(tmp_path: Path) -> None:
    sites: dict[int, Answerer] = {1: FakeSite(name="north"), 2: refuses(UNAPPROVED, 2, FakeSite(name="valley"))}
    result, events = run(tmp_path, study("north", "valley"), FakeGrid(sites), lambda: BOTH, wait_s=30.0)
    assert set(result.sites) == {"north", "valley"}
    assert notes(events, "waiting") == [("valley", UNAPPROVED)]
    assert not result.left_out


def test_a_site_that_connects_late_takes_part(tmp_path: Path) -> None:
    looks = 0

    def connected() -> dict[str, Node]:
        nonlocal looks
        looks += 1
        return NORTH if looks < 2 else BOTH

    sites: dict[int, Answerer] = {1: FakeSite(name="north"), 2: FakeSite(name="valley")}
    result, events = run(tmp_path, study("north", "valley", min_sites=2), FakeGrid(sites), connected, wait_s=30.0)
    assert set(result.sites) == {"north", "valley"}
    assert notes(events, "waiting") == [("valley", "is not connected to the hub")]


def test_after_the_wait_a_site_is_left_out_with_its_reason(tmp_path: Path) -> None:
    sites: dict[int, Answerer] = {1: FakeSite(name="north"), 2: refuses(UNAPPROVED, 99, FakeSite(name="valley"))}
    result, events = run(tmp_path, study("north", "valley", "west"), FakeGrid(sites), lambda: BOTH, wait_s=0.2)
    assert set(result.sites) == {"north"}
    assert result.left_out == (f"valley: {UNAPPROVED}", "west: is not connected to the hub")
    assert sorted(notes(events, "left-out")) == sorted(tuple(reason.split(": ")) for reason in result.left_out)


def test_too_few_sites_are_told_with_their_reasons(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"0 sites are ready to train.*at least 1: north: is not connected to the hub"):
        run(tmp_path, study("north"), FakeGrid({}), dict)


def test_a_refusal_for_good_is_not_asked_again(tmp_path: Path) -> None:
    asked = 0

    def small(message: Message) -> Message | None:
        nonlocal asked
        asked += 1
        return Message(Error(code=1000, reason="fewer than 5 training patients"), reply_to=message)

    sites: dict[int, Answerer] = {1: FakeSite(name="north"), 2: small}
    result, _ = run(tmp_path, study("north", "valley"), FakeGrid(sites), lambda: BOTH, 30.0)
    assert asked == 1
    assert result.left_out == ("valley: fewer than 5 training patients",)


def test_a_node_that_answers_as_another_site_is_left_out(tmp_path: Path) -> None:
    sites: dict[int, Answerer] = {1: FakeSite(name="north"), 2: FakeSite(name="west")}
    result, _ = run(tmp_path, study("north", "valley", "west"), FakeGrid(sites), lambda: BOTH, wait_s=0.0)
    assert set(result.sites) == {"north"}
    assert "valley: its node answered as west" in result.left_out


def test_a_site_that_is_at_work_longer_is_shown_and_waited_for(tmp_path: Path) -> None:
    class Slow(FakeGrid):
        """Gives replies at the third second."""

        pulls = 0

        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            self.pulls += 1
            return super().pull_messages(message_ids) if self.pulls > 60 else []

    result, events = run(tmp_path, study("north"), Slow({1: FakeSite(name="north")}), lambda: NORTH)
    assert set(result.sites) == {"north"}
    assert [event.kind for event in events][:2] == ["preparing", "prepared"]


# A connection that is lost during a round -----------------------------------------------------------------------------


def lost_once(site: FakeSite, kind: str) -> Answerer:
    """A site whose connection is lost when it is asked a `kind` first."""
    gone = refuses("lost its connection", 1, site, GONE)
    return lambda message: gone(message) if message.metadata.message_type == kind else site(message)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_site_that_comes_back_in_time_is_asked_again(tmp_path: Path, kind: str) -> None:
    sites: dict[int, Answerer] = {1: FakeSite(name="north"), 2: lost_once(FakeSite(name="valley"), kind)}
    result, _ = run(tmp_path, study("north", "valley"), FakeGrid(sites), lambda: BOTH)
    assert set(result.history[0].sites) == {"north", "valley"}
    assert all(site.test is not None for site in result.sites.values())


def test_a_site_that_does_not_come_back_costs_the_deadline_and_is_named(tmp_path: Path) -> None:
    site = FakeSite(name="valley")

    def gone(message: Message) -> Message:
        return Message(Error(code=GONE, reason="lost its connection"), reply_to=message)

    sites: dict[int, Answerer] = {
        1: FakeSite(name="north"),
        2: lambda m: site(m) if m.metadata.message_type == "query" else gone(m),
    }
    result, _ = run(tmp_path, study("north", "valley", deadline_s=1.0), FakeGrid(sites), lambda: BOTH)
    assert "1 s is the limit of this study" in result.history[0].refused["valley"]


@pytest.mark.parametrize("deployed", [True, False])
def test_who_takes_far_longer_than_before_is_let_go_and_in_a_simulation_no_sooner_than_the_study_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deployed: bool
) -> None:
    """Its hospitals share a machine: that one waits for a core says nothing of it."""
    monkeypatch.setattr(rounds, "SHORTEST_LIMIT_S", 0.3)
    spec = study("north", "valley", deadline_s=1.5)
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"rounds": 2})})
    valley, trained = FakeSite(name="valley"), 0

    def once(message: Message) -> Message | None:
        nonlocal trained
        trained += message.metadata.message_type == "train"
        return valley(message) if trained < 2 else None

    grid = FakeGrid({1: FakeSite(name="north"), 2: once})
    result, _ = run(tmp_path, spec, grid, (lambda: BOTH) if deployed else None)
    why = "its limit, from what it needed before" if deployed else "1.5 s is the limit of this study"
    assert why in result.history[1].refused["valley"]


def test_in_a_simulation_a_lost_node_is_not_asked_again(tmp_path: Path) -> None:
    engine = RoundEngine(
        grid=FakeGrid({1: FakeSite(name="north"), 2: lost_once(FakeSite(name="valley"), "train")}),
        study=tiny_study(training={"rounds": 1}),
        run="run-1",
        engine="ray",
        folder=tmp_path,
        on_round=lambda _row: None,
        listener=lambda _event: None,
    )
    assert engine().history[0].refused == {"valley": "lost its connection"}
