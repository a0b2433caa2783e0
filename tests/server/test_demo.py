"""`fedward hub up --demo`: what is shipped loads, is shown to anybody, and can be changed by nobody."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fedward_common import __version__
from fedward_common.audit import survey
from fedward_server import demo
from fedward_server.hub import Hub
from fedward_server.result import RunResult
from fedward_server.testing import Browser


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return demo.load(tmp_path_factory.mktemp("demo") / "hub")


@pytest.fixture
def visitor(hub: Hub) -> Iterator[Browser]:
    with hub.store() as store:
        yield Browser(demo.shown(hub, store), "Firefox", base="http://127.0.0.1")


def test_anybody_looks_around(hub: Hub, visitor: Browser) -> None:
    with hub.store() as store:
        runs = store.runs()
    assert {run.status for run in runs} == {"finished", "stopped"}
    for path in ("/", "/sites", "/studies", "/models", "/audit", *(f"/runs/{run.run}" for run in runs)):
        answer = visitor.get(path)
        assert answer.status_code == 200
        assert "A demonstration:" in answer.text
        assert "visitor (auditor)" in answer.text
    [finished] = [run.run for run in runs if run.status == "finished"]
    state = visitor.get(f"/api/v1/runs/{finished}").json()
    assert state["round"] == state["of"] == len(state["rounds"])
    assert all(None not in row for row in state["loss"])
    result = RunResult.read(hub.runs / finished)
    assert all(site.test is not None and site.alone is not None for site in result.sites.values())


def test_a_page_that_has_its_own_name_lead_here_gets_nothing(visitor: Browser) -> None:
    assert visitor.send("GET", "/", headers={"host": "evil.example"}).status_code == 400
    assert visitor.send("GET", "/", headers={"host": "localhost:8000"}).status_code == 200


def test_nobody_changes_anything(hub: Hub, visitor: Browser) -> None:
    with hub.store() as store:
        [run] = [run.run for run in store.runs() if run.status == "stopped"]
    for path in ("/sites/north/forget", "/sites/invite", f"/runs/{run}/resume", "/studies/start"):
        assert visitor.post(path, data={"typed": "north", "csrf": "", "site": "east"}).status_code == 403
    assert visitor.send("POST", f"/api/v1/runs/{run}/resume").status_code == 403
    with hub.store() as store:
        assert "north" in store.sites()
        assert store.run(run).status == "stopped"


def test_collecting_a_loaded_one_gives_the_same(hub: Hub) -> None:
    shipped = demo.Bundle.model_validate_json(demo.SHIPPED.read_bytes())
    assert demo.collect(hub, shipped.fedward) == shipped
    assert shipped.fedward == __version__, "`make hub-demo` makes it anew"


def test_its_log_holds_and_it_names_no_place(hub: Hub) -> None:
    assert survey(hub.folder / "audit.jsonl").holder == demo.NAME
    text = demo.SHIPPED.read_text()
    assert not re.search(r'"(/[\w.-]+){2,}', text), "no path of whoever made it"
    assert len(text) < 200_000


def test_the_command_says_where_it_is_and_ends_when_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedward_common", "hub", "up", "--demo"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert url is not None, line
        client = httpx.Client(transport=httpx.HTTPTransport(retries=5))
        try:
            assert json.loads(client.get(f"{url[0]}/api/v1/overview").text)["hub"] == demo.NAME
        finally:
            client.close()
            process.terminate()
        process.communicate(timeout=30)
    assert list(tmp_path.iterdir()) == []
