"""The page of a run's results by its requests: what people read and take with them, and whom it is for."""

import csv
import html
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

import pytest

from fedward_common.testing import FakeSite, tiny_study
from fedward_server.figures.blocks import Figure
from fedward_server.result import RunResult, SiteResult
from fedward_server.testing import Ground, Person
from fedward_server.testing import ground as hub_with_people

RUN = "breast-ultrasound-20270101T101500-a1B2c3"
PATIENTS = {"harbour-clinic": 60, "north": 120, "south": 90}
HOSTILE = '<script>alert("x")</script>'


@dataclass
class Looked:
    """A hub with finished runs, which the real engine did, and people of every kind."""

    ground: Ground
    result: RunResult
    ada: Person
    sten: Person  # of north


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Looked]:
    with hub_with_people(tmp_path_factory.mktemp("results")) as ground:
        for name in ("harbour-clinic", "valley"):
            ground.enrolled(name)
        study = tiny_study(study={"title": f"Benign or malignant? {HOSTILE}"}, evaluation={"subgroups": ("sex",)})
        result = ground.finished(RUN, *sites(PATIENTS), study=study, absent=("valley",))
        yield Looked(ground, result, ground.person("ada", "operator"), ground.person("sten", "steward", "north"))


def sites(patients: dict[str, int]) -> list[FakeSite]:
    return [FakeSite(name=name, patients=many, quality=0.8, local_model=True) for name, many in patients.items()]


def words(page: str) -> str:
    """What a reader sees of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_a_clinician_reads_figures_with_intervals(looked: Looked) -> None:
    page = looked.ada.sees(f"/runs/{RUN}/results")
    seen = words(page)
    assert HOSTILE not in page
    assert f"Results: Benign or malignant? {HOSTILE}" in seen
    found = looked.ada.browser.get(f"/api/v1/runs/{RUN}/results").json()
    whole = Figure(**found["overall"]["federated"]["roc_auc"])
    ends = f"reached a ROC-AUC of {whole.value:.2f} (95 % interval {whole.low:.2f} to {whole.high:.2f})."
    assert f"On the test patients of all hospitals together the federated model {ends}" in seen
    for site in found["sites"]:
        for metric in ("roc_auc", "sensitivity", "specificity", "precision"):
            assert Figure(**site["federated"][metric]).text in seen.split(site["name"])[1 if metric == "roc_auc" else 2]
    assert "At 3 of 3 hospitals the federated model does better" in seen
    assert f"{found['thresholds']['malignant']:.3f}" in seen
    assert "valley: is not connected to the hub" in seen
    assert "The figures rest on 270 test patients in all" in seen
    assert "Research use only. Not a medical device." in seen
    assert looked.result.model_sha256 in seen
    assert "the model of round 2 of 2" in seen
    assert f'href="/models?run={RUN}"' in page


def test_every_picture_has_words_a_table_and_three_files(looked: Looked) -> None:
    page = looked.ada.sees(f"/runs/{RUN}/results")
    figures = re.findall(r"<section.*?</section>", page, flags=re.DOTALL)
    assert len(figures) == 8
    for figure in figures:
        [(source, alt)] = re.findall(r'<img src="([^"]+)" alt="([^"]+)"', figure)
        assert len(alt) > 20
        assert figure.count("<tr>") > 1
        for form, media, begin in (
            ("svg", "image/svg+xml", b"<svg "),
            ("png", "image/png", b"\x89PNG\r\n\x1a\n"),
            ("csv", "text/csv; charset=utf-8", b""),
        ):
            path = source.removesuffix("svg") + form
            assert f'href="{path}"' in figure
            if form == "png" and "gains" not in path:
                continue  # one is enough
            answer = looked.ada.browser.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (200, media)
            name = path.rsplit("/", 1)[1]
            assert answer.headers["content-disposition"] == f'attachment; filename="{RUN}-{name}"'
            assert answer.content.startswith(begin)
            if form == "svg":
                ElementTree.fromstring(answer.content)


def test_the_numbers_behind_everything(looked: Looked) -> None:
    rows = list(csv.DictReader(io.StringIO(looked.ada.browser.get(f"/runs/{RUN}/figures/numbers.csv").text)))
    test = looked.result.sites["north"].test
    assert test is not None
    [row] = [row for row in rows if (row["hospital"], row["model"]) == ("north", "federated")]
    assert float(row["roc_auc_low"]) == test.figures["malignant"].roc_auc.low
    assert int(row["positives"]) == test.figures["malignant"].positives
    assert {row["model"] for row in rows} == {"local", "federated"}
    found = looked.ada.browser.get(f"/api/v1/runs/{RUN}/results").json()
    assert all(looked.ada.browser.get(path).status_code == 200 for path in found["figures"].values())


@pytest.mark.parametrize(
    "path",
    [
        "/runs/nothing/results",
        f"/runs/{RUN}/figures/froc.svg",
        f"/runs/{RUN}/figures/numbers.png",
        f"/runs/{RUN}/figures/roc.pdf",
        f"/runs/{RUN}/figures/..%2Frun.json",
        "/runs/..%2F..%2Fkeys/results",
        "/runs/nothing/figures/roc.svg",
    ],
)
def test_what_is_not_there(looked: Looked, path: str) -> None:
    answer = looked.ada.browser.get(path)
    assert answer.status_code == 404
    assert "There is no such page." in answer.text


def test_nobody_else_sees_results(looked: Looked) -> None:
    stranger = looked.ground.browser()
    for path in (f"/runs/{RUN}/results", f"/runs/{RUN}/figures/roc.svg", f"/runs/{RUN}/figures/numbers.csv"):
        assert stranger.get(path).headers["location"] == "/login"
    assert stranger.get(f"/api/v1/runs/{RUN}/results").status_code == 401


def test_a_steward_finds_nothing_of_another_hospital(looked: Looked) -> None:
    page = looked.sten.sees(f"/runs/{RUN}/results")
    api = looked.sten.browser.get(f"/api/v1/runs/{RUN}/results")
    names = re.findall(rf"/runs/{RUN}/figures/([\w-]+)\.csv", page)
    assert {"roc", "gains", "calibration", "learning", "losses", "numbers", "operating-points"} <= set(names)
    texts = [page, api.text]
    for name in dict.fromkeys(names):
        for form in ("csv", "svg"):
            answer = looked.sten.browser.get(f"/runs/{RUN}/figures/{name}.{form}")
            assert answer.status_code == 200 or (form, name) in {("svg", "numbers"), ("svg", "operating-points")}
            texts.append(answer.text)
    everything = looked.ada.browser.get(f"/api/v1/runs/{RUN}/results").json()
    others = [site for site in everything["sites"] if site["name"] != "north"]
    figures = [site[model][key] for site in others for model in ("local", "federated") for key in ("roc_auc", "brier")]
    numbers = {str(number) for each in figures for number in (each.values() if isinstance(each, dict) else [each])}
    assert len(numbers - {"None"}) >= 12
    for text in texts:
        for other in ("harbour", "south", "valley", "n = 60", "n = 90", *(numbers - {"None"})):
            assert other not in text
    assert "north" in page
    assert "all hospitals" in texts[2]
    assert "across" not in names
    assert "are shown to you with two digits and without curves" in page
    assert "At your hospital the federated model does better than the model that you trained alone." in words(page)
    assert "/models?run=" not in page
    assert looked.sten.browser.get(f"/runs/{RUN}/figures/across.csv").status_code == 404


def test_a_run_of_two_is_no_way_to_the_other_one(looked: Looked) -> None:
    looked.ground.finished("run-of-two", *sites({"north": 100, "south": 80}))
    page = looked.sten.sees("/runs/run-of-two/results")
    assert "All hospitals together" not in page
    assert "where at least two others are in them" in page
    assert "All hospitals together" in looked.ada.sees("/runs/run-of-two/results")


def test_a_run_that_is_not_a_stewards_is_none(looked: Looked) -> None:
    looked.ground.finished("run-of-south", *sites({"south": 60}))
    for path in ("results", "figures/roc.svg", "figures/numbers.csv"):
        answers = [looked.sten.browser.get(f"/runs/{run}/{path}") for run in ("run-of-south", "run-of-nobody")]
        assert {answer.status_code for answer in answers} == {404}
        assert answers[0].text == answers[1].text
        assert looked.ada.browser.get(f"/runs/run-of-south/{path}").status_code == 200
    answers = [looked.sten.browser.get(f"/api/v1/runs/{run}/results") for run in ("run-of-south", "run-of-nobody")]
    assert (answers[0].status_code, answers[0].text) == (404, answers[1].text)


def test_a_run_without_results_says_so(looked: Looked) -> None:
    looked.ground.started("run-at-work", "north")
    answer = looked.sten.browser.get("/runs/run-at-work/results")
    assert answer.status_code == 404
    assert "This run has no results" in answer.text
    answer = looked.ada.browser.get("/api/v1/runs/run-at-work/results")
    assert (answer.status_code, answer.json()) == (404, {"error": "run run-at-work has no results: it is running"})


def test_folds_and_layers_that_learned_alone(looked: Looked) -> None:
    folds = tiny_study(split={"kind": "folds", "folds": 3, "shares": [0.6, 0.2, 0.2]})
    model = {"name": "dbn", "options": {"hidden": [6, 4]}}
    layers = tiny_study([{"rounds": 2}, {"rounds": 2}], model=model, training={"rounds": 2})
    looked.ground.finished("run-of-folds", *sites(PATIENTS), study=folds)
    looked.ground.finished("run-of-layers", *sites(PATIENTS), study=layers)
    page = looked.ada.sees("/runs/run-of-folds/results")
    assert "fold 2 of 3" in page
    assert "all patients" in page
    assert "the model that is kept has learned from all of them and was tested on none" in page
    assert "from whom no model has learned" not in page
    assert "figures/learning.svg" not in page  # nothing of a fold is told before all are scored
    page = looked.ada.sees("/runs/run-of-layers/results")
    assert "layer 2" in page
    for picture in ("layers", "losses"):
        assert looked.ada.browser.get(f"/runs/run-of-layers/figures/{picture}.svg").status_code == 200
    assert looked.ada.browser.get("/runs/run-of-folds/figures/losses.svg").status_code == 200


@pytest.mark.parametrize(
    ("kept_home", "words_of_it"), [({"severe"}, "ROC-AUC (mean over 2 of 3 labels)"), ({"mild", "severe"}, "healthy")]
)
def test_a_mean_is_of_the_labels_that_it_is_of(looked: Looked, kept_home: set[str], words_of_it: str) -> None:
    run = f"run-without-{len(kept_home)}"
    study = tiny_study(cohort={"labels": ("healthy", "mild", "severe"), "positive": None})
    result = looked.ground.finished(run, *sites(PATIENTS), study=study)

    def without(site: SiteResult) -> SiteResult:
        assert site.test is not None
        told = {
            field: {label: one for label, one in getattr(site.test, field).items() if label not in kept_home}
            for field in ("sketches", "figures")
        }
        return site.model_copy(update={"test": site.test.model_copy(update=told)})

    kept = {name: without(site) for name, site in result.sites.items()}
    result.model_copy(update={"sites": kept}).write(looked.ground.hub.runs / run)
    said = words(looked.ada.sees(f"/runs/{run}/results")).partition("the federated model reached a ")[2]
    assert said.startswith(words_of_it if len(kept_home) == 1 else f"ROC-AUC of {words_of_it} of ")


def test_without_models_of_their_own_nobody_gains(looked: Looked) -> None:
    study = tiny_study(evaluation={"local_baseline": False})
    looked.ground.finished("run-alone", *sites(PATIENTS), study=study)
    page = looked.ada.sees("/runs/run-alone/results")
    assert "Who gains" not in page
    assert "Each hospital" in page
    assert "No hospital has trained alone" in page


def test_nothing_that_draws_is_loaded_before_somebody_looks() -> None:
    program = "import sys, fedward_server.api.app; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_in_chinese(looked: Looked) -> None:
    page = looked.ada.browser.get(f"/runs/{RUN}/results", headers={"accept-language": "zh"}).text
    assert "联邦模型的 ROC-AUC 为" in page
    assert "女性" in page
    assert '<html lang="zh">' in page
    assert "{" not in words(page)


def test_a_run_that_is_finished_anew_shows_the_new_figures(looked: Looked) -> None:
    looked.ground.finished("run-anew", *sites(PATIENTS))
    before = looked.ada.browser.get("/runs/run-anew/figures/gains.csv").text
    [worse] = [site.model_copy(update={"test": None}) for name, site in looked.result.sites.items() if name == "north"]
    result = RunResult.read(looked.ground.hub.runs / "run-anew")
    result.model_copy(update={"sites": {**result.sites, "north": worse}}).write(looked.ground.hub.runs / "run-anew")
    assert looked.ada.browser.get("/runs/run-anew/figures/gains.csv").text != before
