"""The benchmarks' runner: which there are, what a line holds, what a wrong name is told. Speed is not tested here."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedward_common.errors import RunError, UsageError
from fedward_simulations import benchmarks
from fedward_simulations.benchmarks import Figure, aggregation, fastest
from fedward_simulations.benchmarks._deployments import timed, wait_until, whole_lines
from fedward_simulations.benchmarks._processes import Peaks, cpu_s, family, peak_mib
from fedward_simulations.federation import background

DEPLOYMENTS = {
    "round-overhead": "round_overhead.measure(rounds=3, stock_rounds=3, width=8)",
    "idle": "idle.measure(settle_s=1, window_s=5)",
}


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
    figure = aggregation.measure(sites=3, parameters=20_000, arrays=7)
    assert figure.setting.items() >= {"sites": 3, "parameters": 20_000, "arrays": 7}.items()
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

    assert timed(read, 2, lambda: looks.append(1), limit_s=5, said=[]) == [2.0, 0.5]
    assert looks


def test_a_deployment_that_stands_still_says_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "hub.out").write_text("port 8080 is taken\nhalf a li")
    assert whole_lines(tmp_path / "none") == []
    with pytest.raises(RunError, match=r"waited 0 s in vain for round 0 \(hub.out: port 8080 is taken\)"):
        timed(list, 1, lambda: None, limit_s=0, said=[tmp_path / "hub.out", tmp_path / "none"])


@pytest.mark.long
@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_is_measured_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    code = (
        "import json; from fedward_simulations.benchmarks import idle, round_overhead\n"
        f"for figure in {DEPLOYMENTS[name]}: print(json.dumps(figure.as_json()))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert figures[0]["name"] == name
    processes = {figure["setting"].get("process", "") for figure in figures} - {""}
    assert {"supervisor", "superlink", "superexec", "daemon", "executor", "supernode"} <= processes
    assert all(figure["value"] >= 0 and figure["reference_value"] > 0 for figure in figures)
    assert list(tmp_path.iterdir()) == []
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
