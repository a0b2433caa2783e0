"""What sites ask the hub around rounds, by the application itself: each reads and writes its own, in bounded words."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from typer.testing import CliRunner

from fedward_common import __version__, cli
from fedward_common.certificates import CLOCKS_DIFFER
from fedward_common.errors import SettingsError
from fedward_common.site_messages import (
    APPROVALS,
    STATUS,
    STUDIES,
    Approval,
    ApprovalState,
    ApprovalsTold,
    HubNews,
    SiteStatus,
    Work,
)
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_server import site_news
from fedward_server.api.app import make_app
from fedward_server.api.site_routes import SERIAL_HEADER, SITE_HEADER, START_HEADER
from fedward_server.approvals import Approvals
from fedward_server.events import EventKind, RunEvent
from fedward_server.hub import Hub
from fedward_server.joining import Joining
from fedward_server.journal import Journal
from fedward_server.register import Register
from fedward_server.site_news import MAX_KEPT
from fedward_server.statuses import Statuses
from fedward_server.store import Store
from fedward_server.testing import Ground

NOW = datetime(2027, 1, 31, 10, tzinfo=UTC)
WELL = SiteStatus(fedward=__version__, state="idle", spool_free_gib=12, cache_free_gib=34)


@dataclass
class Called:
    """A hub's API, called as the gateway calls it."""

    hub: Hub
    store: Store
    app: FastAPI
    ground: Ground

    def serial(self, site: str) -> str:
        return [row.serial for row in Register(self.store).certificates() if row.site == site][-1]

    def calls(self, site: str, method: str, path: str, *, serial: str | None = None, **more: Any) -> httpx.Response:
        shown = self.serial(site) if serial is None else serial
        headers = {SITE_HEADER: site, SERIAL_HEADER: shown, **more.pop("headers", {})}

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://api") as client:
                return await client.request(method, path, headers=headers, **more)

        return asyncio.run(send())

    def tells(self, site: str, path: str, said: BaseModel) -> httpx.Response:
        return self.calls(site, "POST", path, content=said.model_dump_json())

    def news(self, site: str) -> HubNews:
        answer = self.calls(site, "GET", STUDIES)
        assert answer.status_code == 200, answer.text
        return HubNews.model_validate_json(answer.content)

    def starts(self, run: str, *names: str, seed: int = 1) -> StudySpec:
        return self.ground.started(run, *names, study=tiny_study(training={"seed": seed}))

    def happens(self, run: str, kind: EventKind, number: int, site: str, note: str) -> None:
        Journal(self.hub.runs / run)(RunEvent(kind=kind, run=run, round=number, rounds=9, site=site, note=note))


@pytest.fixture
def api(ground: Ground) -> Iterator[Called]:
    app = make_app(ground.hub)
    yield Called(ground.hub, ground.store, app, ground)

    async def end() -> None:
        async with app.router.lifespan_context(app):
            pass

    asyncio.run(end())


def approval(study: StudySpec, state: ApprovalState = "awaiting", reason: str | None = None) -> Approval:
    until = date(2027, 6, 30) if state == "approved" else None
    return Approval(digest=study.digest, state=state, time=NOW, until=until, reason=reason)


# Who calls -----------------------------------------------------------------------------------------------------------

PATHS = [("GET", STUDIES), ("POST", APPROVALS), ("POST", STATUS)]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_nobody_else_is_answered(api: Called, method: str, path: str) -> None:
    api.starts("run-1", "north")
    for site, serial in (("", ""), ("east", ""), ("north", api.serial("south"))):
        answer = api.calls(site, method, path, serial=serial, content=b"{}")
        assert answer.status_code == 403
        assert answer.json() == {
            "error": "this hub does not know this site, or took its certificate back: ask its operator"
        }
    Register(api.store).revoke("north", NOW.isoformat())
    assert api.calls("north", method, path, content=b"{}").status_code == 403


def test_a_certificate_that_a_restored_hub_does_not_know_counts_until_the_site_is_let_in_anew(api: Called) -> None:
    def asks(issued: datetime) -> int:
        start = {START_HEADER: f"{issued - CLOCKS_DIFFER:%b %d %H:%M:%S %Y} GMT"}
        return api.calls("north", "GET", STUDIES, serial="1234abcd", headers=start).status_code

    renewed = datetime.now(UTC) + timedelta(seconds=1)  # after the backup
    assert asks(renewed) == 200
    assert asks(renewed - timedelta(days=1)) == 403
    assert api.calls("north", "GET", STUDIES, serial="1234abcd").status_code == 403
    time.sleep(1.1)
    api.ground.asks("north")
    with pytest.raises(SettingsError):  # it has other keys
        Joining(api.hub, api.store).approve(Joining(api.hub, api.store).asked_by("north")[0])
    assert asks(renewed) == 200
    api.hub.forget("north")
    assert asks(renewed) == 403
    api.ground.enrolled("north")
    assert asks(renewed) == 403


@pytest.mark.parametrize("path", ["/v1/site/", "/v1/site/studies/run-1", "/v1/site/nothing", "/v1/", "/v1/login"])
def test_what_is_not_there_is_none_of_peoples_pages(api: Called, path: str) -> None:
    for method in ("GET", "POST"):
        answer = api.calls("north", method, path)
        assert (answer.status_code, answer.json()) == (404, {"error": "this hub has nothing there"})


# Studies -------------------------------------------------------------------------------------------------------------


def test_a_site_gets_the_studies_that_ask_for_it_whole(api: Called) -> None:
    both, own = api.starts("run-of-both", "north", "south"), api.starts("run-of-north", "north", seed=2)
    found = api.news("north").studies
    assert [(each.run, each.digest, each.approval) for each in found] == [
        ("run-of-north", own.digest, None),
        ("run-of-both", both.digest, None),
    ]
    assert [StudySpec.from_json(each.study).digest for each in found] == [own.digest, both.digest]
    assert [each.run for each in api.news("south").studies] == ["run-of-both"]


def test_a_site_finds_nothing_of_another(api: Called) -> None:
    study = api.starts("run-of-south", "south")
    api.happens("run-of-south", "refused", 1, "south", "its numbers are none")
    api.tells("south", APPROVALS, ApprovalsTold(approvals=(approval(study, "refused", "not now"),)))
    api.starts("run-of-both", "north", "south", seed=2)
    api.happens("run-of-both", "left-out", 0, "south", "south has empty halls")
    answer = api.calls("north", "GET", STUDIES).text
    for secret in ("run-of-south", study.digest, "its numbers are none", "not now", "empty halls"):
        assert secret not in answer
    assert api.news("north").notices == ()
    assert [each.reason for each in api.news("south").notices] == ["south has empty halls", "its numbers are none"]


def test_a_hospital_that_gets_a_name_gets_nothing_of_the_one_before(api: Called) -> None:
    api.starts("run-1", "north")
    api.happens("run-1", "refused", 1, "north", "its numbers are none")
    api.tells("north", STATUS, WELL)
    api.store.remove_site("north")
    assert "north" not in Statuses(api.store).all()
    api.ground.enrolled("north")
    assert api.news("north") == HubNews()


def test_runs_that_ended_ask_for_nothing_and_their_reasons_are_told_for_a_day(api: Called) -> None:
    study = api.starts("run-1", "north")
    api.happens("run-1", "refused", 1, "north", "its numbers are none")
    api.store.finish_run("run-1", "failed", None, "too few sites")
    found = api.news("north")
    assert found.studies == ()
    [notice] = found.notices
    assert (notice.run, notice.digest, notice.round, notice.kind) == ("run-1", study.digest, 1, "refused")
    with api.store.writing() as connection:
        connection.exec_driver_sql("UPDATE runs SET ended = ?", ((datetime.now(UTC) - timedelta(days=2)).isoformat(),))
    assert api.news("north") == HubNews()


def test_runs_that_ended_take_no_room_of_those_that_ask(api: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    study = api.starts("run-1", "north")
    for number in range(2, 6):
        api.starts(f"run-{number}", "north", seed=number)
        api.store.finish_run(f"run-{number}", "failed", None, "too few sites")
    monkeypatch.setattr(site_news, "MAX_STUDIES", 2 * len(study.canonical_json()))
    monkeypatch.setattr(site_news, "NOTICED", 2)
    for run in ("run-1", "run-2", "run-5"):
        api.happens(run, "refused", 1, "north", "its numbers are none")
    news = api.news("north")
    assert [each.run for each in news.studies] == ["run-1"]
    assert [each.run for each in news.notices] == ["run-1", "run-5"]


def test_other_engines_runs_are_nobodys(api: Called) -> None:
    study = tiny_study()
    api.store.start_run("demo", study.study.id, study.digest, study.canonical_json().decode(), "embedded")
    assert api.news("north") == HubNews()


def test_the_same_is_not_sent_twice(api: Called) -> None:
    study = api.starts("run-1", "north")
    tag = api.calls("north", "GET", STUDIES).headers["etag"]

    def again() -> httpx.Response:
        return api.calls("north", "GET", STUDIES, headers={"if-none-match": tag})

    assert (again().status_code, again().content) == (304, b"")
    for change in (
        lambda: api.happens("run-1", "refused", 1, "north", "its numbers are none"),
        lambda: api.tells("north", APPROVALS, ApprovalsTold(approvals=(approval(study),))),
    ):
        change()
        answer = again()
        assert answer.status_code == 200
        tag = answer.headers["etag"]


def test_reasons_are_the_last_and_each_a_line(api: Called) -> None:
    api.starts("run-1", "north")
    for number in range(MAX_KEPT + 5):
        api.happens("run-1", "refused", number, "north", f"no {number}")
    api.happens("run-1", "aggregated", 9, "", "")
    api.happens("run-1", "left-out", 30, "north", "\x1b[2J" + "x" * 2000)
    notices = api.news("north").notices
    assert len(notices) == MAX_KEPT
    assert (notices[0].round, notices[0].reason) == (6, "no 6")
    assert (notices[-1].kind, notices[-1].reason[:6], len(notices[-1].reason)) == ("left-out", "\\x1b[2", 500)


# Approvals -----------------------------------------------------------------------------------------------------------


def test_an_approval_is_told_and_told_again(api: Called) -> None:
    study = api.starts("run-1", "north", "south")
    for state, reason in (("awaiting", None), ("approved", None), ("approved", None), ("withdrawn", "the board met")):
        said = ApprovalsTold(approvals=(approval(study, state, reason),))  # type: ignore[arg-type]
        answer = api.tells("north", APPROVALS, said)
        assert (answer.status_code, answer.content) == (204, b"")
        row = Approvals(api.store).of(study.digest)["north"]
        assert (row.state, row.reason, row.time) == (state, reason, "2027-01-31T10:00:00.000+00:00")
        assert row.until == ("2027-06-30" if state == "approved" else None)
        assert [each.approval for each in api.news("north").studies] == [state]
    assert [each.approval for each in api.news("south").studies] == [None]
    assert list(Approvals(api.store).of(study.digest)) == ["north"]
    assert Approvals(api.store).of("0" * 64) == {}


def test_nothing_is_said_of_another_hospitals_study(api: Called) -> None:
    own, other = api.starts("run-1", "north"), api.starts("run-2", "south", seed=2)
    unknown = tiny_study(training={"seed": 3})
    for wrong in (other, unknown):
        said = ApprovalsTold(approvals=(approval(own), approval(wrong)))
        answer = api.tells("north", APPROVALS, said)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("no run of this hub asks this site for one of these studies")
    assert Approvals(api.store).of_site("north") == {}


# Statuses ------------------------------------------------------------------------------------------------------------


def test_the_last_status_is_kept_with_the_time_that_it_came(api: Called) -> None:
    begun = datetime.now(UTC)
    for state in ("idle", "paused"):
        assert api.tells("north", STATUS, WELL.model_copy(update={"state": state})).status_code == 204
    [(name, row)] = Statuses(api.store).all().items()
    assert (name, row.site, row.status.state) == ("north", "north", "paused")
    assert abs((datetime.fromisoformat(row.received) - begun).total_seconds()) < 60


def test_what_operators_are_shown(api: Called) -> None:
    study = api.starts("run-1", "north")
    api.tells("north", APPROVALS, ApprovalsTold(approvals=(approval(study, "refused", "the board said no"),)))
    work = Work(run="run-1", round=2, percent=40)
    api.tells("north", STATUS, WELL.model_copy(update={"state": "training", "work": work, "faults": ("too hot",)}))
    for words, shown, is_now in (
        (["hub", "status", str(api.hub.folder)], "too hot", False),  # the hub is down: its site's word is an old one
        (["study", "status", "run-1", "--hub", str(api.hub.folder)], "the board said no", True),
    ):
        result = CliRunner().invoke(cli.app, words, env={"COLUMNS": "300"})
        assert result.exit_code == 0, result.output
        assert (shown in result.output) == is_now
        found = json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).output)
        assert shown in json.dumps(found)


def changed(**more: object) -> dict[str, object]:
    return {**WELL.model_dump(), **more}


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        (STATUS, changed(faults=["\x1b[2J"])),
        (STATUS, changed(faults=["a\nb"])),
        (STATUS, changed(faults=["x" * 201])),
        (STATUS, changed(faults=["x"] * 9)),
        (STATUS, changed(gpu={"name": "\u202eevil", "memory_gib": 1})),
        (STATUS, changed(spool_free_gib="12")),
        (STATUS, changed(spool_free_gib=-1)),
        (STATUS, changed(site="south")),
        (STATUS, changed(state="busy")),
        (STATUS, changed(work={"run": "../../etc", "round": 1})),
        (STATUS, changed(work={"run": "run-1", "round": 1, "percent": 101})),
        (APPROVALS, {"approvals": []}),
        (APPROVALS, {"approvals": [{"digest": "x", "state": "awaiting", "time": NOW.isoformat()}]}),
        (APPROVALS, {"approvals": [{"digest": "0" * 64, "state": "awaiting", "time": "2027-01-31T10:00:00"}]}),
        (APPROVALS, {"approvals": [{"digest": "0" * 64, "state": "approved", "time": NOW.isoformat()}]}),
    ],
)
def test_what_is_not_agreed_is_refused_and_not_said_again(api: Called, path: str, sent: dict[str, object]) -> None:
    answer = api.calls("north", "POST", path, json=sent)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].startswith("what was sent is not what is agreed")
    assert Statuses(api.store).all() == {}


@pytest.mark.parametrize("sent", [b"", b"{", b"[" * 5000, b"\xff", b'{"Meier": 1}', b'{"state": "Meier"}'])
def test_nonsense_is_refused(api: Called, sent: bytes) -> None:
    for path in (STATUS, APPROVALS):
        answer = api.calls("north", "POST", path, content=sent)
        assert answer.status_code == 400
        assert "Meier" not in answer.text
