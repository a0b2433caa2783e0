"""The benchmarks' runner: which there are, what a line holds, what a wrong name is told. Speed is not tested here."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedward_client import cache
from fedward_client.catalog import scan
from fedward_client.site import Site
from fedward_common.errors import RunError, UsageError
from fedward_common.events import ignore
from fedward_simulations import benchmarks
from fedward_simulations.benchmarks import (
    Figure,
    _digits,
    aggregation,
    executor_training,
    fastest,
    intake_headers,
    intake_pixels,
    intake_rescan,
    real_cnn_rounds,
    simulation_rounds,
)
from fedward_simulations.benchmarks._deployments import timed, wait_until, whole_lines
from fedward_simulations.benchmarks._processes import Peaks, cpu_s, family, peak_mib, peak_over
from fedward_simulations.federation import background

TINY = "{'model': {'name': 'small-cnn', 'options': {'width': 8}}}"
LARGER = "{'model': {'name': 'small-cnn', 'options': {'width': 150}}}"  # two million numbers: enough to be seen
DEPLOYMENTS = {
    "round-overhead": f"round_overhead.beside_stock(Path(sys.argv[1]), {TINY}, sites=2, rounds=3, stock=3)",
    "hub-memory": f"hub_memory.measure({LARGER}, sites=(1, 2), rounds=3, reference_rounds=3)",
    "idle": "idle.measure(settle_s=1, window_s=5)",
}
HUB, SITE = {"supervisor", "superlink", "superexec"}, {"daemon", "executor", "supernode"}
PROCESSES = {"round-overhead": HUB | SITE | {"serverapp"}, "hub-memory": {"serverapp", "hub"}, "idle": HUB | SITE}


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    whole = [sys.executable, "-m", "fedward_simulations.benchmarks", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=300)


def test_every_name_is_a_module_that_runs() -> None:
    assert "aggregation" in benchmarks.names()
    assert benchmarks.names() == sorted(benchmarks.names())
    for name in benchmarks.names():
        assert isinstance(benchmarks.run(name), Iterator)  # nothing is measured until a figure is asked for


def test_an_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"no benchmark 'speed'; there are: .*aggregation"):
        benchmarks.run("speed")
    done = command("--only", "aggregation,speed")
    assert done.returncode == 2
    assert "there is no benchmark 'speed'; there are: aggregation" in done.stderr
    assert done.stdout == ""


def test_a_line() -> None:
    figure = Figure(
        name="aggregation", setting={"sites": 2}, value=3.0, unit="s", reference="least", reference_value=2.0
    )
    assert list(json.loads(json.dumps(figure.as_json())).items()) == [
        ("name", "aggregation"),
        ("setting", {"sites": 2}),
        ("value", 3.0),
        ("unit", "s"),
        ("reference", "least"),
        ("reference_value", 2.0),
        ("ratio", 1.5),
    ]


def test_fastest_takes_turns() -> None:
    calls: list[str] = []
    seconds = fastest([lambda: calls.append("a"), lambda: calls.append("b")], repeats=3)
    assert calls == ["a", "b"] * 3
    assert all(0 <= one < 1 for one in seconds)


def test_aggregation_measures_what_it_says() -> None:
    assert len(aggregation.resnet_50()) == 161
    seconds, memory = aggregation.measure(sites=3, shapes=[(100_000,), (7, 9), ()])
    assert (seconds.name, memory.name) == ("aggregation", "aggregation-memory")
    assert seconds.setting == memory.setting
    assert seconds.setting.items() >= {"sites": 3, "parameters": 100_064, "arrays": 3}.items()
    assert seconds.value > 0
    assert seconds.reference_value > 0
    assert memory.value >= 0


def test_the_peak_of_a_piece_of_work() -> None:
    assert 90 < peak_over(lambda: np.ones(100 * 2**20, np.uint8)) < 120
    assert peak_over(lambda: None) < 5  # what was used before does not count


def test_local_training_is_measured() -> None:
    study, source = _digits.study(1, 1), _digits.OpenDigits(0, 10)()
    figure = executor_training.measure("digits", study, source, repeats=1)
    assert figure.setting.items() >= {"data": "digits", "images": 126, "model": "small-cnn"}.items()
    assert figure.value > 0
    assert figure.reference_value > 0


def test_the_digits_are_dealt_out_whole() -> None:
    study = _digits.study(4, 1)
    parts = [_digits.OpenDigits(part, 4).data(study) for part in range(4)]
    assert sum(len(part.labels) for part in parts) == 1797
    assert parts[0].images.shape[1:] == (1, 8, 8)
    assert all(len(np.unique(part.labels)) == 10 for part in parts)
    assert all(np.bincount(part.sides, minlength=3).min() > 60 for part in parts)


def test_digits_planted_as_dicom_are_read_back_as_they_were(tmp_path: Path) -> None:
    parts = 10  # enough patients of each digit that one of each trains, whatever the site's key says
    _digits.plant(tmp_path / "site", 3, parts)
    site = Site.open(tmp_path / "site")
    scan(site)
    study = _digits.study(1, 1)
    read, meant = cache.load(site, study, "run-1", ignore), _digits.OpenDigits(3, parts).data(study)
    assert read.unreadable == 0
    assert sorted(read.labels) == sorted(meant.labels)
    assert len(np.unique(read.patients)) == len(meant.patients)
    assert read.images.shape == meant.images.shape


@pytest.mark.long
def test_rounds_of_the_embedded_engine_are_measured() -> None:
    figures = [*simulation_rounds.digits(rounds=3), simulation_rounds.noop(sites=2, width=16, rounds=3)]
    assert [figure.name for figure in figures] == ["simulation-rounds"] * 3
    assert [figure.setting["data"] for figure in figures] == ["digits", "digits", "none"]
    assert [figure.setting["workers"] for figure in figures] == [1, 2, 2]
    assert all(figure.value > 0 and figure.reference_value > 0 for figure in figures)


@pytest.mark.long
def test_rounds_of_a_deployment_that_learns_are_measured() -> None:
    figure = real_cnn_rounds.measure(sites=2, rounds=3)
    assert figure.setting.items() >= {"data": "digits", "sites": 2, "images": 1797}.items()
    assert figure.value > 0
    assert figure.reference_value > 0


# Whole deployments ----------------------------------------------------------------------------------------------------


def test_processes_are_told_by_their_roles(tmp_path: Path) -> None:
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1], 'executor']).wait()"
    with background([sys.executable, "-c", code, "import time; time.sleep(60)"], tmp_path / "said") as pid:
        wait_until(lambda: "executor" in family(pid, "daemon").values(), limit_s=20, what="a child", said=[])
        found = family(pid, "daemon")
        assert sorted(found.values()) == ["daemon", "executor"]
        peaks = Peaks({pid: "daemon"})
        peaks.look()
        assert 1 < peaks.mib["executor"] < 1000
        assert 0 <= cpu_s(pid) < 20
    wait_until(lambda: peak_mib(pid) == 0, limit_s=20, what="its end", said=[])
    assert cpu_s(pid) == 0
    assert family(pid, "daemon") == {pid: "daemon"}


def test_rounds_are_timed_from_mark_to_mark() -> None:
    marks = iter([[], [1.0], [1.0, 3.0], [1.0, 3.0, 3.5]])
    looks: list[int] = []
    seen: list[list[float]] = [[]]

    def read() -> list[float]:
        seen[0] = next(marks, seen[0])
        return seen[0]

    assert timed(read, 2, looks.append, limit_s=5, said=[]) == [2.0, 0.5]
    assert looks[-1] == 2, "it is told how many have ended"


def test_a_deployment_that_stands_still_says_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "hub.out").write_text("port 8080 is taken\nhalf a li")
    assert whole_lines(tmp_path / "none") == []
    with pytest.raises(RunError, match=r"waited 0 s in vain for round 0 \(hub.out: port 8080 is taken\)"):
        timed(list, 1, lambda _ended: None, limit_s=0, said=[tmp_path / "hub.out", tmp_path / "none"])


@pytest.mark.long
@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_is_measured_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path\n"
        "from fedward_simulations.benchmarks import hub_memory, idle, round_overhead\n"
        f"for figure in {DEPLOYMENTS[name]}: print(json.dumps(figure.as_json()))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "here")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert figures[0]["name"] == name
    assert {figure["setting"].get("process", "") for figure in figures} - {""} == PROCESSES[name]
    assert all(isinstance(figure["value"], float) and figure["reference_value"] != 0 for figure in figures)
    assert [path.name for path in tmp_path.iterdir() if path.name != "here"] == []
    assert _processes_that_name(tmp_path) == []


def _processes_that_name(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in line:
            found.append(line.decode(errors="replace"))
    return found


def test_intake_is_measured() -> None:
    headers = intake_headers.measure(120)
    assert (headers.setting["files"], headers.setting["images"]) == (120, 120)
    rescan, memory = intake_rescan.measure(110, 120)
    assert rescan.setting["files"] == memory.setting["files"] == 120
    assert memory.value > 20, "MiB of a Python process that has read DICOM"
    pixels = intake_pixels.measure("RLE", files=2, size=16)
    assert pixels.setting["compression"] == "RLE"
    assert all(figure.value > 0 and figure.reference_value > 0 for figure in (headers, rescan, pixels))
