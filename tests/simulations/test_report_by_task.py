"""Reports of segmentation, registration, detection and survival: from evaluations to the page, over two seeds."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedward_common.metrics import (
    Evaluation,
    merged_froc,
    pooled_concordance,
    pooled_moments,
)
from fedward_common.records import Prepared
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_common.testing_evaluations import invented
from fedward_server.figures.pooling import MIXED
from fedward_server.figures.task_blocks import NO_STRUCTURES
from fedward_server.result import RoundHistory, RunResult, SiteResult, SiteRound
from fedward_server.watch import gains
from fedward_simulations import method_wording, task_plots, wording
from fedward_simulations.compare import Comparison
from fedward_simulations.model_card import render_model_card
from fedward_simulations.report import print_table, render_report
from fedward_simulations.results import Results, StudyInfo, combine
from fedward_simulations.summary import summarize

PATIENTS = {"north": 40, "south": 24, "west": 3}  # on the test side; the last is too few for any figure

Scored = Callable[[int, float, int], Evaluation]
"""The evaluation of so many patients by a model of a quality in [0, 1], under a seed."""


def text_of(page: str) -> str:
    """What a reader sees of a page."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


def study_of(task: str, labels: tuple[str, ...], network: str, primary: str, **sections: dict[str, Any]) -> StudySpec:
    """A study of the task. No model is trained here, but a study is of a network that could be."""
    return tiny_study(
        study={"task": task, "title": f"A study of {task}"},
        cohort={"labels": labels, "positive": None, **sections.pop("cohort", {})},
        model={"name": network},
        evaluation={"primary": primary, "subgroups": ("sex",)},
        **{"input": {"size": [32, 32]}, **sections},
    )


SEGMENTATION = study_of("segmentation", ("liver", "tumour"), "unet", "dice")
REGISTRATION = study_of("registration", ("hippocampus",), "voxelmorph", "dice")
DETECTION = study_of("detection", ("nodule",), "retinanet", "froc")
SURVIVAL = study_of(
    "survival",
    ("censored", "death"),
    "cox",
    "c_index",
    cohort={"positive": "death"},
    input={"kind": "table", "features": ["age", "grade"]},
)


def scored(study: StudySpec) -> Scored:
    return lambda patients, quality, seed: invented(study, patients, quality, seed)


def run_result(study: StudySpec, draw: Scored, quality: float, seed: int) -> RunResult:
    def site(name: str, place: int) -> SiteResult:
        prepared = Prepared(
            site=name,
            cohort="ab" * 32,
            total=5 * PATIENTS[name],
            patients={"train": None},
            seconds=0.1,
            fedward="0.1.0",
        )
        return SiteResult(prepared=prepared, test=draw(PATIENTS[name], quality, 10 * seed + place))

    part = SiteRound(train_loss=0.5, patients=9, train_seconds=0.5, seconds=0.6, bytes_up=1000, bytes_down=1000)
    history = tuple(
        RoundHistory(
            round=index,
            seconds=1.0,
            train_loss=1 / index,
            sites=dict.fromkeys(PATIENTS, part),
            validation_loss=1.2 / index,
            primary=quality - 0.2 / index,
        )
        for index in (1, 2, 3)
    )
    return RunResult(
        run=f"seed-{seed}",
        engine="embedded",
        study=study,
        sites={name: site(name, place) for place, name in enumerate(PATIENTS)},
        history=history,
        kept_round=3,
        left_out=(),
        thresholds={},
        model_sha256="cd" * 32,
        wall_s=3.0,
    )


def results_of(study: StudySpec, draw: Scored, example: Results) -> Results:
    """Two seeds, in which the federated model does better than each hospital's own."""

    def comparison(seed: int) -> Comparison:
        federated, alone, pooled = (run_result(study, draw, quality, seed) for quality in (0.85, 0.7, 0.88))
        local = dict.fromkeys(PATIENTS, alone)
        return Comparison(
            seed=seed, folder=Path(), wall_s=4.0, federated=federated, local=local, pooled=pooled, failed={}
        )

    seeds = [summarize(comparison(seed), workers=2) for seed in (1, 2)]
    return combine(
        seeds, study=StudyInfo.of(study), engine="embedded", created=example.created, wall_s=9.0, site_reports=[]
    )


CASES = {
    "segmentation": (SEGMENTATION, scored(SEGMENTATION), "Dice"),
    "registration": (REGISTRATION, scored(REGISTRATION), "Dice"),
    "detection": (DETECTION, scored(DETECTION), "FROC score"),
    "survival": (SURVIVAL, scored(SURVIVAL), "C-index"),
}


@pytest.fixture(scope="module")
def by_task(one_seed: Results) -> dict[str, Results]:
    return {task: results_of(study, draw, one_seed) for task, (study, draw, _) in CASES.items()}


@pytest.mark.parametrize("task", CASES)
def test_the_report_speaks_the_task(task: str, by_task: dict[str, Results]) -> None:
    results, title = by_task[task], CASES[task][2]
    page, card = render_report(results), render_model_card(results)
    seen = text_of(page)
    metric = results.study.headline
    for site in results.sites[:2]:
        figure = site.federated.figure(metric)
        assert figure is not None
        assert f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f}) ± {figure.sd:.2f}" in seen
        assert wording.figure_text(figure) in card
    assert f"reached a mean {title} of" in wording.headline(results)
    assert "the gain shows at 2 of 2 hospitals" in " ".join(wording.verdict(results))
    assert "withheld: fewer than 5 patients on this side" in seen
    for text in (seen, card):
        assert "ROC" not in text.replace("FROC", "")
        assert "Sensitivity and specificity" not in text
    assert "None" not in seen
    assert method_wording.words(results).measures in card
    assert method_wording.words(results).threshold in card
    assert f"{title} at each hospital" in page
    assert f"{title} of the federated model by group of patients" in page
    for name, word in (("Women", "F"), ("Men", "M")):
        for label, block in results.subgroups["sex"][word].items():
            row = f"{name}: {label}" if task == "segmentation" else name
            text = wording.figure_text(block.figures[metric])
            assert text in seen.split("By group of patients")[1].split(row)[1]
            assert f"{row} {text}" in card
    assert ("FROC curves" in seen, "Spread of Dice" in seen) == (task == "detection", title == "Dice")
    console = Console(width=140, color_system=None)
    with console.capture() as captured:
        print_table(results, console)
    assert f"{title} (95 %)" in captured.get()


@pytest.mark.parametrize("task", CASES)
def test_groups_of_patients_are_put_together_over_hospitals(task: str, by_task: dict[str, Results]) -> None:
    (study, draw, _), results = CASES[task], by_task[task]
    told = [draw(PATIENTS[name], 0.85, 10 + place).subgroups for place, name in enumerate(PATIENTS)]
    label = "liver" if task == "segmentation" else study.cohort.labels[-1]
    for word in "FM":
        held = [groups["sex"][word] for groups in told if word in groups.get("sex", {})]
        dice = pooled_moments(e.overlaps[label].dice for e in held if e.overlaps)
        pairs = pooled_concordance(e.concordance for e in held if e.concordance is not None)
        curve = merged_froc(e.detections[label] for e in held if e.detections)
        (expected,) = (
            figure
            for figure in (dice and dice.mean, pairs and pairs.value, curve and curve.score())
            if figure is not None
        )
        block = results.runs[0].subgroups["sex"][word][label]
        assert block.figures[results.study.headline].value == pytest.approx(expected)
        assert (block.sites, block.patients) == (len(held), sum(e.patients for e in held))
    assert results.subgroups["sex"].keys() == {"F", "M"}


def test_segmentation_shows_each_structure_and_its_distances(by_task: dict[str, Results]) -> None:
    results = by_task["segmentation"]
    run = results.runs[0]
    north, south = (invented(SEGMENTATION, n, 0.85, seed) for n, seed in ((40, 10), (24, 11)))
    together = pooled_moments([north.overlaps["liver"].dice, south.overlaps["liver"].dice])
    assert together is not None
    assert run.overall.federated.labels["liver"].figures["dice"].value == together.mean
    assert run.sites[0].federated.labels["tumour"].figures["surface_mm"].value == pytest.approx(5 * 0.35, abs=0.1)
    assert run.overall.local.figures["dice"].value < run.overall.federated.figures["dice"].value
    assert run.overall.federated.patients == 64
    spread = run.dice["federated"]["liver"]
    assert spread.low < spread.first < spread.median < spread.third < spread.high
    assert spread.median == pytest.approx(together.mean, abs=0.03)
    seen = text_of(render_report(results))
    wanted = ["Dice: liver", "Mean surface distance, mm: tumour", "95 % Hausdorff distance, mm", "Spread of Dice"]
    assert [text for text in wanted if text not in seen] == []
    for text in (seen, render_model_card(results)):
        assert "Patients with US images and a mask that shows at least one of liver or tumour." in text
        assert "patients labelled" not in text
    found = json.loads(results.model_dump_json())["sites"][0]["federated"]
    assert found["figures"]["dice"]["low"] < found["figures"]["dice"]["value"]
    assert "median" in task_plots.dice_alt(results)
    assert task_plots.dice(results) == task_plots.dice(results)


def test_registration_shows_dice_before_and_folding(by_task: dict[str, Results]) -> None:
    results = by_task["registration"]
    figures = results.overall.federated.figures
    assert figures["dice_before"].value == pytest.approx(0.35, abs=0.03)
    assert figures["dice"].value == pytest.approx(0.85, abs=0.03)
    assert figures["folding_percent"].value == pytest.approx(0.2, abs=0.05)
    seen = text_of(render_report(results))
    assert "Dice before registration" in seen
    assert "Folded voxels, %" in seen


def test_registration_without_structures_shows_folding_and_says_what_it_cannot(one_seed: Results) -> None:
    bare = study_of("registration", (), "voxelmorph", "loss")

    results = results_of(bare, scored(bare), one_seed)
    seen = text_of(render_report(results))
    assert "Folded voxels, % 0.20" in seen
    assert NO_STRUCTURES in seen
    assert "The study names no structures" in seen
    assert render_model_card(results)


def test_detection_shows_the_curve_of_one_model_and_ranks_no_two(by_task: dict[str, Results]) -> None:
    results = by_task["detection"]
    overall = results.overall
    assert overall.local.withheld == MIXED
    assert overall.local.figures == {}
    assert results.runs[0].froc.keys() == {"federated", "pooled"}
    curve = results.runs[0].froc["federated"]["nodule"]
    assert curve.false_positives[0] == curve.sensitivity[0] == 0
    assert max(curve.sensitivity) <= 0.95
    assert overall.federated.figures["froc"].value > 0.5
    assert task_plots.froc(results) == task_plots.froc(results)
    assert "Federated" in task_plots.froc_alt(results)


def test_survival_ranks_patients_within_hospitals_also_over_all_of_them(by_task: dict[str, Results]) -> None:
    overall = by_task["survival"].overall
    assert overall.local.figures["c_index"].value > 0.7
    assert overall.federated.figures["c_index"].low > 0.5
    assert overall.local.labels == {}
    assert "hospital and overall. Risks are compared within each hospital only." in render_model_card(
        by_task["survival"]
    )


def test_who_gains_is_told_in_the_tasks_measure() -> None:
    for task, (study, draw, title) in CASES.items():
        result = run_result(study, draw, 0.85, 1)
        rows = gains(result)
        assert {row["measure"] for row in rows} == {title}, task
        shown = [row["together"] for row in rows if row["site"] != "west"]
        assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in shown)
        assert all(row["together"] is None for row in rows if row["site"] == "west")


def test_classification_has_no_keys_of_other_tasks(one_seed: Results) -> None:
    found = json.loads(one_seed.model_dump_json())
    assert "figures" not in found["sites"][0]["federated"]
    assert "figures" not in found["overall"]["federated"]["mean"]
    assert not {"froc", "dice"} & found["runs"][0].keys()
    assert Results.model_validate_json(one_seed.model_dump_json()) == one_seed
