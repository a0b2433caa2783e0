"""The benchmarks' runner: which there are, what a line holds, what a wrong name is told. Speed is not tested here."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fedward_common.errors import UsageError
from fedward_simulations import benchmarks
from fedward_simulations.benchmarks import Figure, aggregation, fastest


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
