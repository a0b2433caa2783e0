"""A run as it is watched: read on as it goes on, what is new told once, and of other sites to a steward nothing."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedward_common.site_messages import Approval, SiteStatus, Work
from fedward_common.testing import tiny_study
from fedward_server import live, pausing
from fedward_server.approvals import Approvals
from fedward_server.events import EventKind, RunEvent
from fedward_server.journal import Journal
from fedward_server.live import LiveRun, LiveRuns
from fedward_server.people import Person
from fedward_server.statuses import Statuses
from fedward_server.store import RoundRow, SiteRoundRow
from fedward_server.testing import Ground

RUN = "breast-20261130T140000-abcdef"
AUDITOR, STEWARD = Person(name="ida", role="auditor"), Person(name="sten", role="steward", site="north")


@pytest.fixture(autouse=True)
def _no_pause_between_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_S", 0.0)


def told(ground: Ground, kind: EventKind, number: int, site: str = "", note: str = "") -> None:
    Journal(ground.hub.runs / RUN)(RunEvent(kind=kind, run=RUN, round=number, rounds=3, site=site, note=note))


def round_of(ground: Ground, number: int, primary: float | None = None, more: tuple[str, ...] = ()) -> None:
    row = RoundRow(
        run=RUN,
        round=number,
        seconds=2.0,
        train_seconds=1.0,
        bytes_up=20,
        bytes_down=10,
        loss=1 / number,
        primary=primary,
    )
    parts = [
        SiteRoundRow(run=RUN, round=number, site=site, patients=7, loss=loss, primary=primary)
        for site, loss in (("north", 0.25), ("south", 0.75), *((name, 0.5) for name in more))
    ]
    ground.store.record_round(row, parts)


@pytest.fixture
def run(ground: Ground) -> LiveRun:
    ground.started(RUN, "north", "south")
    return LiveRuns(ground.hub, ground.store).of(ground.store.run(RUN))


def test_who_waits_for_whom(ground: Ground, run: LiveRun) -> None:
    told(ground, "began", 0)
    told(ground, "round", 1)
    told(ground, "answered", 1, "south")
    run.look()
    now = run.state(AUDITOR)
    assert (now["round"], now["of"], now["awaited"]) == (1, 3, ["north"])
    assert now["sites"] == ["north", "south"]
    [[north, south]] = now["answered"]
    assert north is None
    assert 0 <= south < 5
    told(ground, "answered", 1, "north")
    told(ground, "aggregated", 1)
    round_of(ground, 1)
    run.look()
    now = run.state(AUDITOR)
    assert now["awaited"] == []
    [[number, began, ended, loss, primary, up, down, note]] = now["rounds"]
    assert (number, loss, primary, up, down, note) == (1, 1.0, None, 20, 10, "")
    assert began <= ended
    assert (now["loss"], now["primary"]) == ([[0.25, 0.75]], [[None, None]])


def test_figures_that_come_later_are_new(ground: Ground, run: LiveRun) -> None:
    for number in (1, 2):
        told(ground, "round", number)
        told(ground, "aggregated", number)
        round_of(ground, number)
    version = run.look()
    round_of(ground, 1, primary=0.8)  # scored in the next round's trip
    assert run.look() > version
    news = run.state(AUDITOR, version)
    assert [row[0] for row in news["rounds"]] == [1, 2]
    assert news["rounds"][0][4] == 0.8
    assert not news["whole"]


def test_nothing_new_is_no_new_version(ground: Ground, run: LiveRun) -> None:
    told(ground, "round", 1)
    version = run.look()
    assert run.look() == version
    assert run.state(AUDITOR, version)["rounds"] == []
    assert run.text(AUDITOR) is run.text(AUDITOR)  # made once


def test_a_pause_and_an_end_are_new(ground: Ground, run: LiveRun) -> None:
    version = run.look()
    pausing.pause(run.folder)
    assert run.look() == version + 1
    assert run.state(AUDITOR)["paused"]
    ground.store.finish_run(RUN, "stopped", None, "it was stopped by ada")
    run.look()
    now = run.state(AUDITOR)
    assert (now["status"], now["reason"], now["paused"]) == ("stopped", "it was stopped by ada", False)
    assert run.ended


def test_a_round_that_is_done_again_is_shown_once(ground: Ground, run: LiveRun) -> None:
    told(ground, "round", 1)
    told(ground, "answered", 1, "north")
    told(ground, "died", 0, note="the SuperLink died")
    told(ground, "resumed", 0)
    told(ground, "began", 0)
    told(ground, "round", 1)
    run.look()
    now = run.state(AUDITOR)
    assert now["answered"] == [[None, None]]
    assert [line[1] for line in now["log"]] == ["died", "resumed", "began"]


def test_a_steward_sees_his_own_site_and_what_is_of_all(ground: Ground, run: LiveRun) -> None:
    told(ground, "round", 1)
    told(ground, "refused", 1, "south", "south's update holds NaN")
    told(ground, "answered", 1, "north")
    told(ground, "warning", 1, note="the layers of north and south disagree")
    told(ground, "aggregated", 1)
    told(ground, "round", 2)
    round_of(ground, 1, primary=0.875)
    run.look()
    now = run.state(STEWARD)
    assert (now["sites"], now["loss"], now["refused"]) == (["north"], [[0.25], [None]], [])
    assert now["rounds"][0][3:5] == [None, None]  # of all, which with one other tells that one's
    round_of(ground, 1, primary=0.9, more=("east",))
    ground.store.finish_run(RUN, "failed", None, "round 2 has updates of 0 sites (south: it is gone)")
    run.look()
    now = run.state(STEWARD)
    assert now["rounds"][0][3:5] == [1.0, 0.9]
    for hidden in ("south", "0.75", "NaN", "disagree"):
        assert hidden not in json.dumps(now)
    assert "south" in json.dumps(run.state(AUDITOR))


def test_nobody_waits_for_who_was_left_out_or_only_evaluates(ground: Ground) -> None:
    ground.enrolled("east")
    ground.enrolled("west")
    study = ground.started("another", "east", "north", "south", "west")
    sites = [s.model_copy(update={"role": "evaluate"}) if s.name == "west" else s for s in study.sites]
    spec = study.model_copy(update={"sites": tuple(sites)})
    ground.store.start_run(RUN, spec.study.id, spec.digest, spec.canonical_json().decode(), "deployment")
    (ground.hub.runs / RUN).mkdir()
    told(ground, "left-out", 0, "east", "its policy keeps it home")
    told(ground, "resumed", 0)
    told(ground, "began", 0)
    told(ground, "round", 1)
    run = LiveRuns(ground.hub, ground.store).of(ground.store.run(RUN))
    assert run.state(AUDITOR)["awaited"] == ["north", "south"]
    told(ground, "answered", 1, "south")
    run.look()
    assert run.state(AUDITOR)["awaited"] == ["north"]


def test_who_is_silent_when_a_run_closes_was_refused_in_no_round(ground: Ground, run: LiveRun) -> None:
    told(ground, "round", 1)
    told(ground, "refused", 1, "south", "holds NaN")
    told(ground, "answered", 1, "north")
    told(ground, "aggregated", 1)
    told(ground, "closing", 1)
    told(ground, "refused", 1, "north", "has sent nothing for 600 s")
    run.look()
    now = run.state(AUDITOR)
    assert now["refused"] == [[1, "south", "holds NaN"]]
    assert "has sent nothing for 600 s" in now["log"][-1]


def test_a_figure_of_all_whose_parts_are_not_known_yet_is_not_told(ground: Ground, run: LiveRun) -> None:
    told(ground, "round", 1)
    told(ground, "aggregated", 1)
    ground.store.record_round(
        RoundRow(
            run=RUN, round=1, seconds=2.0, train_seconds=1.0, bytes_up=20, bytes_down=10, loss=0.375, primary=0.625
        )
    )
    run.look()
    assert run.state(STEWARD)["rounds"][0][3:5] == [None, None]
    assert run.state(AUDITOR)["rounds"][0][3:5] == [0.375, 0.625]


def test_a_figure_that_one_other_site_let_out_is_not_told(ground: Ground, run: LiveRun) -> None:
    told(ground, "round", 1)
    told(ground, "aggregated", 1)
    row = RoundRow(
        run=RUN, round=1, seconds=2.0, train_seconds=1.0, bytes_up=20, bytes_down=10, loss=0.375, primary=0.625
    )
    parts = [
        SiteRoundRow(run=RUN, round=1, site=site, patients=7, loss=0.5, primary=0.625 if site == "south" else None)
        for site in ("east", "north", "south")
    ]
    ground.store.record_round(row, parts)
    run.look()
    assert run.state(STEWARD)["rounds"][0][3:5] == [0.375, None]  # the primary metric is south's alone


def test_news_are_of_one_moment(ground: Ground, run: LiveRun) -> None:
    told(ground, "round", 1)
    version, text, over = run.news(AUDITOR, -1)
    assert text is not None
    assert (json.loads(text)["version"], over) == (version, False)
    assert run.news(AUDITOR, version) == (version, None, False)
    ground.store.finish_run(RUN, "stopped", None, "it was stopped")
    after, text, over = run.news(AUDITOR, version)
    assert text is not None
    assert (json.loads(text)["status"], after, over) == ("stopped", version + 1, True)


def test_stewards_answers_and_how_far_a_training_is(ground: Ground, run: LiveRun) -> None:
    digest = run.row.study_digest
    Approvals(ground.store).tell("north", [Approval(digest=digest, state="awaiting", time=datetime.now(UTC))])
    version = run.look()
    assert run.state(AUDITOR)["states"] == [
        ["", "", "awaiting", None],
        ["", "", "awaiting", None],
    ]  # or has told nothing yet
    assert run.look() == version
    work = Work(run=RUN, round=1, percent=40)
    status = SiteStatus(fedward="0.1.0", state="training", spool_free_gib=1, cache_free_gib=1, work=work)
    Statuses(ground.store).tell("south", status)
    assert run.look() == version + 1
    assert run.state(AUDITOR)["states"][1] == ["", "", "awaiting", 40]
    assert run.state(STEWARD)["states"] == [["", "", "awaiting", None]]
    ground.store.finish_run(RUN, "stopped", None, "it was stopped")
    run.look()
    assert run.state(AUDITOR)["states"][1] == ["", "", None, None]  # nobody waits for an answer any more


def test_since_when_nothing_works_on_a_run(ground: Ground, run: LiveRun) -> None:
    told(ground, "round", 1)
    run.look()
    assert run.state(AUDITOR)["halted"] is None
    told(ground, "died", 0, note="the SuperLink died")
    run.look()
    for person in (AUDITOR, STEWARD):
        assert run.state(person)["halted"] >= run.state(person)["rounds"][0][1]
    told(ground, "resumed", 0)
    told(ground, "round", 1)
    run.look()
    assert run.state(AUDITOR)["halted"] is None


def test_of_runs_that_have_ended_the_last_few_are_kept_of_others_all(ground: Ground) -> None:
    for number in range(live.HELD + 3):
        ground.started(f"run-{number:02}", "north", "south")
    runs, rows = LiveRuns(ground.hub, ground.store), ground.store.unfinished()
    held = [runs.of(row) for row in rows]
    assert all(runs.of(row) is each for row, each in zip(rows, held, strict=True))
    for row in rows:
        ground.store.finish_run(row.run, "stopped", None, "it was stopped")
    ground.started(RUN, "north", "south")
    runs.of(ground.store.run(RUN))
    assert [runs.of(row) is each for row, each in zip(rows[-2:], held[-2:], strict=True)] == [True, True]
    assert runs.of(rows[0]) is not held[0]


def merged(seen: dict[str, Any], news: dict[str, Any]) -> dict[str, Any]:
    """What a browser makes of what it has and what is new, as static/run.js does."""
    if news["whole"]:
        return news
    first = news["rounds"][0][0] if news["rounds"] else 10**9
    kept = [index for index, row in enumerate(seen["rounds"]) if row[0] < first]
    rows = {name: [seen[name][i] for i in kept] + news[name] for name in ("rounds", "answered", "loss", "primary")}
    refused = [each for each in seen["refused"] if each[0] < first] + news["refused"]
    return {**news, **rows, "refused": refused, "log": seen["log"] + news["log"], "whole": True}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["round", "aggregated", "warning"]), st.integers(1, 3), st.just("")),
        st.tuples(
            st.sampled_from(["answered", "refused", "waiting"]), st.integers(1, 3), st.sampled_from(["north", "south"])
        ),
        st.tuples(st.just("figures"), st.integers(1, 3), st.just("")),
        st.tuples(st.just("look"), st.just(0), st.just("")),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, steward=st.booleans())
def test_what_is_new_added_to_what_was_is_the_whole(ground: Ground, steps: list[Any], steward: bool) -> None:
    global RUN  # noqa: PLW0603 - each example is a run of its own
    person = STEWARD if steward else AUDITOR
    RUN = f"run-{len(ground.store.runs())}"
    ground.started(RUN, "north", "south", study=tiny_study())
    run = LiveRun(ground.hub, ground.store, ground.store.run(RUN))
    version = run.look()
    seen = run.state(person)
    for kind, number, site in [*steps, ("look", 0, "")]:
        if kind == "figures":
            round_of(ground, number, primary=number / 8)
        elif kind != "look":
            told(ground, kind, number, site, "why" if kind in ("refused", "waiting") else "")
        else:
            news = run.look()
            if news != version:
                seen, version = merged(seen, json.loads(run.text(person, version))), news
    assert seen == run.state(person)
