"""The dashboard in a real browser, by real clicks: Debian's Chromium before the real nginx of a hub that is up."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pyotp
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from fedward_common.records import Arrays
from fedward_common.study import SiteEntry, load, resolved, template_path
from fedward_common.testing import FakeSite, tiny_study
from fedward_server import control, testing
from fedward_server.events import EventKind, RunEvent
from fedward_server.gateway import Gateway
from fedward_server.hub import Hub
from fedward_server.joining import Joining
from fedward_server.journal import Journal
from fedward_server.models import Registry, keep_start
from fedward_server.people import People, Role
from fedward_server.store import RoundRow
from fedward_server.superlink import free_port
from fedward_simulations.federation import background

WORDS, HOST = "correct horse battery", "127.0.0.1"
FEDWARD = [sys.executable, "-m", "fedward_common"]

pytestmark = pytest.mark.timeout(600)


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

    def __init__(self, ground: Ground, language: str = "en-GB", scheme: str = "light") -> None:
        self.ground = ground
        self.context = ground.browser.new_context(ignore_https_errors=True, locale=language, color_scheme=scheme)  # type: ignore[arg-type]
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

    def logs_in(self, name: str) -> Page:
        self.page.goto(self.ground.url)
        self.page.get_by_role("textbox").nth(0).fill(name)
        self.page.locator("#password").fill(WORDS)
        self.page.locator("#code").fill(pyotp.TOTP(self.ground.secrets[name]).now())
        self.page.locator("main button").click()
        self.page.locator("nav").wait_for()
        return self.page

    def is_fine(self, name: str) -> None:
        """Nobody is kept out by how the page is made; nothing was asked of anybody else; a picture is kept."""
        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()
        assert self.complaints == []
        assert self.elsewhere == []
        self.page.screenshot(path=self.ground.folder / f"{name}.png", full_page=True)

    def close(self) -> None:
        self.context.close()


def test_an_operator_lets_a_site_in_and_shuts_it_out(ground: Ground) -> None:
    ground.person("ada", "operator")
    visit = Visit(ground)
    visit.page.goto(ground.url)
    visit.is_fine("login")
    page = visit.logs_in("ada")
    visit.is_fine("overview-empty")
    page.get_by_role("link", name="Sites").click()
    page.get_by_label("The site's name").fill("north")
    page.get_by_role("button", name="Make a code").click()
    code = page.locator("section.said code").inner_text()
    visit.is_fine("invited")
    fingerprint = ground.asks("north", code)
    page.get_by_role("link", name="Overview").click()
    page.locator(".needs").get_by_text("north").wait_for()
    page.get_by_role("link", name="asks to join").click()
    shown = page.locator("section.card code.long").inner_text().replace(" ", "")
    assert shown == fingerprint
    visit.is_fine("asks")
    page.get_by_role("button", name="It is the same: let in").click()
    page.get_by_text("north is let in.").wait_for()
    page.get_by_label("To shut north out now, type its name").fill("north")
    page.get_by_role("button", name="Forget").click()
    page.get_by_text("north is forgotten").wait_for()
    visit.is_fine("forgotten")
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Log in").wait_for()
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
    page.locator(".needs").get_by_text("east").wait_for(timeout=10_000)  # without a click
    visit.is_fine("overview-dark")
    page.get_by_role("link", name="Sites").click()
    assert page.get_by_role("button", name="let in").count() == 0  # he looks, and does nothing
    visit.is_fine("sites-dark")
    visit.close()


def test_in_chinese(ground: Ground) -> None:
    ground.person("li", "investigator")
    visit = Visit(ground, language="zh-CN")
    page = visit.logs_in("li")
    page.get_by_role("heading", name="需要人处理的事").wait_for()
    visit.is_fine("overview-zh")
    page.get_by_role("button", name="English").click()
    page.get_by_role("heading", name="What needs a person").wait_for()
    visit.close()


def test_an_investigator_writes_a_study_starts_it_watches_it_and_stops_it(ground: Ground) -> None:
    for name in ("lake", "west"):
        ground.enrolled(name)
    ground.person("ivy", "investigator")
    visit = Visit(ground)
    page = visit.logs_in("ivy")
    page.get_by_role("link", name="Studies").click()
    page.get_by_role("link", name="New study").click()
    visit.is_fine("study-empty")
    page.get_by_label("Begin with a template").select_option("breast-ultrasound")
    page.get_by_role("button", name="Take it").click()
    faults = page.locator("#checked .faults")
    faults.get_by_text("asks for at least 3 sites that train").wait_for()
    text = page.get_by_label("The study, as TOML")
    study = text.input_value()
    text.fill(study.replace('task = "classification"', 'task = "clasification"'))  # as it is typed
    faults.get_by_text("did you mean classification?").wait_for()
    visit.is_fine("study-wrong")
    changed = ground.folder / "mine.toml"
    changed.write_text(study.replace("min_sites = 3", "min_sites = 2"))
    page.get_by_label("or with a file of yours").set_input_files(changed)
    page.get_by_text("This can be run.").wait_for()
    page.get_by_label("lake").check()
    page.get_by_label("west").check()
    page.locator("#checked").get_by_text("at lake, west").wait_for()
    visit.is_fine("study-right")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("heading", name="Who waits for whom").wait_for()
    page.locator("#sites").get_by_text("is not connected").first.wait_for(timeout=60_000)  # nobody is up there
    visit.is_fine("run-waits")
    page.get_by_role("button", name="Pause").click()
    page.locator("#status").get_by_text("paused").wait_for()
    page.get_by_role("button", name="Go on").click()
    page.locator("#status").get_by_text("running").wait_for()
    page.get_by_label("I want to stop it").check()
    page.get_by_role("button", name="Stop").click()
    page.locator("#status").get_by_text("stopped").wait_for(timeout=60_000)
    page.get_by_text("it was stopped by ivy").first.wait_for()
    visit.is_fine("run-stopped")
    page.get_by_role("link", name="Studies").click()
    page.get_by_role("row").filter(has_text="stopped").get_by_role("link").wait_for()
    visit.is_fine("studies")
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


def test_a_clinician_reads_results_and_takes_a_picture(ground: Ground) -> None:
    """A run that the real engine did, of sites that answer at once."""
    sites = [
        FakeSite(name=name, patients=many, quality=0.8)
        for name, many in (("ash-clinic", 120), ("elm-clinic", 60), ("oak-clinic", 90))
    ]
    with ground.hub.store() as store:
        hospitals = testing.Ground(ground.hub, store, ground.folder)
        for site in sites:
            hospitals.enrolled(site.name)
        hospitals.finished("run-1", *sites, study=tiny_study(study={"title": "Benign or malignant?"}))
    ground.person("kim", "investigator")
    ground.person("elms-steward", "steward", "elm-clinic")
    for name, scheme in (("kim", "light"), ("elms-steward", "dark")):
        visit = Visit(ground, scheme=scheme)
        page = visit.logs_in(name)
        page.goto(f"{ground.url}/runs/run-1/results")
        page.get_by_role("heading", name="Results: Benign or malignant?").wait_for()
        for picture in page.locator("figure img").all():
            picture.scroll_into_view_if_needed()
            page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=picture.element_handle())
        assert (page.get_by_text("ash-clinic").count() > 0) == (name == "kim")
        page.get_by_text("As a table: ROC curve").click()
        page.get_by_role("region", name="ROC curve").wait_for()
        with page.expect_download() as taken:
            page.get_by_role("link", name="ROC curve: PNG").click()
        assert taken.value.suggested_filename == "run-1-roc.png"
        assert taken.value.path().read_bytes().startswith(b"\x89PNG")
        visit.is_fine(f"results-{scheme}")
        visit.close()


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
        return {name: array + np.asarray(len(run), array.dtype) for name, array in arrays.items()}

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


def test_a_model_is_registered_read_and_downloaded(ground: Ground) -> None:
    ground.person("iva", "investigator")
    finished_run(ground, "tiny-1")
    visit = Visit(ground)
    page = visit.logs_in("iva")
    page.get_by_role("link", name="Models").click()
    page.get_by_label("Of which run").select_option("tiny-1")
    page.get_by_label("Its name").fill("pilot")
    page.get_by_label("What people should know of it").fill("the pilot's")
    visit.is_fine("models-empty")
    page.get_by_role("button", name="Register").click()
    page.get_by_role("heading", name="pilot").wait_for()
    second = finished_run(ground, "tiny-2", "pilot")
    Registry(ground.hub).add_run("final", "tiny-2")
    page.reload()
    page.locator(".tree").get_by_role("link", name="final").click()
    page.locator(".tree b").get_by_text("final").wait_for()
    visit.is_fine("model")
    with page.expect_download() as taken:
        page.get_by_role("link", name="final.safetensors").click()
    assert taken.value.path().read_bytes() == Registry(ground.hub).find("final")[1].read_bytes()
    page.get_by_role("link", name="Models").first.click()
    page.get_by_text(f"{second[:12]}…").wait_for()
    visit.is_fine("models")
    visit.close()
    ground.person("ira", "auditor")
    visit = Visit(ground, language="zh-CN", scheme="dark")
    page = visit.logs_in("ira")
    page.get_by_role("link", name="模型").click()
    page.get_by_role("link", name="final").click()
    page.get_by_role("heading", name="它从何而来").wait_for()
    visit.is_fine("model-dark-zh")
    visit.close()


def test_the_audit_log_is_searched_and_checked(ground: Ground) -> None:
    ground.person("aud", "auditor")
    for number in range(120):
        ground.hub.audit().append("site invited", {"site": f"site-{number}", "days": 7})
    visit = Visit(ground)
    page = visit.logs_in("aud")
    page.get_by_role("link", name="Audit").click()
    page.get_by_role("button", name="Check the whole log").click()
    page.get_by_text("The log is whole:").wait_for()
    visit.is_fine("audit")
    page.get_by_text("Check it on another machine").click()
    with page.expect_download() as taken:
        page.get_by_role("link", name="Download the log").click()
    assert taken.value.path().read_bytes() == ground.hub.audit_file.read_bytes()
    page.get_by_role("link", name="Older").click()
    page.get_by_role("link", name="Newest").wait_for()
    page.get_by_label("Site, person, run").fill("site-7")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("rowheader").nth(10).wait_for()
    assert page.get_by_role("rowheader").count() == 11  # site-7 and site-70 to site-79
    visit.is_fine("audit-searched")
    visit.close()
    log = ground.hub.audit_file.read_bytes()
    try:
        ground.hub.audit_file.write_bytes(log.replace(b'"site":"site-115"', b'"site":"site-911"'))
        ground.person("auda", "auditor")
        visit = Visit(ground, scheme="dark")
        page = visit.logs_in("auda")
        page.get_by_role("link", name="Audit").click()
        page.get_by_role("button", name="Check the whole log").click()
        page.get_by_text("The log is not whole:").wait_for()
        page.get_by_text("Do not rely on this").wait_for()
        visit.is_fine("audit-bad-dark")
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
        guesses = {"name": "eve", "password": "wrong wrong wrong", "code": "000000"}
        with httpx.Client(base_url=own.url, verify=False) as program:  # who guesses is slowed down, by any way in
            for tries in (
                [program.post("/api/v1/session", json=guesses) for _ in range(60)],
                [program.post("/login", data=guesses) for _ in range(60)],
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
