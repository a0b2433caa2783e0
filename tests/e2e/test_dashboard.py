"""The dashboard in a real browser, by real clicks: Debian's Chromium before the real nginx of a hub that is up.

Each role's main tasks are done in English, and in Chinese with the long tests. Pictures are kept in build/screenshots.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pyotp
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, sync_playwright
from safetensors.numpy import load_file

from fedward_common.records import Arrays, model_sha256
from fedward_common.site_messages import Approval, ApprovalState
from fedward_common.study import SiteEntry, StudySpec, load, resolved, template_path
from fedward_common.testing import FakeSite, tiny_study
from fedward_server import control, pausing, testing
from fedward_server.approvals import Approvals
from fedward_server.dashboard.texts import texts
from fedward_server.events import EventKind, RunEvent
from fedward_server.gateway import Gateway
from fedward_server.hub import Hub
from fedward_server.joining import Joining
from fedward_server.journal import FILE as EVENTS
from fedward_server.journal import Journal
from fedward_server.models import Registry, keep_start
from fedward_server.people import People, Role
from fedward_server.store import RoundRow
from fedward_server.superlink import free_port
from fedward_simulations.federation import background

WORDS, HOST = "correct horse battery", "127.0.0.1"
FEDWARD = [sys.executable, "-m", "fedward_common"]
PICTURES = Path(__file__).parents[2] / "build" / "screenshots"
LOCALES = {"en": "en-GB", "zh": "zh-CN"}

pytestmark = pytest.mark.timeout(600)
both_languages = pytest.mark.parametrize("language", ["en", pytest.param("zh", marks=pytest.mark.long)])


@dataclass
class Ground:
    hub: Hub
    folder: Path
    browser: Browser
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        assert self.hub.settings.dashboard is not None
        return f"https://{self.hub.settings.dashboard.address}"

    def person(self, name: str, role: Role, site: str | None = None) -> None:
        with self.hub.store() as store:
            self.secrets[name] = People(store).add(name, role, WORDS, site=site)

    def enrolled(self, name: str) -> None:
        """A site that was let in, and is not up."""
        with self.hub.store() as store:
            self.asks(name, Joining(self.hub, store).invite(name).code())
            control.approve(self.hub, name, Joining(self.hub, store).asked_by(name)[1].fingerprint)

    def asks(self, name: str, code: str) -> str:
        """A steward runs `fedward site join`; the fingerprint that he reads out."""
        (self.folder / name).mkdir(exist_ok=True)
        command = [*FEDWARD, "site", "join", str(self.folder / name), code, "--no-wait", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        fingerprint: str = json.loads(done.stdout)["fingerprint"]
        return fingerprint


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    program = shutil.which("chromium")
    assert program is not None, "the tests need Debian's chromium: `make test` says how to install it"
    folder = tmp_path_factory.mktemp("dashboard")
    address, pages = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
    hub = Hub.init(
        folder / "hub",
        name="alliance",
        port=free_port(),
        address=address,
        listen=address,
        root=folder / "root",
        dashboard=pages,
    )
    with background([*FEDWARD, "hub", "up", str(hub.folder)], folder / "hub.out"), sync_playwright() as playwright:
        deadline = time.monotonic() + 180
        while not (hub.link.healthy() and Gateway(hub).answers()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])  # as root it needs that
        try:
            yield Ground(hub, folder, browser)
        finally:
            browser.close()


class Visit:
    """A person before a page, who sees whether the browser has anything to complain of."""

    def __init__(self, ground: Ground, language: str = "en", scheme: str = "light") -> None:
        self.ground, self.language, self.scheme = ground, language, scheme
        self.context = ground.browser.new_context(
            ignore_https_errors=True,
            locale=LOCALES[language],
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on(
            "console", lambda message: self.complaints.append(message.text) if message.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)

    def _asked(self, request: object) -> None:
        url = str(getattr(request, "url", ""))
        if not url.startswith((self.ground.url, "data:")):
            self.elsewhere.append(url)

    def says(self, key: str, **values: object) -> str:
        """The words of the page's language."""
        return texts(self.language)[key].format(**values)

    def begins(self, key: str) -> str:
        """How a sentence begins, up to what differs each time."""
        return texts(self.language)[key].partition("{")[0]

    def opens(self, key: str) -> None:
        """Click on one of the menu's words."""
        self.page.get_by_role("navigation").get_by_role("link", name=self.says(key)).click()

    def presses(self, key: str, **values: object) -> None:
        """Press a button."""
        self.page.get_by_role("button", name=self.says(key, **values)).click()

    def field(self, key: str, **values: object) -> Locator:
        """What has this label."""
        return self.page.get_by_label(self.says(key, **values))

    def reads(self, key: str, **values: object) -> None:
        """Wait for a sentence."""
        self.page.get_by_text(self.says(key, **values)).first.wait_for()

    def logs_in(self, name: str) -> Page:
        self.page.goto(self.ground.url)
        self.page.get_by_role("textbox").nth(0).fill(name)
        self.page.locator("#password").fill(WORDS)
        self.page.locator("#code").fill(pyotp.TOTP(self.ground.secrets[name]).now())
        self.page.locator("main button").click()
        self.page.locator("nav").wait_for()
        return self.page

    def sees_pictures(self) -> None:
        """Scroll to each picture, until it is there."""
        for picture in self.page.locator("figure img").all():
            picture.scroll_into_view_if_needed()
            self.page.wait_for_function(
                "image => image.complete && image.naturalWidth > 0", arg=picture.element_handle()
            )

    def is_fine(self, name: str) -> None:
        """Nobody is kept out by how the page is made; nothing was asked of anybody else; a picture is kept."""
        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()
        assert self.complaints == []
        assert self.elsewhere == []
        shown = "-".join([name, self.language, *(["dark"] if self.scheme == "dark" else [])])
        self.page.screenshot(path=PICTURES / f"{shown}.png", full_page=True)

    def close(self) -> None:
        self.context.close()


@both_languages
def test_an_operator_lets_a_site_in_and_shuts_it_out(ground: Ground, language: str) -> None:
    name, north = f"ada-{language}", f"north-{language}"
    ground.person(name, "operator")
    visit = Visit(ground, language)
    visit.page.goto(ground.url)
    visit.is_fine("login")
    page = visit.logs_in(name)
    visit.is_fine("overview-empty")
    visit.opens("sites")
    visit.field("site_name").fill(north)
    visit.presses("invite")
    code = page.locator("section.said code").inner_text()
    visit.is_fine("invited")
    fingerprint = ground.asks(north, code)
    visit.opens("overview")
    page.locator(".needs li").filter(has_text=north).get_by_role("link", name=visit.says("asks_to_join")).click()
    shown = page.locator("section.card code.long").inner_text().replace(" ", "")
    assert shown == fingerprint
    visit.is_fine("asks")
    visit.presses("approve")
    visit.reads("done_approved", site=north)
    visit.field("forget_words", site=north).fill(north)
    page.locator("form").filter(has_text=visit.says("forget_words", site=north)).get_by_role("button").click()
    visit.reads("done_forgotten", site=north)
    visit.is_fine("forgotten")
    visit.presses("log_out")
    page.get_by_role("heading", name=visit.says("log_in")).wait_for()
    visit.close()


def test_the_overview_keeps_itself_up_to_date(ground: Ground) -> None:
    ground.person("bob", "auditor")
    visit = Visit(ground, scheme="dark")
    page = visit.logs_in("bob")
    done = subprocess.run(
        [*FEDWARD, "hub", "invite", str(ground.hub.folder), "east", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    ground.asks("east", json.loads(done.stdout)["code"])
    page.locator(".needs").get_by_text("east", exact=True).wait_for(timeout=10_000)  # without a click
    visit.is_fine("overview")
    link = page.locator(".needs li").filter(has_text="east").get_by_role("link")
    link.focus()
    with ground.hub.store() as store:
        testing.Ground(ground.hub, store, ground.folder).asks("fareast")
    page.locator(".needs").get_by_text("fareast").wait_for(timeout=10_000)
    assert link.first.evaluate("link => link === document.activeElement")  # he goes on where he is
    visit.context.set_offline(True)
    page.locator("#lost").wait_for()
    visit.context.set_offline(False)
    page.locator("#lost").wait_for(state="hidden")
    visit.complaints.clear()  # of the network
    visit.opens("sites")
    assert page.get_by_role("button", name=visit.says("approve")).count() == 0  # he looks, and does nothing
    visit.is_fine("sites")
    visit.close()


def test_another_language_at_the_press_of_a_button(ground: Ground) -> None:
    ground.person("li", "investigator")
    visit = Visit(ground, "zh")
    page = visit.logs_in("li")
    page.get_by_role("heading", name="需要人处理的事").wait_for()
    visit.is_fine("overview")
    page.get_by_role("button", name="English").click()
    page.get_by_role("heading", name="What needs a person").wait_for()
    visit.close()


@both_languages
def test_an_investigator_writes_a_study_starts_it_watches_it_and_stops_it(ground: Ground, language: str) -> None:
    ivy, lake, west = (f"{name}-{language}" for name in ("ivy", "lake", "west"))
    for name in (lake, west):
        ground.enrolled(name)
    ground.person(ivy, "investigator")
    visit = Visit(ground, language)
    page = visit.logs_in(ivy)
    visit.opens("studies")
    page.get_by_role("link", name=visit.says("new_study")).click()
    visit.is_fine("study-empty")
    visit.field("from_template").select_option("breast-ultrasound")
    visit.presses("take_template")
    page.get_by_label(lake).check()
    page.get_by_label(west).check()
    faults = page.locator("#checked .faults")
    faults.get_by_text("asks for at least 3 sites that train").wait_for()
    text = visit.field("study_text")
    study = text.input_value()
    text.fill(study.replace('task = "classification"', 'task = "clasification"'))  # as it is typed
    faults.get_by_text("did you mean classification?").wait_for()
    visit.is_fine("study-wrong")
    changed = ground.folder / "mine.toml"
    changed.write_text(study.replace("min_sites = 3", "min_sites = 2"))
    page.once("dialog", lambda asked: asked.accept())  # in the place of what was typed
    visit.field("or_file").set_input_files(changed)
    visit.reads("study_right")
    page.locator("#checked").get_by_text(f"{lake}, {west}").wait_for()
    visit.is_fine("study-right")
    visit.presses("start_study")
    page.get_by_role("heading", name=visit.says("live_timeline")).wait_for()
    page.locator("#sites").get_by_text("is not connected").first.wait_for(timeout=60_000)  # nobody is up there
    visit.is_fine("run-waits")
    visit.presses("do_pause")
    page.locator("#status").get_by_text(visit.says("paused")).wait_for()
    visit.presses("do_resume")
    page.locator("#status").get_by_text(visit.says("running")).wait_for()
    visit.field("sure").check()
    visit.presses("do_stop")
    page.locator("#status").get_by_text(visit.says("stopped")).wait_for(timeout=60_000)
    page.get_by_text(f"it was stopped by {ivy}").first.wait_for()
    visit.is_fine("run-stopped")
    visit.opens("studies")
    page.get_by_role("row").filter(has_text=visit.says("stopped")).get_by_role("link").first.wait_for()
    visit.is_fine("studies")
    page.get_by_role("link", name=visit.says("new_study")).click()
    page.get_by_role("heading", name=visit.says("new_study")).wait_for()
    assert visit.field("study_text").input_value() == ""  # it was started, so nothing of it is kept
    visit.close()


@pytest.mark.long
def test_what_was_typed_stays_until_it_is_started(ground: Ground) -> None:
    for name in ("fjord", "moor"):
        ground.enrolled(name)
    ground.person("una", "investigator")
    visit = Visit(ground)
    page = visit.logs_in("una")
    new = f"{ground.url}/studies/new"
    page.goto(f"{new}?template=breast-ultrasound")
    text = page.locator("#study")
    typed = text.input_value().replace("min_sites = 3", "min_sites = 2")
    with page.expect_response("**/studies/check"):
        text.fill(typed)
    held: list[Route] = []
    page.route("**/studies/check", lambda route: held.append(route))  # noqa: PLW0108 - Playwright writes to it
    for name in ("fjord", "moor"):
        page.get_by_label(name).check()
    for answer in ("of fjord alone", "of fjord and moor"):  # however long the first takes, the second is told
        while not held:
            page.wait_for_timeout(20)
        held.pop(0).fulfill(body=f'<div id="checked" role="status">{answer}</div>')
        page.locator("#checked").get_by_text(answer).wait_for()
    page.unroute("**/studies/check")
    page.once("dialog", lambda asked: asked.dismiss())
    visit.presses("take_template")
    session = visit.context.cookies()
    visit.context.clear_cookies()
    text.press("End")
    text.press("Space")  # it is checked
    page.get_by_role("heading", name=visit.says("log_in")).wait_for()
    visit.context.add_cookies(session)  # type: ignore[arg-type]  # as cookies() gives them
    page.goto(f"{new}?template=breast-ultrasound")
    page.get_by_role("button", name=visit.says("other_language")).click()
    page.get_by_role("heading", name=texts("zh")["new_study"]).wait_for()
    visit.language = "zh"
    page.locator("#checked").get_by_text("fjord, moor").wait_for()
    assert text.input_value().split() == typed.split()
    assert page.get_by_label("moor").is_checked()
    assert visit.complaints == []
    visit.close()


def test_a_run_is_drawn_as_it_goes_on(ground: Ground) -> None:
    ground.person("rex", "auditor")
    run, sites = "drawn", [f"hospital-{number:03}" for number in range(20)]
    study = resolved(load(template_path("breast-ultrasound")), sites=[SiteEntry(name=site) for site in sites])
    journal = Journal(ground.hub.runs / run)
    (ground.hub.runs / run).mkdir()

    def tell(kind: EventKind, number: int, site: str = "", note: str = "") -> None:
        journal(RunEvent(kind=kind, run=run, round=number, rounds=study.rounds, site=site, note=note))

    with ground.hub.store() as store:
        store.start_run(run, study.study.id, study.digest, study.canonical_json().decode(), "embedded")
        visit = Visit(ground)
        page = visit.logs_in("rex")
        page.goto(f"{ground.url}/runs/{run}")
        page.locator("#sites tr").nth(19).wait_for()
        for number in (1, 2):
            tell("round", number)
            for site in sites[:-1]:
                tell("answered", number, site)
            page.get_by_text(f"Round {number} waits for hospital-019.").wait_for(timeout=2000)
            tell("refused", number, sites[-1], "array conv.weight holds NaN")
            tell("aggregated", number)
            store.record_round(
                RoundRow(
                    run=run,
                    round=number,
                    seconds=1.0,
                    train_seconds=1.0,
                    bytes_up=2**21,
                    bytes_down=2**20,
                    loss=0.5,
                    primary=0.75 + number / 100,
                )
            )
            page.locator("#figure").get_by_text(f"0.7{5 + number}").wait_for(timeout=2000)
        page.locator("#log").get_by_text("holds NaN").first.wait_for()
        assert page.locator("#sites tr").last.inner_text().split()[-1] == "2"
        assert page.locator("#loss canvas").count() == 1
        page.get_by_role("button", name="All rounds").click()
        visit.is_fine("run-live")
        store.finish_run(run, "failed", None, "too few sites are left")
        page.locator("#status").get_by_text("failed").wait_for()  # the page looks anew what can be done
        page.get_by_text("too few sites are left").first.wait_for()
        visit.close()


def watched_run(ground: Ground, run: str, *events: RunEvent) -> StudySpec:
    """A run of four sites, of which the last only evaluates; its study."""
    names = ("lake", "moor", "north", "valley")
    sites = [SiteEntry(name=name, role="evaluate" if name == names[-1] else "train") for name in names]
    study = resolved(load(template_path("breast-ultrasound")), sites=sites)
    folder = ground.hub.runs / run
    folder.mkdir()
    (folder / EVENTS).write_text("".join(f"{json.dumps(asdict(event))}\n" for event in events))
    with ground.hub.store() as store:
        store.start_run(run, study.study.id, study.digest, study.canonical_json().decode(), "embedded")
    return study


def test_the_timeline_shows_who_works_over_a_night_in_which_nobody_did(ground: Ground) -> None:
    ground.person("nell", "auditor")
    now, run = datetime.now(UTC), "overnight"

    def at(kind: EventKind, number: int, ago_s: float, site: str = "") -> RunEvent:
        time = (now - timedelta(seconds=ago_s)).isoformat()
        return RunEvent(kind=kind, run=run, round=number, rounds=5, site=site, time=time)

    events = []
    for number, ago_s in enumerate((50_000, 49_900, 300), start=1):
        events += [at("round", number, ago_s)]
        events += [at("answered", number, ago_s - 90, site) for site in ("lake", "moor", "north")]
        events += [at("aggregated", number, ago_s - 100)]
    watched_run(ground, run, *events, at("round", 4, 100), *(at("answered", 4, 80, site) for site in ("lake", "moor")))
    visit = Visit(ground)
    page = visit.logs_in("nell")
    page.goto(f"{ground.url}/runs/{run}")
    page.get_by_text("Round 4 waits for north.").wait_for()
    lake, _moor, north, valley = page.locator("#timeline").evaluate(
        """canvas => [0, 1, 2, 3].map((row) => {
             const [left, y] = [130, 22 + 24 * (row + 0.5)];
             const line = canvas.getContext("2d").getImageData(left, y, canvas.width - left, 1).data;
             const pixels = Array.from({ length: line.length / 4 }, (_, at) => line.slice(4 * at, 4 * at + 4).join());
             const rule = getComputedStyle(document.documentElement).getPropertyValue("--rule").trim();
             const pen = new OffscreenCanvas(1, 1).getContext("2d");
             pen.fillStyle = rule;
             pen.fillRect(0, 0, 1, 1);
             const waits = pen.getImageData(0, 0, 1, 1).data.join();
             return pixels.filter((each) => each !== waits && each !== "0,0,0,0").length / pixels.length;
           })"""
    )
    assert 0.65 < lake < 0.75  # of four rounds, as long: it trained for 90, 90, 90 and 20 seconds in 100
    assert 0.85 < north < 0.95  # and works
    assert valley == 0  # it trains nothing
    page.locator("#now").evaluate(
        """now => {
             window.told = 0;
             const observer = new MutationObserver(() => (window.told += 1));
             observer.observe(now, { childList: true, characterData: true, subtree: true });
           }"""
    )
    Journal(ground.hub.runs / run)(RunEvent(kind="warning", run=run, round=4, rounds=5, note="the clocks differ"))
    page.locator("#log").get_by_text("the clocks differ").wait_for()
    assert page.evaluate("window.told") == 0  # what is said already is not read out again
    visit.close()


@pytest.mark.long
def test_run_pages_that_stay_open_leave_room_for_others(ground: Ground) -> None:
    ground.person("tabitha", "auditor")
    run = "in-many-tabs"
    study = watched_run(ground, run)
    visit = Visit(ground)
    page = visit.logs_in("tabitha")
    tabs = [visit.context.new_page() for _ in range(7)]  # HTTP/1.1 has six connections
    for tab in tabs:
        tab.goto(f"{ground.url}/runs/{run}")
        tab.locator("#sites tr").first.wait_for()
    visit.opens("sites")
    page.get_by_role("heading", name="Sites", exact=True).first.wait_for()

    def looks(hidden: bool) -> None:
        """As if the tab were covered, which a browser without a head does not say."""
        tabs[0].evaluate(
            """hidden => {
                 Object.defineProperty(document, "hidden", { configurable: true, value: hidden });
                 document.dispatchEvent(new Event("visibilitychange"));
               }""",
            hidden,
        )

    looks(hidden=True)
    Journal(ground.hub.runs / run)(RunEvent(kind="round", run=run, round=1, rounds=study.rounds))
    for tab in tabs[1:]:
        tab.get_by_text("Round 1 waits for lake, moor, north.").wait_for()
    assert not tabs[0].get_by_text("Round 1 waits").is_visible()  # nobody looks
    looks(hidden=False)
    tabs[0].get_by_text("Round 1 waits for lake, moor, north.").wait_for()
    visit.close()


@pytest.mark.long
def test_a_runs_page_follows_what_others_do_with_it(ground: Ground) -> None:
    ground.person("ola", "operator")
    run = "of-others"
    watched_run(ground, run)
    visit = Visit(ground)
    page = visit.logs_in("ola")
    page.goto(f"{ground.url}/runs/{run}")
    page.locator("form[action$=stop]").evaluate("form => form.submit()")  # without the tick: refused
    visit.reads("tick_to_stop")
    page.locator("#sites tr").first.wait_for()
    pausing.pause(ground.hub.runs / run)
    page.get_by_role("button", name=visit.says("do_resume")).wait_for()
    with ground.hub.store() as store:
        store.finish_run(run, "failed", None, "too few sites are left")
        page.locator("#status").get_by_text(visit.says("failed")).wait_for()
        pausing.go_on(ground.hub.runs / run)
        assert store.go_on(run, "failed")
        page.locator("#status").get_by_text(visit.says("running")).wait_for(timeout=10_000)
        page.get_by_role("button", name=visit.says("do_pause")).wait_for()
        store.finish_run(run, "stopped", None, "it was stopped")
    visit.close()


@pytest.mark.long
def test_an_investigator_does_the_same_from_a_terminal_elsewhere(ground: Ground, tmp_path: Path) -> None:
    for name in ("bay", "hill"):
        ground.enrolled(name)
    ground.person("uma", "investigator")
    secret = tmp_path / "password"
    secret.write_text(WORDS)
    secret.chmod(0o600)

    def fedward(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
        return subprocess.run(
            [*FEDWARD, *words], input=said, env=environment, capture_output=True, text=True, check=False
        )

    login = ["hub", "login", ground.url, "--name", "uma", "--password-file", str(secret)]
    code = pyotp.TOTP(ground.secrets["uma"]).now()
    assert "name the hub's root with --authority" in fedward(*login, said=f"{code}\n").stderr
    assert "you are not logged in" in fedward("study", "status", "--hub", ground.url).stderr
    root = ["--authority", str(ground.hub.issuing.root)]
    assert "name, password or digits are not right" in fedward(*login, *root, said="000000\n").stderr
    code = pyotp.TOTP(ground.secrets["uma"]).now()
    done = fedward(*login, *root, said=f"{code}\n")
    assert done.stdout.strip() == f"uma is logged in at {ground.url}.", done.stderr
    assert (tmp_path / "fedward" / "sessions.json").stat().st_mode & 0o777 == 0o600
    study = tmp_path / "mine.toml"
    study.write_text(template_path("heart-disease").read_text())
    at = ["--hub", ground.url]
    refused = fedward("study", "start", str(study), *at, "--site", "nowhere")
    assert "nowhere is not enrolled at this hub" in refused.stderr
    study.write_text(re.sub("min_sites = .*", "min_sites = 2", study.read_text()))
    started = fedward("study", "start", str(study), *at, "--site", "bay", "--site", "hill", "--detach")
    assert started.returncode == 0, started.stderr
    run = started.stdout.strip()
    assert run in [each["run"] for each in json.loads(fedward("study", "status", *at, "--json").stdout)]
    assert fedward("study", "pause", run, *at).returncode == 0
    told = json.loads(fedward("study", "status", run, *at, "--json").stdout)
    assert (told["run"], told["status"], told["paused"], told["sites"]) == (run, "running", True, ["bay", "hill"])
    assert fedward("study", "stop", run, *at).returncode == 0
    followed = fedward("study", "status", run, *at, "--follow")
    assert followed.returncode == 1
    assert "was stopped: it was stopped by uma" in followed.stderr
    assert fedward("hub", "logout", ground.url).returncode == 0
    assert "you are not logged in" in fedward("study", "status", *at).stderr


def hospitals_of(ground: Ground, language: str) -> list[FakeSite]:
    """Sites that answer at once, enrolled where they are not yet."""
    sites = [
        FakeSite(name=f"{name}-{language}", patients=many, quality=0.8)
        for name, many in (("ash-clinic", 120), ("elm-clinic", 60), ("oak-clinic", 90))
    ]
    with ground.hub.store() as store:
        hospitals = testing.Ground(ground.hub, store, ground.folder)
        for site in sites:
            if site.name not in store.sites():
                hospitals.enrolled(site.name)
    return sites


def results_run(ground: Ground, run: str, language: str) -> None:
    """A run that the real engine did."""
    sites = hospitals_of(ground, language)
    with ground.hub.store() as store:
        study = tiny_study(study={"title": "Benign or malignant?"})
        testing.Ground(ground.hub, store, ground.folder).finished(run, *sites, study=study)


@both_languages
def test_a_clinician_reads_results_and_takes_a_picture(ground: Ground, language: str) -> None:
    run, kim = f"read-{language}", f"kim-{language}"
    results_run(ground, run, language)
    ground.person(kim, "investigator")
    visit = Visit(ground, language)
    page = visit.logs_in(kim)
    page.goto(f"{ground.url}/runs/{run}/results")
    page.get_by_role("heading", name=f"{visit.says('results')}: Benign or malignant?").wait_for()
    visit.sees_pictures()
    assert page.get_by_text(f"ash-clinic-{language}").count() > 0
    roc = visit.says("picture_roc")
    page.get_by_text(f"{visit.says('results_as_table')}: {roc}").click()
    page.get_by_role("region", name=roc).wait_for()
    with page.expect_download() as taken:
        page.get_by_role("link", name=f"{roc}: PNG").click()
    assert taken.value.suggested_filename == f"{run}-roc.png"
    assert taken.value.path().read_bytes().startswith(b"\x89PNG")
    visit.is_fine("results")
    visit.close()


@both_languages
def test_a_steward_follows_his_hospitals_part_and_takes_its_model(ground: Ground, language: str) -> None:
    done, asked, model = f"done-{language}", f"asked-{language}", f"screening-{language}"
    elm, others = f"elm-clinic-{language}", (f"ash-clinic-{language}", f"oak-clinic-{language}")
    results_run(ground, done, language)
    Registry(ground.hub).add_run(model, done)
    study = resolved(load(template_path("breast-ultrasound")), sites=[SiteEntry(name=each) for each in (elm, *others)])
    with ground.hub.store() as store:
        fingerprint = {name: row.fingerprint for name, row in store.sites().items()}
        entries = tuple(SiteEntry(name=each, fingerprint=fingerprint[each]) for each in sorted((elm, *others)))
        study = study.model_copy(update={"sites": entries})
        (ground.hub.runs / asked).mkdir()
        store.start_run(asked, study.study.id, study.digest, study.canonical_json().decode(), "embedded")
    journal, note = Journal(ground.hub.runs / asked), "waits for approval: `fedward site approve` gives it"
    for site in (elm, *others):
        journal(RunEvent(kind="waiting", run=asked, round=0, rounds=study.rounds, site=site, note=note))

    def tells(state: ApprovalState) -> None:
        """The site tells what its steward said there."""
        now = datetime.now(UTC)
        until = now.date() if state == "approved" else None
        with ground.hub.store() as store:
            Approvals(store).tell(elm, [Approval(digest=study.digest, state=state, time=now, until=until)])

    tells("awaiting")
    sten = f"sten-{language}"
    ground.person(sten, "steward", elm)
    visit = Visit(ground, language, scheme="dark")

    def finds_no_other() -> None:
        text = page.content()
        assert not [other for other in (*others, fingerprint[others[0]][:16]) if other in text]

    page = visit.logs_in(sten)
    needed = page.locator(".needs").get_by_role("link", name="waits for approval")
    needed.wait_for()  # so he knows what to look at
    assert page.locator("nav").get_by_role("link", name=visit.says("audit")).count() == 0
    finds_no_other()
    visit.is_fine("steward-overview")
    needed.click()
    row = page.locator("#sites tr")
    row.get_by_role("rowheader", name=elm).wait_for()
    assert row.count() == 1
    row.get_by_text(visit.says("approval_awaiting")).wait_for()
    tells("approved")  # while he looks
    row.get_by_text(visit.says("approval_approved")).wait_for(timeout=10_000)
    for action in ("do_pause", "do_resume", "do_stop"):
        assert page.get_by_role("button", name=visit.says(action)).count() == 0
    finds_no_other()
    visit.is_fine("steward-run")
    visit.opens("sites")
    page.get_by_role("heading", name=elm).wait_for()
    assert page.locator("section.card").count() == 1
    finds_no_other()
    visit.is_fine("steward-site")
    visit.opens("studies")
    assert page.get_by_role("link", name=visit.says("new_study")).count() == 0
    page.get_by_role("row").filter(has_text=done).get_by_role("link").click()
    page.locator("#actions").get_by_role("link", name=visit.says("results")).click()
    visit.sees_pictures()
    with page.expect_download() as taken:
        page.get_by_role("link", name=f"{visit.says('results_figures')}: CSV").click()
    table = taken.value.path().read_text("utf-8")
    assert elm in table
    assert not [other for other in others if other in table]
    finds_no_other()
    visit.is_fine("steward-results")
    visit.opens("models")
    page.get_by_role("link", name=model).click()
    page.get_by_role("heading", name=visit.says("model_lineage")).wait_for()
    finds_no_other()
    visit.is_fine("steward-model")
    with page.expect_download() as taken:
        page.get_by_role("link", name=f"{model}.safetensors").click()
    weights, kept = load_file(taken.value.path()), load_file(Registry(ground.hub).find(model)[1])
    assert model_sha256(weights) == model_sha256(kept)  # the head says less
    page.goto(f"{ground.url}/studies/new")  # by its address: told that it is not for him
    visit.reads("not_allowed")
    visit.close()
    with ground.hub.store() as store:
        store.finish_run(asked, "stopped", None, "it was stopped")


def test_a_browser_that_was_left_open_over_a_restart_of_the_pages(ground: Ground) -> None:
    ground.person("eve", "auditor")
    visit = Visit(ground)
    page = visit.logs_in("eve")
    before = page.locator("#live .sub").last.inner_text()
    for pid in api_processes(ground):
        subprocess.run(["kill", "-KILL", str(pid)], check=True)
    page.wait_for_function(
        "before => document.querySelector('#live').lastElementChild.innerText !== before", arg=before
    )
    page.get_by_role("link", name="Sites").click()
    page.get_by_role("heading", name="Sites", exact=True).first.wait_for()  # the session goes on
    visit.close()


def finished_run(ground: Ground, run: str, start: str | None = None) -> str:
    """A run that has ended, which began with a registered model where one is named; its model's SHA-256."""

    def learned(arrays: Arrays) -> Arrays:
        return {name: array + np.asarray(sum(run.encode()), array.dtype) for name, array in arrays.items()}

    sites = [FakeSite(name=name, quality=0.8, update=learned) for name in ("fir-clinic", "yew-clinic")]
    study = tiny_study()
    if start is not None:
        entry, path = Registry(ground.hub).find(start)
        keep_start(path, ground.hub.runs / run)
        study = tiny_study(model={"start": {"model": start, "sha256": entry.sha256, "head": True}})
    with ground.hub.store() as store:
        hospitals = testing.Ground(ground.hub, store, ground.folder)
        for site in sites:
            if site.name not in store.sites():
                hospitals.enrolled(site.name)
        return hospitals.finished(run, *sites, study=study).model_sha256


@both_languages
def test_a_model_is_registered_read_and_downloaded(ground: Ground, language: str) -> None:
    iva, ira = f"iva-{language}", f"ira-{language}"
    first, second, pilot, final = (f"{word}-{language}" for word in ("first", "second-run", "pilot", "final"))
    ground.person(iva, "investigator")
    finished_run(ground, first)
    visit = Visit(ground, language)
    page = visit.logs_in(iva)
    visit.opens("models")
    visit.field("of_which_run").select_option(first)
    visit.field("model_name").fill(pilot)
    visit.field("note_words").fill("the pilot's")
    visit.is_fine("models-add")
    visit.presses("register_model")
    page.get_by_role("heading", name=pilot).wait_for()
    sha256 = finished_run(ground, second, pilot)
    Registry(ground.hub).add_run(final, second)
    page.reload()
    page.locator(".tree").get_by_role("link", name=final).click()
    page.locator(".tree b").get_by_text(final).wait_for()
    visit.is_fine("model")
    with page.expect_download() as taken:
        page.get_by_role("link", name=f"{final}.safetensors").click()
    assert taken.value.path().read_bytes() == Registry(ground.hub).find(final)[1].read_bytes()
    visit.opens("models")
    page.get_by_text(f"{sha256[:12]}…").wait_for()
    visit.is_fine("models")
    visit.close()
    ground.person(ira, "auditor")
    visit = Visit(ground, language, scheme="dark")
    page = visit.logs_in(ira)
    visit.opens("models")
    page.get_by_role("link", name=final).click()
    page.get_by_role("heading", name=visit.says("model_lineage")).wait_for()
    visit.is_fine("model")
    visit.close()


@both_languages
def test_the_audit_log_is_searched_and_checked(ground: Ground, language: str) -> None:
    aud, auda, site = f"aud-{language}", f"auda-{language}", f"{language}-site"
    ground.person(aud, "auditor")
    for number in range(120):
        ground.hub.audit().append("site invited", {"site": f"{site}-{number}", "days": 7})
    visit = Visit(ground, language)
    page = visit.logs_in(aud)
    visit.opens("audit")
    visit.presses("check_now")
    page.get_by_text(visit.begins("check_intact")).wait_for()
    visit.is_fine("audit")
    page.get_by_text(visit.says("check_elsewhere"), exact=True).click()
    with page.expect_download() as taken:
        page.get_by_role("link", name=visit.says("download_log")).click()
    assert taken.value.path().read_bytes() == ground.hub.audit_file.read_bytes()
    page.get_by_role("link", name=visit.says("older_entries")).click()
    page.get_by_role("link", name=visit.says("newest_entries")).wait_for()
    visit.field("entry_of_whom").fill(f"{site}-7")
    page.get_by_role("button", name=visit.says("show_entries"), exact=True).click()
    page.get_by_role("rowheader").nth(10).wait_for()
    assert page.get_by_role("rowheader").count() == 11  # …-7 and …-70 to …-79
    visit.is_fine("audit-searched")
    visit.close()
    log = ground.hub.audit_file.read_bytes()
    try:
        said = f'"site":"{site}-{{}}"'
        ground.hub.audit_file.write_bytes(log.replace(said.format(115).encode(), said.format(911).encode()))
        ground.person(auda, "auditor")
        visit = Visit(ground, language, scheme="dark")
        page = visit.logs_in(auda)
        visit.opens("audit")
        visit.presses("check_now")
        page.get_by_text(visit.begins("check_bad")).wait_for()
        page.get_by_text(visit.begins("entry_bad")).wait_for()
        visit.is_fine("audit-bad")
        visit.close()
    finally:
        ground.hub.audit_file.write_bytes(log)


@pytest.mark.long
def test_a_browser_that_was_left_open_over_a_restart_of_the_hub(tmp_path: Path, ground: Ground) -> None:
    address, pages = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
    hub = Hub.init(
        tmp_path / "hub",
        port=free_port(),
        address=address,
        listen=address,
        root=tmp_path / "root",
        dashboard=pages,
    )
    own = Ground(hub, tmp_path, ground.browser)
    own.person("eve", "auditor")
    names = ("lake", "north", "valley")
    study = resolved(load(template_path("breast-ultrasound")), sites=[SiteEntry(name=name) for name in names])
    journal = Journal(hub.runs / "drawn")
    (hub.runs / "drawn").mkdir()
    with hub.store() as store:
        store.start_run("drawn", study.study.id, study.digest, study.canonical_json().decode(), "embedded")
    visit = Visit(own)

    def up() -> AbstractContextManager[int]:
        return background([*FEDWARD, "hub", "up", str(hub.folder)], tmp_path / "hub.out")

    def answers() -> None:
        deadline = time.monotonic() + 180
        while not (hub.link.healthy() and Gateway(hub).answers()):
            assert time.monotonic() < deadline
            time.sleep(0.2)

    with up():
        answers()
        page = visit.logs_in("eve")
        page.goto(f"{own.url}/runs/drawn")
        page.locator("#sites").get_by_text("north").wait_for()
    page.locator("#lost").wait_for()  # it says so
    with up():
        answers()
        page.locator("#lost").wait_for(state="hidden", timeout=60_000)
        journal(RunEvent(kind="round", run="drawn", round=1, rounds=study.rounds))
        page.get_by_text(
            "Round 1 waits for lake, north, valley."
        ).wait_for()  # it goes on, and nobody had to log in again
        visit.close()
        with httpx.Client(base_url=own.url, verify=False) as program:  # who guesses is slowed down, by any way in
            for tries in (
                [program.post("/api/v1/session", json={}) for _ in range(60)],  # no password to be looked at slowly
                [program.post("/login", data={}) for _ in range(60)],
            ):
                assert 429 in [answer.status_code for answer in tries]
            assert program.get("/login").status_code == 200  # looking is no guess


def api_processes(ground: Ground) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0") if path.exists() else []
        if words[1:4] == [b"-m", b"fedward_server.api", str(ground.hub.folder).encode()]:
            found.append(int(path.parent.name))
    return found
