"""A hospital whose patients were followed to an event, or to when they were last seen: from its table to figures."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]  # it has no types
import pytest
import torch
from safetensors.numpy import save_file
from typer.testing import CliRunner

from fedward_client.cache import load
from fedward_client.catalog import scan
from fedward_client.choosing_rows import NO_TIME, TWO_TIMES
from fedward_client.dry_run import dry_run
from fedward_client.freezing import freeze, from_catalog
from fedward_client.handlers import Hospital
from fedward_client.report.survey import survey as report
from fedward_client.site import KEY, STATE, Site
from fedward_client.site_data import SiteData
from fedward_client.source import SiteSource
from fedward_client.training.device import pick_device
from fedward_client.training.loop import train
from fedward_common import cli, models
from fedward_common.errors import DataError
from fedward_common.events import ignore
from fedward_common.metrics import Concordance
from fedward_common.models.trained import Trained
from fedward_common.records import Question, model_sha256
from fedward_common.study import FeatureScale, StudySpec
from fedward_common.testing import tiny_study

MAP = """patient = "mrn"
time = "months"
target = { column = "died", classes = { no = "censored", yes = "event" } }
features = [{ kind = "numeric", column = "age" }, { kind = "numeric", column = "marker" }]
"""
HEADER = "mrn,age,marker,died,months\n"
SCALE = FeatureScale(centre=(60.0, 0.0), spread=(10.0, 1.0))

Floats = npt.NDArray[np.float64]
Row = tuple[str, str, str, str, str]


def study(**sections: Any) -> StudySpec:
    given: dict[str, Any] = {
        "study": {"task": "survival"},
        "cohort": {"labels": ["censored", "event"], "positive": "event", "min_patients": 5},
        "input": {"kind": "table", "features": ["age", "marker"]},
        "model": {"name": "cox"},
        "training": {"rounds": 1, "local_steps": 4, "batch_size": 1000, "optimizer": {"name": "sgd", "lr": 0.5}},
        "evaluation": {"primary": "c_index"},
    }
    return tiny_study(**(given | sections))


def rows(patients: int = 60) -> list[Row]:
    """Those with a high marker die sooner; every third was last seen alive."""
    random = np.random.default_rng(1)
    found = []
    for patient in range(patients):
        age, marker = 60 + patient % 7, random.normal()
        months = random.exponential(20 * np.exp(-1.5 * marker))
        died = ("yes", "yes", "no")[patient % 3]
        found.append((f"MRN{patient:03d}", str(age), f"{marker:.4f}", died, f"{months:.2f}"))
    return found


@pytest.fixture
def hospital(tmp_path: Path) -> Callable[..., Site]:
    """`hospital(rows, columns)`: a folder with one table, opened and scanned."""

    def build(body: list[Row] | None = None, columns: str = MAP) -> Site:
        folder = tmp_path / "north"
        (folder / STATE).mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / STATE / KEY).write_bytes(bytes(range(32)))  # by which patients are dealt to sides
        (folder / STATE / KEY).chmod(0o600)
        (folder / "visits.csv").write_text(HEADER + "".join(",".join(row) + "\n" for row in body or rows()))
        (folder / "columns.toml").write_text(columns)
        (folder / "site.toml").write_text('[table]\nmap = "columns.toml"\n')
        site = Site.open(folder)
        scan(site)
        return site

    return build


def test_times_and_events_are_those_of_the_table(hospital: Callable[..., Site]) -> None:
    site, body = hospital(), rows()
    data, items = load(site, study(), "run-1", scale=SCALE), freeze(site, study(), "run-1").items
    assert data.targets is not None
    assert data.targets.dtype == np.float64
    assert len(data.targets) == 60
    for time, label, item in zip(data.targets, data.labels, items, strict=True):
        *_, died, months = body[item.at - 2]  # the header is row 1
        assert (time, item.time, bool(label)) == (float(months), float(months), died == "yes")


def test_a_follow_up_that_changed_is_gone_from_a_run(hospital: Callable[..., Site]) -> None:
    before = freeze(hospital(), study(), "run-1")
    body = rows()
    body[3] = (*body[3][:4], "99")
    site = hospital(body)
    assert load(site, study(), "run-1", scale=SCALE).gone == 1
    assert from_catalog(site, study()).digest != before.digest


def test_who_has_no_one_time_is_left_out_with_the_reason(hospital: Callable[..., Site]) -> None:
    odd: list[Row] = [
        ("MRN900", "60", "0", "yes", ""),
        ("MRN901", "60", "0", "yes", "-1"),
        ("MRN902", "60", "0", "yes", "soon"),
        ("MRN903", "60", "0", "", "5"),
        *(("MRN904", "60", marker, "no", months) for marker, months in (("0", "5"), ("1", "6"))),
        *(("MRN905", "60", marker, died, "7") for marker, died in (("0", "no"), ("1", "yes"))),
        *(("MRN906", "60", marker, "no", "7") for marker in ("0", "1")),
        ("MRN907", "60", "0", "no", "0"),
    ]
    site = hospital([*rows(), *odd])
    quarantine = scan(site).counts.quarantine
    assert quarantine == {
        "a row of a table: column 'months' holds a negative time of follow-up": 1,
        "a row of a table: column 'months' holds no number": 1,
    }
    cohort = from_catalog(site, study())
    assert (len(cohort.people), len(cohort.items)) == (62, 63)
    assert (cohort.left_out[NO_TIME], cohort.left_out[TWO_TIMES]) == (1, 2)
    assert cohort.left_out["patients without a label, or with two that differ"] == 1


def test_a_map_without_times_is_told_what_to_do(hospital: Callable[..., Site]) -> None:
    site = hospital(columns=MAP.replace('time = "months"\n', ""))
    with pytest.raises(DataError, match=r'^north: the study looks at the time .* add time = "…", the column'):
        from_catalog(site, study())


@pytest.mark.parametrize(("died", "refusal"), [("yes", ""), ("no", "no training patient labelled 'event'")])
def test_a_hospital_needs_events_and_nobody_censored(hospital: Callable[..., Site], died: str, refusal: str) -> None:
    site = hospital([(*row[:3], died, row[4]) for row in rows()])
    found = dry_run(site, study())
    assert refusal in found.refusal
    assert bool(found.refusal) == bool(refusal)
    assert found.labels[{"yes": "event", "no": "censored"}[died]] == found.patients["train"]
    assert found.round_s is not None
    contract = report(site, study(), ignore).contract
    assert contract is not None
    assert contract.passes == (not refusal)
    assert [line.asked for line in contract.lines] == [
        "At least 5 training patients",
        "At least 1 training patient labelled event",
    ]


def test_a_model_learns_from_whom_it_trains_and_is_scored_on_whom_it_tests(hospital: Callable[..., Site]) -> None:
    site, spec = hospital(rows(120)), study()
    at = Hospital(SiteSource(site))
    start = dict(models.initial_state(spec, 0))
    asked: dict[str, Any] = {"study": spec, "run": "run-1", "scale": SCALE}
    trained, update = at.train(Question(kind="train", **asked), start, round_number=1)
    assert trained.images == at.prepare(Question(kind="prepare", **asked)).patients["train"]
    found = at.evaluate(Question(kind="evaluate", side="test", thresholds={}, **asked), update).evaluation
    data = load(site, spec, "run-1", scale=SCALE)
    rows_, weights = data.indices("test"), update["weight"][0].astype(np.float64)
    assert data.targets is not None
    risks = data.images[rows_].astype(np.float64) @ weights
    expected = Concordance.of(risks, data.targets[rows_], data.labels[rows_] == 1, 5)
    assert expected is not None
    assert found.concordance == expected
    assert expected.value > 0.7
    assert found.loss is not None
    assert found.figures == {}


def test_groups_are_those_of_the_tables_ages(hospital: Callable[..., Site]) -> None:
    body = [(row[0], "30" if number % 2 else "", *row[2:]) for number, row in enumerate(rows(160))]
    site = hospital(body, columns='age = "age"\n' + MAP)
    spec = study(evaluation={"primary": "c_index", "subgroups": ["age"]}, split={"shares": (0.2, 0.1, 0.7)})
    asked: dict[str, Any] = {"study": spec, "run": "run-1", "scale": SCALE}
    question = Question(kind="evaluate", side="test", thresholds={}, **asked)
    found = Hospital(SiteSource(site)).evaluate(question, {"weight": np.ones((1, 2), np.float32)}).evaluation
    assert found.subgroups["age"].keys() == {"under 40", "not known"}
    data = load(site, spec, "run-1", scale=SCALE)
    assert data.targets is not None
    for band, group in found.subgroups["age"].items():
        own = data.indices("test")[data.groups["age"][data.indices("test")] == band]
        risks = data.images[own].astype(np.float64).sum(axis=1)
        expected = Concordance.of(risks, data.targets[own], data.labels[own] == 1, 5)
        assert expected is not None
        assert group.concordance is not None
        assert group.concordance.model_dump() == pytest.approx(expected.model_dump())


# The stratified Cox model ---------------------------------------------------------------------------------------------


def newton(sites: list[SiteData]) -> Floats:
    """The coefficients that maximise the product of the sites' partial likelihoods (Breslow's ties)."""
    beta = np.zeros(sites[0].images.shape[1])
    for _ in range(20):
        score, information = np.zeros_like(beta), np.zeros((len(beta), len(beta)))
        for site in sites:
            assert site.targets is not None
            rows = site.images.astype(np.float64)
            for index in np.flatnonzero(site.labels):
                at_risk = rows[site.targets >= site.targets[index]]
                weights = np.exp(at_risk @ beta) / np.exp(at_risk @ beta).sum()
                mean = weights @ at_risk
                score += rows[index] - mean
                information += (at_risk.T * weights) @ at_risk - np.outer(mean, mean)
        beta += np.linalg.solve(information, score)
    return beta


def followed(seed: int, patients: int, scale: float, censored: float) -> SiteData:
    """A site with a baseline hazard and a share of censored patients of its own."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((patients, 3)).astype(np.float32)
    died = scale * random.exponential(size=patients) / np.exp(rows @ [0.8, -0.5, 0.0])
    seen = scale * random.exponential(size=patients) / censored
    return SiteData(
        images=rows,
        labels=(died <= seen).astype(np.int64),
        patients=np.arange(patients),
        sides=np.zeros(patients, np.int8),
        cohort_digest="",
        targets=np.minimum(died, seen),
    )


def test_one_step_a_round_over_all_patients_fits_the_model_stratified_by_site() -> None:
    """Also where hospitals differ in hazards and in shares of events: sites weigh by their patients."""
    sites = [followed(0, 40, 1.0, 0.2), followed(1, 90, 30.0, 1.0), followed(2, 60, 5.0, 5.0)]
    assert np.ptp([site.labels.mean() for site in sites]) > 0.5
    spec = study(
        input={"kind": "table", "features": ["a", "b", "c"]},
        training={
            "local_steps": 1,
            "batch_size": 1000,
            "optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0},
        },
    )
    model, share = models.network(spec), np.array([len(site.images) for site in sites])
    weight = torch.zeros(1, 3)
    for number in range(1, 41):
        updates = []
        for site in sites:
            model.load_state_dict({"weight": weight})
            train(model, site, spec, site="", round_number=number, device=pick_device(), listener=ignore)
            updates.append(model.state_dict()["weight"].clone())
        weight = torch.from_numpy(np.average(np.stack(updates), axis=0, weights=share).astype(np.float32))
    np.testing.assert_allclose(weight[0], newton(sites), atol=1e-3)


# A trained model ------------------------------------------------------------------------------------------------------


def fedward(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli.app, ["model", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    arrays = {"weight": np.array([[0.5, 2.0]], np.float32)}
    about = Trained(study=study(), scale=SCALE, thresholds={}, model_sha256=model_sha256(arrays))
    save_file(arrays, tmp_path / "model.safetensors", metadata=about.header)
    return tmp_path / "model.safetensors"


def test_predictions_are_log_risks_also_of_who_is_followed_still(
    hospital: Callable[..., Site], model: Path, tmp_path: Path
) -> None:
    site, out = (
        hospital([("A", "70", "1", "", ""), ("B", "60", "0", "yes", "3"), ("B", "60", "1", "yes", "3")]),
        "o.csv",
    )
    done = fedward("predict", model, site.folder, "--out", tmp_path / out)
    assert done.exit_code == 0, done.output
    assert "2 with a log-risk, 0 without" in done.stdout
    lines = (tmp_path / out).read_text().splitlines()
    assert any("it is no probability and no time" in line for line in lines if line.startswith("# "))
    one, two = csv.DictReader(line for line in lines if not line.startswith("# "))
    assert list(one) == ["file", "row", "examples", "log_risk", "note"]
    assert (float(one["log_risk"]), float(two["log_risk"]), two["examples"]) == (2.5, 1.0, "2")
    refused = fedward("predict", model, site.folder, "--out", tmp_path / "sr", "--format", "sr")
    assert "the model is of a study of survival: take --format csv" in " ".join(refused.output.split())


@pytest.mark.long
def test_an_onnx_file_gives_log_risks(model: Path, tmp_path: Path) -> None:
    done = fedward("export", model, "--out", tmp_path / "model.onnx")
    assert done.exit_code == 0, done.output
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    [found] = session.run(["log_risks"], {"input": np.array([[1, 1], [0, -1], [2, 0]], np.float32)})
    np.testing.assert_allclose(found, [[2.5], [-2.0], [1.0]], atol=1e-6)
