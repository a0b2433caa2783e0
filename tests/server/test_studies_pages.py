"""The pages of studies and runs, and their API: who may do what, what is refused and why, many runs."""

import asyncio
import hashlib
import json
import re
import threading
import time

import httpx
import pytest
import sqlalchemy as sa

from fedward_common.study import template_names, template_path
from fedward_common.testing import tiny_study
from fedward_server import pausing, runs
from fedward_server.api.people import runs as runs_api
from fedward_server.events import RunEvent
from fedward_server.journal import Journal
from fedward_server.people import Role
from fedward_server.store import METADATA
from fedward_server.surveys import ASKED, Survey
from fedward_server.testing import Ground, Person

TEMPLATE = template_path("breast-ultrasound").read_text("utf-8")
RUN = "breast-ultrasound-20261130T140000-abcdef"
OF_FILE = TEMPLATE + '\n[model.start]\nfile = "/etc/passwd"\n'


@pytest.fixture
def ivy(ground: Ground) -> Person:
    return ground.person("ivy", "investigator")


# A new study ---------------------------------------------------------------------------------------------------------


def test_each_template_can_be_taken_and_can_be_run_as_it_is(ground: Ground, ivy: Person) -> None:
    ground.enrolled("east")
    page = ivy.sees("/studies/new")
    for name in template_names():
        assert f">{name}</option>" in page
        text = ivy.calls("GET", f"/templates/{name}").text
        found = ivy.calls("POST", "/studies/check", json={"study": text}).json()
        assert (found["faults"], found["sites"]) == ([], ["east", "north", "south"]), name
    assert ivy.calls("GET", "/templates/nonsense").status_code == 404
    assert "This can be run." in ivy.sees("/studies/new?template=breast-ultrasound")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('task = "classification"', 'task = "clasification"', "did you mean classification?"),
        ("min_patients = 20", "min_patients = -1", "line"),
        ('labels = ["benign", "malignant"]', "labels = [", "this is no TOML"),
    ],
)
def test_what_is_wrong_is_told_while_it_is_typed(ivy: Person, old: str, new: str, words: str) -> None:
    assert old in TEMPLATE
    status, page = ivy.sends("/studies/check", study=TEMPLATE.replace(old, new))
    assert status == 200
    assert "This cannot be run:" in page
    assert words.replace('"', "&#34;") in page
    assert "<html" not in page  # a part of the page


def test_sites_that_are_ticked_are_those_that_are_asked(ivy: Person) -> None:
    status, page = ivy.sends("/studies/check", **{"study": TEMPLATE, "site-north": "on"})
    assert status == 200
    assert "the study asks for at least" in page  # it needs three, or two: never one
    status, page = ivy.sends("/studies/check", **{"study": TEMPLATE, "site-nowhere": "on", "site-north": "on"})
    assert "nowhere is not enrolled at this hub" in page


def test_a_studys_text_reads_no_file_of_the_hub(ivy: Person) -> None:
    for call in ("/studies/check", "/runs"):
        answer = ivy.calls("POST", call, json={"study": OF_FILE})
        assert "names a file, which this hub does not have" in answer.text
    status, page = ivy.sends("/studies/start", study=OF_FILE)
    assert status == 409
    assert "names a file" in page
    assert ivy.calls("GET", "/runs").json() == []


def test_a_study_that_cannot_start_is_not_lost(ground: Ground, ivy: Person) -> None:
    changed = TEMPLATE.replace("Benign or malignant", "Is it malignant")
    status, page = ivy.sends("/studies/start", study=changed)
    assert status == 409
    assert "the hub is not up" in page
    assert "Is it malignant" in page
    assert ground.store.runs() == []


def test_a_refused_start_is_checked_with_the_sites_that_were_ticked(ivy: Person) -> None:
    of_two = TEMPLATE.replace("min_sites = 3", "min_sites = 2")
    assert "This can be run." in ivy.sends("/studies/check", study=of_two)[1]
    status, page = ivy.sends("/studies/start", **{"study": of_two, "site-north": "on"})
    assert status == 409
    assert "This can be run." not in page
    assert "the study asks for at least" in page


def test_a_check_says_that_the_session_is_another_or_over(ivy: Person) -> None:
    check, old = {"hx-request": "true"}, {"study": TEMPLATE, "csrf": ivy.csrf()}
    ivy.ground.people.remove("ivy")
    assert ivy.browser.post("/studies/check", old, check).headers["hx-redirect"] == "/login?over=1"
    again = ivy.ground.person("ivy", "investigator")
    assert again.browser.post("/studies/check", old, check).headers["hx-refresh"] == "true"


def test_too_long_a_study_is_refused(ivy: Person) -> None:
    answer = ivy.calls("POST", "/runs", json={"study": "#" * 300_000})
    assert answer.status_code == 422
    assert "longer than" in ivy.sends("/studies/check", study="#" * 300_000)[1]


# Who may -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["auditor", "steward"])
def test_others_start_and_stop_nothing(ground: Ground, role: Role) -> None:
    ground.started(RUN, "north", "south")
    eve = ground.person("eve", role, "north" if role == "steward" else None)
    assert "New study" not in eve.sees("/studies")
    assert eve.browser.get("/studies/new").status_code == 403
    page = eve.sees(f"/runs/{RUN}")
    assert "/stop" not in page
    for path in ("/studies/check", "/studies/start", f"/runs/{RUN}/pause", f"/runs/{RUN}/stop"):
        assert eve.sends(path, study=TEMPLATE, sure="yes")[0] == 403
    for path in ("/runs", "/studies/check"):
        assert eve.calls("POST", path, json={"study": TEMPLATE}).status_code == 403
    assert eve.calls("POST", f"/runs/{RUN}/pause").status_code == 403
    assert not pausing.is_paused(ground.hub.runs / RUN)


def test_a_program_needs_its_sessions_word(ground: Ground, ivy: Person) -> None:
    ground.started(RUN, "north", "south")
    path = f"/api/v1/runs/{RUN}/pause"
    assert ivy.browser.send("POST", path).status_code == 403
    csrf = {"x-fedward-csrf": ivy.csrf(), "sec-fetch-site": "cross-site"}
    assert ivy.browser.send("POST", path, headers=csrf).status_code == 403
    assert not pausing.is_paused(ground.hub.runs / RUN)


def test_a_steward_finds_no_run_of_others(ground: Ground) -> None:
    ground.started(RUN, "south")
    ground.started("of-both", "north", "south")
    ground.store.finish_run("of-both", "failed", None, "south is gone")
    sten = ground.person("sten", "steward", "north")
    assert RUN not in sten.sees("/studies")
    assert "of-both" in sten.sees("/studies")
    for path in (f"/runs/{RUN}", "/runs/nonsense"):
        assert sten.browser.get(path).status_code == 404
        for call in ("", "/events"):
            answer = sten.calls("GET", path + call)
            assert (answer.status_code, answer.json()) == (404, {"error": "there is no such run"})
    for call in ("/runs", "/runs/of-both"):
        assert "south" not in sten.calls("GET", call).text
    assert "south" not in sten.sees("/runs/of-both")


def test_another_hospital_of_the_same_name_finds_nothing_of_the_first(ground: Ground) -> None:
    ground.started(RUN, "north", "south")
    sten = ground.person("sten", "steward", "north")
    assert RUN in sten.sees("/studies")
    ground.hub.forget("north")
    assert sten.browser.get("/").headers["location"].startswith("/login")  # at once
    assert "sten" not in [person.name for person in ground.people.all()]
    ground.enrolled("north")
    steve = ground.person("steve", "steward", "north")
    for path in ("/", "/studies", "/api/v1/runs", "/api/v1/overview"):
        assert RUN not in steve.sees(path), path
    assert steve.browser.get(f"/runs/{RUN}").status_code == 404


def test_paging_tells_of_no_run_of_others(ground: Ground) -> None:
    for number in range(30):
        ground.started(f"of-the-first-{number:02}", "north", "south")
    ground.hub.forget("north")
    ground.enrolled("north")
    for number in range(3):
        ground.started(f"of-the-second-{number}", "north", "south")
    steve = ground.person("steve", "steward", "north")
    assert "of-the-first" not in steve.sees("/studies")
    own = [run["run"] for run in steve.calls("GET", "/runs?before=of-the-second-2").json()]
    assert own == ["of-the-second-1", "of-the-second-0"]
    ground.started(RUN, "south")
    for before in (RUN, "of-the-first-29", "nonsense"):
        assert steve.calls("GET", f"/runs?before={before}").json() == []
        assert "of-the-second" not in steve.sees(f"/studies?before={before}")


# A run ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_paused_and_goes_on(ground: Ground, ivy: Person) -> None:
    ground.started(RUN, "north", "south")
    assert ivy.sends(f"/runs/{RUN}/pause")[0] == 303
    assert pausing.is_paused(ground.hub.runs / RUN)
    assert "paused" in ivy.sees("/studies")
    status, page = ivy.sends(f"/runs/{RUN}/pause")
    assert status == 409
    assert "is paused already" in page
    assert str(ground.hub.folder) not in page
    assert ivy.calls("POST", f"/runs/{RUN}/resume").json()["paused"] is False
    assert not pausing.is_paused(ground.hub.runs / RUN)
    answer = ivy.calls("POST", f"/runs/{RUN}/resume")
    assert answer.status_code == 409
    assert "is running: follow it" in answer.json()["error"]
    assert ivy.calls("POST", f"/runs/{RUN}/nonsense").status_code == 422
    assert ivy.sends(f"/runs/{RUN}/nonsense")[0] == 404


def test_stopping_asks_twice(ground: Ground, ivy: Person) -> None:
    ground.started(RUN, "north", "south")
    status, page = ivy.sends(f"/runs/{RUN}/stop")
    assert status == 409
    assert "Tick that you want to stop the run." in page
    assert ground.store.run(RUN).status == "running"


def test_which_study_a_run_does(ground: Ground, ivy: Person) -> None:
    study = ground.started(RUN, "north", "south")
    assert study.digest in ivy.sees(f"/runs/{RUN}")
    path = f"/api/v1/runs/{RUN}/study"
    assert f'href="{path}"' in ivy.sees(f"/runs/{RUN}")
    found = ivy.browser.get(path).content
    assert found == study.canonical_json()
    assert hashlib.sha256(found).hexdigest() == study.digest
    ground.started("of-south", "south")
    sten = ground.person("sten", "steward", "north")
    assert sten.browser.get(path).content == found  # his site was sent it
    assert sten.browser.get("/api/v1/runs/of-south/study").status_code == 404


def test_a_study_without_a_title_is_called_by_its_id(ground: Ground, ivy: Person) -> None:
    study = tiny_study(study={"title": ""})
    ground.started(RUN, "north", "south", study=study)
    assert f'<a href="/runs/{RUN}">{study.study.id}</a>' in ivy.sees("/studies")
    assert f"<h1>{study.study.id}</h1>" in ivy.sees(f"/runs/{RUN}")
    _, page = ivy.sends(
        "/studies/check", study=re.sub("title = .*", "", TEMPLATE).replace("min_sites = 3", "min_sites = 2")
    )
    assert "“breast-ultrasound”" in page


def test_a_run_that_asks_for_statistics_cannot_be_paused(ground: Ground, ivy: Person) -> None:
    ground.started(RUN, "north", "south")
    assert f"/runs/{RUN}/pause" in ivy.sees(f"/runs/{RUN}")
    Survey().write(ground.hub.runs / RUN / ASKED)
    page = ivy.sees(f"/runs/{RUN}")
    assert "This run asks hospitals for statistics" in page
    assert f"/runs/{RUN}/pause" not in page
    assert f"/runs/{RUN}/stop" in page


def test_why_a_run_failed_tells_no_path_of_the_hub(ground: Ground, ivy: Person) -> None:
    ground.started(RUN, "north", "south")
    runs.end_run(ground.hub, ground.store, RUN, "failed", f"{ground.hub.runs}/{RUN} cannot be written")
    for path in ("/", f"/api/v1/runs/{RUN}", "/api/v1/runs"):
        text = ivy.sees(path)
        assert f"runs/{RUN} cannot be written" in text
        assert str(ground.hub.folder) not in text, path


def test_what_a_study_says_is_text(ground: Ground, ivy: Person) -> None:
    study = ground.started(RUN, "north", "south")
    evil = '<script>alert("x")</script>'
    changed = study.model_copy(update={"study": study.study.model_copy(update={"title": evil})})
    ground.started("evil-run", "north", "south", study=changed)
    for path in ("/studies", "/runs/evil-run"):
        page = ivy.sees(path)
        assert evil not in page
        assert "&lt;script&gt;" in page


def test_events_are_told_as_they_come_and_end_with_the_run(ground: Ground, ivy: Person) -> None:
    ground.started(RUN, "north", "south")
    journal = Journal(ground.hub.runs / RUN)
    journal(RunEvent(kind="round", run=RUN, round=1, rounds=3))

    async def watch() -> list[str]:
        transport = httpx.ASGITransport(ivy.browser.app)
        headers = {"user-agent": ivy.browser.agent, "accept": "text/event-stream"}
        async with httpx.AsyncClient(
            transport=transport, base_url="https://hub", cookies=ivy.browser.cookies, headers=headers
        ) as client:
            # httpx gives an answer of the application when it is whole: so the run goes on, and ends, meanwhile
            asked = asyncio.create_task(client.get(f"/api/v1/runs/{RUN}/events"))
            await asyncio.sleep(1.0)
            journal(RunEvent(kind="answered", run=RUN, round=1, rounds=3, site="north"))
            await asyncio.sleep(1.0)
            ground.store.finish_run(RUN, "stopped", None, "it was stopped by ivy")
            answer = await asked
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
            return [line for line in answer.text.split("\n\n") if line]

    told = asyncio.run(watch())
    assert [each.split("\n")[0].split(" ")[0] for each in told][::2] == ["event:"] * ((len(told) + 1) // 2)
    states = [json.loads(each.removeprefix("data: ")) for each in told if each.startswith("data: ")]
    assert [state["whole"] for state in states] == [True, False, False]
    assert states[0]["answered"] == [[None, None]]
    assert states[1]["awaited"] == ["south"]
    assert states[2]["status"] == "stopped"
    assert told[-1] == "event: over\ndata: {}"


def test_a_stream_ends_with_its_session_also_of_a_busy_run(
    ground: Ground, ivy: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_api, "KEEP_ALIVE_S", 0.5)
    ground.started(RUN, "north", "south")
    busy = threading.Event()

    def work() -> None:
        number = 0
        while not busy.wait(0.05):
            number += 1
            Journal(ground.hub.runs / RUN)(RunEvent(kind="round", run=RUN, round=number, rounds=10**6))

    worker = threading.Thread(target=work)
    worker.start()

    async def watch() -> str:
        ivy_leaves = asyncio.get_running_loop().run_in_executor(None, leave)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(ivy.browser.app), base_url="https://hub", cookies=ivy.browser.cookies
        ) as client:
            answer = await client.get(f"/api/v1/runs/{RUN}/events", headers={"user-agent": ivy.browser.agent})
        await ivy_leaves
        return answer.text

    def leave() -> None:
        time.sleep(1.0)
        ground.people.remove("ivy")

    told = asyncio.run(watch())
    busy.set()
    worker.join()
    assert ": still here" in told
    assert "event: over" not in told
    assert ground.store.run(RUN).status == "running"


# Many runs -----------------------------------------------------------------------------------------------------------


def test_ten_thousand_runs(ground: Ground, ivy: Person) -> None:
    study = ground.started("the-first-run", "north", "south")
    [row] = ground.store.rows(sa.select(METADATA.tables["runs"]))
    rows = [
        {**row, "run": f"run-{number:05}", "started": f"2027-01-01T00:00:00.{number:05}", "status": "finished"}
        for number in range(10_000)
    ]
    keys = [{"site": site.name, "fingerprint": site.fingerprint} for site in study.sites]
    pairs = [{"run": each["run"], **key} for each in rows[:5000] for key in keys]
    with ground.store.writing() as connection:
        connection.execute(sa.insert(METADATA.tables["runs"]), rows)
        connection.execute(sa.insert(METADATA.tables["run_sites"]), pairs)
    seen: list[str] = []
    before = ""
    for _ in range(3):
        page = ivy.calls("GET", f"/runs?many=100{before}").json()
        seen += [run["run"] for run in page]
        before = f"&before={seen[-1]}"
    assert seen == [f"run-{number:05}" for number in range(9999, 9699, -1)]
    assert "run-09999" in ivy.sees("/studies")
    page = ivy.sees("/studies?before=run-09975")
    assert "run-09974" in page
    assert "run-09975" not in page.split("Older runs")[0].split("<tbody>")[1]
    assert "run-00042" in ivy.sees("/studies?words=run-00042")
    assert "There is no such run." in ivy.sees("/studies?status=failed")
    assert "the-first-run" in ivy.sees("/studies?status=running")
    sten = ground.person("sten", "steward", "north")
    assert sten.calls("GET", "/runs?many=1").json()[0]["run"] == "run-04999"
    assert "run-04999" in sten.sees("/")
