"""Bytes a hospital sends and gets in a round, and what the model is worth, by coding, beside no coding at all."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine
from fedward_simulations.benchmarks import Figure
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.phantoms import OpenPhantom

CODINGS: tuple[dict[str, Any], ...] = (
    {"compression": "bf16"},
    {"compression": "int8"},
    {"compression": "top-k", "share": 0.1},
    {"compression": "top-k", "share": 0.01},
)
SITES, PATIENTS = 4, 120
SIGNAL = 0.1  # low enough that the curve is not at its end at once
ROUNDS = 20


def run() -> Iterator[Figure]:
    """Four hospitals of noise with a weak signal, one network."""
    return measure(rounds=ROUNDS, patients=PATIENTS, codings=CODINGS)


def measure(*, rounds: int, patients: int, codings: tuple[dict[str, Any], ...]) -> Iterator[Figure]:
    """A figure each coding: bytes both ways a site and round, the last round's primary metric in the setting."""
    plain = federated(_study(rounds, {}), patients)
    for coding in codings:
        coded = federated(_study(rounds, coding), patients)
        yield Figure(
            name="update-compression",
            setting={
                "sites": SITES,
                "rounds": rounds,
                "model": coded.study.model.name,
                **coding,
                "up_ratio": _up(coded) / _up(plain),
                "down_ratio": _down(coded) / _down(plain),
                coded.study.evaluation.primary: _primary(coded),
                f"{coded.study.evaluation.primary}_none": _primary(plain),
            },
            value=_up(coded) + _down(coded),
            unit="B/site/round",
            reference="no compression",
            reference_value=_up(plain) + _down(plain),
        )


def federated(study: StudySpec, patients: int, *, workers: int = 2) -> RunResult:
    """One run of the embedded engine over phantom hospitals."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"site-{number}" for number in range(SITES)]
        openers = {one: OpenPhantom(one, patients, SIGNAL, folder=folder / one) for one in names}
        with EmbeddedGrid(openers, workers=workers) as grid:
            return RoundEngine(
                grid=grid,
                study=study,
                run="bench",
                engine="embedded",
                folder=folder / "run",
                on_round=lambda _row: None,
                listener=lambda _event: None,
            )()


def _study(rounds: int, coding: dict[str, Any]) -> StudySpec:
    return tiny_study(
        input={"size": [32, 32]},
        model={"name": "small-cnn"},
        training={"rounds": rounds, "batch_size": 16, "optimizer": {"name": "adamw", "lr": 1e-3}},
        strategy={"min_sites": SITES},
        update=coding,
    )


def _up(result: RunResult) -> float:
    rows = [site.bytes_up for site in result.history[-1].sites.values()]
    return sum(rows) / len(rows)


def _down(result: RunResult) -> float:
    rows = [site.bytes_down for site in result.history[-1].sites.values()]
    return sum(rows) / len(rows)


def _primary(result: RunResult) -> float:
    primary = result.history[-1].primary
    return float("nan") if primary is None else round(primary, 4)
