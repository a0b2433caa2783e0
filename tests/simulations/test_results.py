import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import f1_score  # type: ignore[import-untyped]

from fedward_common.errors import RunError, UsageError
from fedward_common.metrics import Estimate, RocCurve, site_figures
from fedward_simulations.results import (
    METRICS,
    Block,
    CalibrationPoint,
    Curve,
    Figure,
    Results,
    SeedRun,
    combine,
    f1,
    mean_block,
    package_versions,
    write_atomic,
)

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def area(block: Block | None) -> Figure:
    assert block is not None
    assert block.roc_auc is not None
    return block.roc_auc


def recombine(results: Results, *runs: SeedRun) -> Results:
    return combine(runs, study=results.study, engine="embedded", created=NOW, wall_s=1.0)


def test_what_was_written_reads_back_the_same(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path)
    assert Results.read(path) == results
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_same_results_give_the_same_bytes(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "a.json")
    Results.read(tmp_path / "a.json").write(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_keys_that_scripts_rely_on(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "results.json")
    found = json.loads((tmp_path / "results.json").read_text())
    wanted = {"study", "seeds", "engine", "sites", "rounds", "seconds_per_round", "bytes_per_site_per_round"}
    assert found.keys() >= wanted | {"model_sha256", "wall_s"}
    brief = {"id", "title", "purpose", "digest", "task", "labels", "positive", "rounds", "strategy", "model"}
    assert found["study"].keys() >= brief | {"operating_point"}
    assert found["seeds"] == [42, 7]
    assert found["engine"] == "embedded"
    assert found["rounds"] == 12
    assert found["bytes_per_site_per_round"] == {"up": 3_214_567, "down": 3_214_001}
    assert found["model_sha256"] == "ab" * 32
    for site in found["sites"]:
        assert site.keys() >= {"name", "patients", "local", "federated", "pooled"}
        for metric in METRICS:
            assert site["federated"][metric].keys() >= {"value", "low", "high"}
    assert found["sites"][2]["local"]["roc_auc"] is None
    assert found["sites"][2]["local"]["withheld"].startswith("fewer than 5")


def test_pooled_is_null_where_there_is_none(results: Results) -> None:
    runs = [
        run.model_copy(
            update={
                "sites": tuple(site.model_copy(update={"pooled": None}) for site in run.sites),
                "overall": run.overall.model_copy(update={"pooled": None}),
            }
        )
        for run in results.runs
    ]
    found = json.loads(recombine(results, *runs).model_dump_json())
    assert [site["pooled"] for site in found["sites"]] == [None, None, None]
    assert found["overall"]["pooled"] is None


def test_figures_are_means_over_the_seeds(results: Results) -> None:
    first, second = (area(run.sites[0].federated) for run in results.runs)
    mean = area(results.sites[0].federated)
    assert mean.value == pytest.approx((first.value + second.value) / 2)
    assert mean.low == pytest.approx((first.low + second.low) / 2)
    assert mean.high == pytest.approx((first.high + second.high) / 2)
    assert mean.sd == pytest.approx(np.std([first.value, second.value], ddof=1))


def test_one_seed_keeps_its_own_interval(one_seed: Results) -> None:
    assert one_seed.sites == one_seed.runs[0].sites
    assert area(one_seed.sites[0].federated).sd is None


def test_mean_over_hospitals_compares_the_same_hospitals(results: Results) -> None:
    complete = results.sites[:2]
    for model in ("local", "federated", "pooled"):
        mean = getattr(results.overall, model).mean
        assert mean.sites == 2
        assert mean.roc_auc == pytest.approx(np.mean([area(site.block(model)).value for site in complete]))
    assert area(results.overall.local).value == pytest.approx(0.80)


def test_a_figure_withheld_in_one_seed_is_the_other_seeds(results: Results) -> None:
    first, second = results.runs
    hidden = first.sites[0].model_copy(update={"federated": Block(withheld="fewer than 5 patients")})
    mixed = recombine(results, first.model_copy(update={"sites": (hidden, *first.sites[1:])}), second)
    block = mixed.sites[0].federated
    assert area(block) == area(second.sites[0].federated)
    assert block.withheld == "withheld in 1 of 2 seeds: fewer than 5 patients"


def test_participation_counts_rounds_and_reasons(results: Results) -> None:
    found = results.participation["valley-hospital"]
    assert (found.rounds, found.of) == (25, 26)
    assert found.missed == {"no reply within 600 s": 1}
    assert results.participation["harbour-clinic"].missed == {}


def test_runs_that_do_not_fit_together_are_refused(results: Results) -> None:
    first, second = results.runs
    with pytest.raises(RunError, match="no finished run"):
        recombine(results)
    with pytest.raises(RunError, match="seed 42 stands twice"):
        recombine(results, first, first)
    with pytest.raises(RunError, match="different hospitals"):
        recombine(results, first, second.model_copy(update={"sites": second.sites[:2]}))


def test_a_hospitals_figures_become_a_block() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 60)
    scores = np.clip(0.3 * labels + rng.uniform(0, 0.7, 60), 0, 1)
    figures = site_figures(scores, labels, threshold=0.5, min_cell=5)
    assert figures is not None
    block = Block.of(figures)
    assert block.roc_auc == Figure(value=figures.roc_auc.value, low=figures.roc_auc.low, high=figures.roc_auc.high)
    assert (block.patients, block.positives, block.threshold) == (60, int(labels.sum()), 0.5)
    assert block.brier == figures.brier
    assert block.f1 == pytest.approx(f1_score(labels, scores >= 0.5))


def test_curves_and_points_are_taken_from_the_hub() -> None:
    curve = RocCurve(
        fpr=np.array([0.0, 0.5, 1.0]), tpr=np.array([0.0, 0.9, 1.0]), thresholds=np.array([np.inf, 0.5, 0])
    )
    assert Curve.of(curve).tpr == (0.0, 0.9, 1.0)
    with pytest.raises(ValidationError):
        Curve(fpr=(0.0, 1.0), tpr=(0.0, 0.5, 1.0))
    assert Figure.of(None) is None
    assert Figure.of(Estimate(value=0.5, low=0.4, high=0.6)) == Figure(value=0.5, low=0.4, high=0.6)
    with pytest.raises(ValidationError):
        CalibrationPoint(predicted=0.5, observed=Figure(value=0.5, low=0.4, high=0.6), patients=-1.0)


@given(precision=st.just(0.0) | st.floats(1e-6, 1), recall=st.just(0.0) | st.floats(1e-6, 1))
def test_f1_is_the_harmonic_mean(precision: float, recall: float) -> None:
    found = f1(*(Figure(value=value, low=0.0, high=1.0) for value in (precision, recall)))
    assert found is not None
    assert min(precision, recall) - 1e-12 <= found <= max(precision, recall) + 1e-12
    if precision and recall:
        assert 1 / found == pytest.approx((1 / precision + 1 / recall) / 2)
    assert f1(None, Figure(value=0.5, low=0.0, high=1.0)) is None


def test_a_block_without_figures_says_why() -> None:
    with pytest.raises(ValidationError, match="withheld"):
        Block()
    with pytest.raises(ValidationError):
        Figure(value=float("nan"), low=0.0, high=1.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{}", "study"), ("no json", "the file"), ('{"study": 1, "surprise": 2}', "study")],
)
def test_another_file_is_refused_in_words(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UsageError, match=f"no results.json of this version of Fedward: {reason}"):
        Results.read(tmp_path / "other.json")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        Results.read(tmp_path / "absent.json")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_mean_lies_within_the_seeds(values: list[float]) -> None:
    blocks = [Block(roc_auc=Figure(value=value, low=value, high=value)) for value in values]
    mean = mean_block(blocks).roc_auc
    assert mean is not None
    assert min(values) - 1e-12 <= mean.value <= max(values) + 1e-12
    assert mean.low == mean.value == mean.high


def test_versions_name_what_a_result_depends_on() -> None:
    found = package_versions()
    assert {"flwr", "numpy", "torch"} <= found.keys()
    assert all(found.values())
