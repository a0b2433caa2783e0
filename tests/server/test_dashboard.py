"""The dashboard by its requests: who gets in, who may do what, what a steward can find of others, in both languages."""

import asyncio
import fcntl
import re
import string
import threading
import time
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import httpx
import pyotp
import pytest
import sqlalchemy as sa

from fedward_common import pki
from fedward_common.audit import entries
from fedward_common.joining import Invitation
from fedward_common.site_messages import Gpu, SiteState, SiteStatus, Work
from fedward_server import issuing
from fedward_server.dashboard.texts import FOLDER, LANGUAGES, chosen, texts
from fedward_server.events import EventKind, RunEvent
from fedward_server.gateway import Gateway
from fedward_server.hub import ROOT
from fedward_server.journal import Journal
from fedward_server.live import LOOK_S
from fedward_server.overview import SHOWN_RUNS
from fedward_server.people import Role
from fedward_server.statuses import Statuses
from fedward_server.testing import PASSWORD, Ground, Person

# Getting in ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/sites", "/api/v1/overview", "/nothing", "/sites/north/forget"])
def test_nobody_sees_anything_without_logging_in(ground: Ground, path: str) -> None:
    browser = ground.browser()
    answer = browser.get(path)
    assert (answer.status_code, answer.headers.get("location")) in {(303, "/login"), (401, None), (405, None)}
    assert "north" not in answer.text
    answer = browser.post("/sites/north/forget", data={"typed": "north"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?over=1")
    assert "north" in ground.store.sites()


def test_every_answer_is_guarded(ground: Ground, ada: Person) -> None:
    for path in ("/", "/sites", "/login", "/nothing", "/static/style.css", "/api/v1/overview"):
        headers = ada.browser.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert path.startswith("/static") or headers["cache-control"] == "no-store"
    assert "unsafe" not in headers["content-security-policy"]


def test_the_cookie_is_this_hubs_and_no_scripts(ground: Ground) -> None:
    ground.secrets["ada"] = ground.people.add("ada", "operator", PASSWORD)
    code = pyotp.TOTP(ground.secrets["ada"]).now()
    answer = ground.browser().post("/login", data={"name": "ada", "password": PASSWORD, "code": code})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-fedward=")
    for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert word in cookie


def test_what_is_wrong_is_told_in_one_way(ground: Ground) -> None:
    ground.secrets["ada"] = ground.people.add("ada", "operator", PASSWORD)
    code = pyotp.TOTP(ground.secrets["ada"]).now()
    pages = set()
    for name, password, digits in (
        ("ada", "wrong wrong wrong", code),
        ("nobody-here", PASSWORD, code),
        ("ada", PASSWORD, "12345x"),
    ):
        answer = ground.browser().post("/login", data={"name": name, "password": password, "code": digits})
        assert answer.status_code == 403
        pages.add(answer.text)
    assert len(pages) == 1
    ada = {"person": "ada", "locked_until": None}
    assert told(ground, "login refused") == [ada, {}, ada]
    assert "nobody-here" not in ground.hub.audit_file.read_text()


def told(ground: Ground, event: str) -> list[Mapping[str, Any]]:
    """What the audit log tells of such events."""
    return [entry.data for entry in entries(ground.hub.audit_file) if entry.event == event]


def test_the_audit_log_tells_who_logged_in_and_who_is_locked_out(ground: Ground, ada: Person) -> None:
    assert told(ground, "logged in") == [{"by": "ada"}]
    for _ in range(5):
        ground.browser().post("/login", data={"name": "ada", "password": "wrong wrong wrong", "code": "000000"})
    refused = told(ground, "login refused")
    assert {each["person"] for each in refused} == {"ada"}
    assert [each["locked_until"] is not None for each in refused] == [False] * 4 + [True]
    ground.people.add("sten", "steward", PASSWORD, site="north")
    ada.sends("/sites/north/forget", typed="north")
    assert told(ground, "person removed") == [{"person": "sten", "by": "ada"}]


def test_a_refused_login_holds_nobody_up_while_the_audit_log_is_written(ground: Ground) -> None:
    browser, held_up = ground.browser(), threading.Event()

    async def asks(audit: TextIO) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(browser.app), base_url=browser.base) as client:
            refused = asyncio.create_task(client.post("/login", data={"name": "eve", "password": "x", "code": "x"}))
            for _ in range(40):
                assert (await client.get("/login")).status_code == 200
                await asyncio.sleep(0.05)
            fcntl.flock(audit, fcntl.LOCK_UN)
            assert (await refused).status_code == 403

    with ground.hub.audit_file.open() as audit:
        fcntl.flock(audit, fcntl.LOCK_EX)

        def lets_go() -> None:
            held_up.set()
            fcntl.flock(audit, fcntl.LOCK_UN)

        late = threading.Timer(10, lets_go)
        late.start()
        asyncio.run(asks(audit))
        late.cancel()
    assert not held_up.is_set()


def test_a_stolen_session_is_over(ground: Ground, ada: Person) -> None:
    thief = ground.browser("curl")
    thief.cookies = ada.browser.cookies
    assert thief.get("/").headers["location"] == "/login?over=1"
    answer = ada.browser.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?over=1")
    assert "your session ended" in ada.browser.get("/login?over=1").text
    assert [each["person"] for each in told(ground, "session ended")] == ["ada"]


def test_a_form_of_another_page_does_nothing(ground: Ground, ada: Person) -> None:
    own = ada.csrf()
    bob = ground.person("bob", "operator")
    for data, headers in (
        ({"typed": "north"}, {}),
        ({"typed": "north", "csrf": bob.csrf()}, {}),
        ({"typed": "north", "csrf": own}, {"sec-fetch-site": "cross-site"}),
        ({"typed": "north", "csrf": own}, {"sec-fetch-site": "same-site"}),
    ):
        answer = ada.browser.post("/sites/north/forget", data=data, headers=headers)
        assert answer.status_code == 403
        assert "older session" in answer.text
    assert "north" in ground.store.sites()
    login = {"name": "ada", "password": PASSWORD, "code": "000000"}
    assert ground.browser().post("/login", data=login, headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_logging_out(ground: Ground, ada: Person) -> None:
    answer = ada.browser.post("/logout", data={"csrf": ada.csrf()})
    assert answer.headers["location"] == "/login"
    assert ada.browser.get("/").status_code == 303


# What people do ------------------------------------------------------------------------------------------------------


def test_an_operator_invites_and_lets_in_what_was_read_out(ground: Ground, ada: Person) -> None:
    status, page = ada.sends("/sites/invite", site="east")
    assert status == 200
    [code] = re.findall(r'<code class="long">([\w-]+)</code>', page)
    assert code not in ada.sees("/sites")  # shown once
    card = ground.sends("east", Invitation.read(code))
    assert "<b>east</b>" in ada.sees("/")
    page = ada.sees("/sites")
    assert pki.grouped(card.fingerprint) in page
    status, page = ada.sends("/sites/east/approve", fingerprint="0" * 64)
    assert status == 409
    assert "asked anew with another fingerprint" in page
    status, page = ada.sends("/sites/east/approve", fingerprint=card.fingerprint)
    assert status == 200
    assert "east is let in." in page
    assert "east" in ground.store.sites()
    done = [entry for entry in entries(ground.hub.folder / "audit.jsonl") if entry.data.get("by") == "ada"][1:]
    assert [(each.event, each.data["site"]) for each in done] == [("site invited", "east"), ("site enrolled", "east")]
    status, page = ada.sends("/sites/east/approve", fingerprint=card.fingerprint)  # the other operator's browser
    assert status == 409
    assert "east has not asked to join, or was answered" in page


def test_an_operator_refuses_and_forgets(ground: Ground, ada: Person) -> None:
    card = ground.asks("east")
    assert "east is refused." in ada.sends("/sites/east/refuse", fingerprint=card.fingerprint)[1]
    assert "type its name" in ada.sends("/sites/north/forget", typed="south")[1]
    assert "north" in ground.store.sites()
    assert "north is forgotten" in ada.sends("/sites/north/forget", typed="north")[1]
    assert list(ground.store.sites()) == ["south"]
    assert ada.sends("/sites/north/forget", typed="north")[0] == 409
    assert ada.sends("/sites/south/nonsense")[0] == 404


def test_who_asks_in_anothers_name_is_answered_by_his_fingerprint(ground: Ground, ada: Person) -> None:
    thief, east, late = (ground.asks("east") for _ in range(3))
    page = ada.sees("/sites")
    for card in (thief, east, late):
        assert pki.grouped(card.fingerprint) in page
    assert "another fingerprint" in ada.sends("/sites/east/refuse", fingerprint="0" * 64)[1]
    assert "east is refused." in ada.sends("/sites/east/refuse", fingerprint=thief.fingerprint)[1]
    page = ada.sees("/sites")
    assert pki.grouped(thief.fingerprint) not in page
    assert pki.grouped(late.fingerprint) in page
    assert "east is let in." in ada.sends("/sites/east/approve", fingerprint=east.fingerprint)[1]
    assert ground.store.sites()["east"].fingerprint == east.fingerprint


@pytest.mark.parametrize("role", ["investigator", "auditor", "steward"])
def test_others_look_and_do_nothing(ground: Ground, role: Role) -> None:
    card = ground.asks("east")
    eve = ground.person("eve", role, "north" if role == "steward" else None)
    page = eve.sees("/sites")
    assert 'action="/sites/' not in page
    [csrf] = set(re.findall(r'name="csrf" value="([0-9a-f]+)"', page))
    for path, values in (
        ("/sites/invite", {"site": "west"}),
        ("/sites/east/approve", {"fingerprint": card.fingerprint}),
        ("/sites/east/refuse", {}),
        ("/sites/north/forget", {"typed": "north"}),
    ):
        answer = eve.browser.post(path, data={"csrf": csrf, **values})
        assert answer.status_code == 403
        assert "Your role may not do this." in answer.text
    assert set(ground.store.sites()) == {"north", "south"}


def waits(ground: Ground, run: str, *names: str) -> None:
    """A run that waits for these sites."""
    ground.started(run, *names)
    for name in names:
        note = f"waits for {name}'s approval"
        Journal(ground.hub.runs / run)(RunEvent(kind="waiting", run=run, round=0, rounds=3, site=name, note=note))


def test_a_steward_finds_nothing_of_another_hospital(ground: Ground) -> None:
    waits(ground, "run-of-both", "north", "south")
    waits(ground, "run-of-south", "south")
    card = ground.asks("east")
    sten = ground.person("sten", "steward", "north")
    fingerprints = {name: row.fingerprint for name, row in ground.store.sites().items()}
    for path in ("/", "/sites", "/api/v1/overview", "/nothing/south"):
        text = sten.browser.get(path).text
        for other in ("south", "east", card.fingerprint[:16], fingerprints["south"][:16], "run-of-south"):
            assert other not in text, (path, other)
    assert "north" in sten.sees("/")
    assert "waits for north" in sten.sees("/")
    assert "run-of-both" in sten.sees("/")
    ida = ground.person("ida", "auditor")
    for shown in ("south", "east", "run-of-south", "waits for south"):
        assert shown in ida.sees("/")


def test_how_a_site_is_in_its_own_words(ground: Ground, ada: Person) -> None:
    gpu, fault = Gpu(name="NVIDIA <H200>", memory_gib=139), "3 GiB are left for models, it needs 5"
    for site, faults in (("north", (fault,)), ("south", ())):
        status = SiteStatus(
            fedward="0.1.0", state="training", gpu=gpu, spool_free_gib=3, cache_free_gib=70, faults=faults
        )
        Statuses(ground.store).tell(site, status)
    page = ada.sees("/sites")
    for shown in ("Fedward 0.1.0", "NVIDIA &lt;H200&gt;, 139 GiB", "70 GiB for images, 3 GiB for models", fault):
        assert shown in page
    assert fault in ada.sees("/")
    sten = ground.person("sten", "steward", "south")
    assert "trains" in sten.sees("/sites")
    assert fault not in sten.sees("/sites") + sten.sees("/") + sten.browser.get("/api/v1/overview").text


def test_what_the_overview_tells_programs(ground: Ground, ada: Person) -> None:
    waits(ground, "run-1", "north")
    found = ada.browser.get("/api/v1/overview").json()
    assert (found["hub"], found["alive"], found["at_work"]) == ("alliance", 1, 1)
    assert [(site["name"], site["connection"]) for site in found["sites"]] == [("north", "online"), ("south", "never")]
    assert found["needs"] == [
        {"what": "run_waits", "site": "north", "run": "run-1", "why": "waits for north's approval"}
    ]
    assert found["runs"][0]["status"] == "running"
    for number in range(SHOWN_RUNS + 1):  # newer ones, which have ended
        ground.started(f"over-{number}", "north")
        ground.store.finish_run(f"over-{number}", "stopped", None, "it was stopped")
    shown = [run["run"] for run in ada.browser.get("/api/v1/overview").json()["runs"]]
    assert (len(shown), shown[-1]) == (SHOWN_RUNS + 1, "run-1")


def does(person: Person) -> dict[str, str]:
    """What each site does, as the overview shows it."""
    rows = re.findall(
        r'<tr><th scope="row">(\w+)</th>.*?<td>.*?</td>\s*<td>(.*?)</td></tr>', person.sees("/"), re.DOTALL
    )
    return {site: " ".join(re.sub(r"<[^>]+>", " ", cell).split()) for site, cell in rows}


def test_what_each_site_does_now(ground: Ground, ada: Person) -> None:
    ground.started("run-1", "north", "south")

    def tells(kind: EventKind, number: int, site: str = "") -> None:
        Journal(ground.hub.runs / "run-1")(RunEvent(kind=kind, run="run-1", round=number, rounds=3, site=site))

    def says(state: SiteState, work: Work | None = None) -> None:
        status = SiteStatus(fedward="0.1.0", state=state, spool_free_gib=3, cache_free_gib=70, work=work)
        Statuses(ground.store).tell("north", status)

    def shows(north: str, south: str) -> None:
        time.sleep(LOOK_S)
        assert does(ada) == {"north": north, "south": south}

    shows("nothing", "nothing")
    says("preparing", Work(run="run-1", round=0))  # before the hub has heard of it
    shows("prepares its data run-1", "nothing")
    for site in ("north", "south"):
        tells("prepared", 0, site)
    says("idle")
    shows("is ready run-1", "is ready run-1")
    tells("round", 1)
    shows("its update is awaited run-1", "its update is awaited run-1")
    says("training", Work(run="run-1", round=1, percent=40))
    tells("answered", 1, "south")
    shows("trains: 40 % run-1", "has answered run-1")
    says("idle")
    tells("answered", 1, "north")
    tells("aggregated", 1)
    tells("round", 2)
    shows("its update is awaited run-1", "its update is awaited run-1")
    says("paused")
    shows("paused by its steward its update is awaited run-1", "its update is awaited run-1")
    says("evaluating", Work(run="another-hubs", round=0))
    shows("evaluates its update is awaited run-1", "its update is awaited run-1")


def test_every_time_says_of_which_zone_it_is(ground: Ground, ada: Person) -> None:
    waits(ground, "run-1", "north")
    ground.asks("east")
    status = SiteStatus(fedward="0.1.0", state="idle", spool_free_gib=3, cache_free_gib=70)
    Statuses(ground.store).tell("north", status)
    for path, heads in (("/", 1), ("/sites", 0), ("/studies", 1)):  # with the zone in a table's head
        page = ada.sees(path)
        times = re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d( UTC)?", page)
        assert times.count("") == heads == page.count("Started (UTC)"), path
    assert len(times := re.findall(r" \d\d:\d\d UTC", ada.sees("/sites"))) == 3, times
    assert "From the day (UTC)" in ada.sees("/audit")


def test_certificates_that_end_are_told(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    ends = {"north": now + timedelta(days=3), "south": now - timedelta(days=3)}
    with ground.store.writing() as connection:
        for site, end in ends.items():
            connection.exec_driver_sql("UPDATE certificates SET ends = ? WHERE site = ?", (end.isoformat(), site))
    monkeypatch.setattr(issuing, "ISSUING_DAYS", 100)
    ground.hub.issuing.begin_next("alliance", ground.hub.folder / ROOT, distrust=False)
    _, chain = ground.hub.issuing.for_server(["hub.example"], days=10)
    brought = ground.folder / "brought.pem"
    brought.write_bytes(chain)
    assert ground.hub.settings.dashboard is not None
    pages = ground.hub.settings.dashboard.model_copy(update={"certificate": str(brought), "key": "brought.key"})
    settings = ground.hub.settings.model_copy(update={"dashboard": pages})
    ground.hub = replace(ground.hub, settings=settings)
    ida, sten = ground.person("ida", "auditor"), ground.person("sten", "steward", "north")
    found = ida.browser.get("/api/v1/overview").json()["needs"]
    assert [(need["what"], need["site"]) for need in found] == [
        ("certificate_soon", "north"),
        ("certificate_over", "south"),
        ("authority_soon", ""),
        ("pages_certificate_soon", ""),
    ]
    page = ida.sees("/")
    for need in found:
        assert need["date"] in page
    assert "its certificate ended on" in page
    assert f"ended on {ends['south']:%Y-%m-%d}" in ida.sees("/sites")
    assert [need["site"] for need in sten.browser.get("/api/v1/overview").json()["needs"]] == ["north"]
    brought.unlink()
    assert "its certificate ended on" in ida.sees("/")


def test_what_others_wrote_is_text(ground: Ground, ada: Person) -> None:
    waits(ground, "run-1", "north")
    note = '<script>alert("x")</script>'
    Journal(ground.hub.runs / "run-1")(
        RunEvent(kind="waiting", run="run-1", round=0, rounds=3, site="north", note=note)
    )
    page = ada.sees("/")
    assert note not in page
    assert "&lt;script&gt;" in page


def test_what_fails_at_the_hub_is_a_sentence(ground: Ground, ada: Person) -> None:
    ada.browser.get("/")
    with ground.store.writing() as connection:
        connection.execute(sa.text("DROP TABLE run_sites"))
        connection.execute(sa.text("DROP TABLE site_rounds"))
        connection.execute(sa.text("DROP TABLE rounds"))
        connection.execute(sa.text("DROP TABLE runs"))
    answer = ada.browser.get("/studies")
    assert answer.status_code == 500
    assert "the hub&#39;s database failed (no such table: runs)" in answer.text
    answer = ada.browser.get("/api/v1/runs")
    assert answer.json()["error"].startswith("the hub's database failed (no such table: runs)")


@pytest.mark.parametrize(("version", "words"), [("1.22.1", " ssl http2;"), ("1.26.3", " ssl;")])
def test_pages_that_stay_open_do_not_share_six_connections(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, words: str
) -> None:
    nginx = tmp_path / "bin" / "nginx"  # of Debian 12 or 13, which say it each in its own way
    nginx.parent.mkdir()
    nginx.write_text(f"#!/bin/sh\necho nginx version: nginx/{version} >&2\n")
    nginx.chmod(0o755)
    monkeypatch.setattr("fedward_server.gateway._SEARCHED", str(nginx.parent))
    Gateway(ground.hub).write(ground.store)
    pages = (Gateway(ground.hub).folder / "nginx.conf").read_text().partition("# People: ")[2]
    assert f":8444{words}" in pages
    assert ("http2 on;" in pages) == (version == "1.26.3")


# Languages -----------------------------------------------------------------------------------------------------------


def test_each_language_has_the_same_words() -> None:
    def fields(text: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    english = texts("en")
    assert len(english) == sum(len(tomllib.loads(page.read_text())) for page in (FOLDER / "en").glob("*.toml"))
    for language in LANGUAGES:
        found = texts(language)
        assert found.keys() == english.keys()
        for key, text in english.items():
            assert fields(found[key]) == fields(text), key
            assert found[key].strip()


def test_every_word_that_a_page_asks_for_is_there() -> None:
    for path in (FOLDER.parent / "templates").glob("*.html"):
        asked = set(re.findall(r"\bt\.(\w+)", path.read_text())) - {"format"}
        assert asked <= texts("en").keys(), path.name


@pytest.mark.parametrize(
    ("cookie", "accepted", "language"),
    [
        (None, "", "en"),
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, "de-DE,de;q=0.9,en;q=0.8,zh;q=0.1", "en"),
        ("zh", "en", "zh"),
        ("xx", "fr", "en"),
    ],
)
def test_the_language_is_the_persons(cookie: str | None, accepted: str, language: str) -> None:
    assert chosen(cookie, accepted) == language


def test_another_language_at_the_press_of_a_button(ground: Ground, ada: Person) -> None:
    assert '<html lang="en">' in ada.sees("/sites")
    answer = ada.browser.post("/language", data={"back": "/sites"})
    assert answer.headers["location"] == "/sites"
    assert '<html lang="zh">' in ada.sees("/sites")
    here = "/studies?words=b%C3%A4&status=running"
    assert f'name="back" value="{here.replace("&", "&amp;")}"' in ada.sees(here)
    assert ada.browser.post("/language", data={"back": here}).headers["location"] == here
    _, page = ada.sends("/sites/invite", site="east")
    assert 'action="/language"' not in page  # it would take the code away, which is shown once
    for evil in (
        "/?\r\nset-cookie: a=b",
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
    ):
        assert ada.browser.post("/language", data={"back": evil}).headers["location"] == "/"
