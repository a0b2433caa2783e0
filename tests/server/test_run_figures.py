"""The figures of finished runs: the metrics' own numbers, of every task; no steward finds another hospital in them."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_common.metrics import (
    Evaluation,
    dice_percentiles,
    main_figure,
    merged_froc,
    pooled,
    pooled_at,
    pooled_concordance,
)
from fedward_common.records import Prepared
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_common.testing_evaluations import invented
from fedward_server.dashboard.texts import texts
from fedward_server.figures.blocks import METRIC_TITLES, Figure, interval_seed
from fedward_server.figures.pictures import PICTURES, numbers, operating_points, pictures
from fedward_server.figures.run_figures import EVERYBODY, RunFigures
from fedward_server.figures.run_plots import draw
from fedward_server.figures.scope import Scope, poolable, reference, shown_by
from fedward_server.figures.tables import Table
from fedward_server.result import RoundHistory, RunResult, SiteResult, SiteRound

PATIENTS = {"harbour": 60, "north": 90, "valley": 75}
POINT = 0.45


def study_of(task: str, labels: tuple[str, ...], network: str, primary: str, **sections: dict[str, Any]) -> StudySpec:
    """No model is trained here, but a study is of a network that could be."""
    return tiny_study(
        study={"task": task},
        cohort={"labels": labels, "positive": None, **sections.pop("cohort", {})},
        model={"name": network},
        evaluation={"primary": primary, "subgroups": ("sex",)},
        **{"input": {"size": [32, 32]}, **sections},
    )


STUDIES = {
    "classification": tiny_study(evaluation={"subgroups": ("sex",)}),
    "classes": tiny_study(cohort={"labels": ("healthy", "mild", "severe"), "positive": None}),
    "several": tiny_study(cohort={"labels": ("oedema", "nodule"), "positive": None, "multi_label": True}),
    "segmentation": study_of("segmentation", ("liver", "tumour"), "unet", "dice"),
    "registration": study_of("registration", ("hippocampus",), "voxelmorph", "dice"),
    "bare registration": study_of("registration", (), "voxelmorph", "loss"),
    "detection": study_of("detection", ("nodule",), "retinanet", "froc"),
    "survival": study_of(
        "survival",
        ("censored", "death"),
        "cox",
        "c_index",
        cohort={"positive": "death"},
        input={"kind": "table", "features": ["age", "grade"]},
    ),
}


def result_of(study: StudySpec, patients: dict[str, int] = PATIENTS) -> RunResult:
    """What a run of these sites may find. Each has a model of its own, and is tested by the others'."""
    points = dict.fromkeys(study.asked_labels, POINT) if study.study.task == "classification" else {}

    def site(place: int, name: str) -> SiteResult:
        prepared = Prepared(
            site=name, fedward="0.1.0", cohort="ab" * 32, total=500, patients={"train": 60}, seconds=1.0
        )
        test, alone, other, personal = (
            invented(study, patients[name], quality, [place, number], points)
            for number, quality in enumerate((0.85, 0.6, 0.5, 0.8))
        )
        across = {maker: other for maker in patients if maker != name}
        return SiteResult(prepared=prepared, test=test, alone=alone, across=across, personal=personal)

    part = SiteRound(train_loss=0.5, patients=9, train_seconds=0.5, seconds=1.0, bytes_up=1, bytes_down=1)
    history = tuple(
        RoundHistory(
            round=number,
            seconds=1.0,
            train_loss=1 / number,
            sites=dict.fromkeys(patients, part),
            validation_loss=1.2 / number,
            primary=0.9 - 0.3 / number,
            site_primary=dict.fromkeys(patients, 0.8 - 0.2 / number),
        )
        for number in range(1, study.rounds + 1)
    )
    return RunResult(
        run="run-1",
        engine="deployment",
        study=study,
        sites={name: site(place, name) for place, name in enumerate(sorted(patients))},
        history=history,
        kept_round=study.rounds,
        left_out=("west: is not connected to the hub",),
        thresholds=points,
        model_sha256="cd" * 32,
        wall_s=3.0,
    )


EACH = ("gains", "subgroups", "across", "learning", "losses")
PICTURED = {
    "classification": ["gains", "roc", "precision-recall", "calibration", *EACH[1:]],
    "segmentation": ["gains", "dice", *EACH[1:]],
    "registration": ["gains", "dice", *EACH[1:]],
    "detection": ["gains", "froc", *EACH[1:]],
    "survival": [*EACH],
}

RESULTS = {name: result_of(study) for name, study in STUDIES.items()}


@cache
def everything(name: str) -> RunFigures:
    return RunFigures(RESULTS[name], Scope())


def read(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.csv())))


def held_by(result: RunResult) -> list[Evaluation]:
    return [site.test for site in result.sites.values() if site.test is not None]


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_who_gains_is_told_in_the_figures_of_the_sites(name: str) -> None:
    run = everything(name)
    rows = read(PICTURES["gains"](run).numbers)
    labels = run.study.asked_labels
    for row, model in itertools.product(rows, ("local", "federated", "personal")):
        if row["hospital"] == EVERYBODY or row["label"] not in labels:
            continue
        site = run.result.sites[row["hospital"]]
        evaluation = {"local": site.alone, "federated": site.test, "personal": site.personal}[model]
        assert evaluation is not None
        figure = main_figure(evaluation, row["label"], seed=interval_seed(run.study))
        assert figure is not None
        told = [float(row[f"{model}{end}"]) for end in ("", "_low", "_high")]
        assert told == [figure.value, figure.low, figure.high]
    assert {row["hospital"] for row in rows} == {*PATIENTS, EVERYBODY}


@pytest.mark.parametrize("name", ["classification", "classes", "several"])
def test_curves_and_calls_of_classes_are_those_of_the_merged_scores(name: str) -> None:
    run = everything(name)
    held = held_by(run.result)
    curves, areas = (read(PICTURES["roc"](run).numbers), read(PICTURES["roc"](run).table))
    points, groups = (read(PICTURES[each](run).numbers) for each in ("precision-recall", "calibration"))
    calls = read(operating_points(run))
    for label in run.study.asked_labels:
        merged = pooled(held, label)
        assert merged is not None

        def mine(rows: list[dict[str, str]], *columns: str, label: str = label) -> list[list[float]]:
            own = [row for row in rows if (row["hospital"], row["label"]) == (EVERYBODY, label)]
            return [[float(row[column]) for row in own] for column in columns]

        roc, precision_recall = merged.roc(), merged.precision_recall()
        assert mine(curves, "false_positive_rate", "true_positive_rate") == [roc.fpr.tolist(), roc.tpr.tolist()]
        assert mine(points, "recall", "precision") == [
            precision_recall.recall.tolist(),
            precision_recall.precision.tolist(),
        ]
        assert mine(groups, "observed", "observed_low") == [
            [group.observed.value for group in merged.calibration()],
            [group.observed.low for group in merged.calibration()],
        ]
        assert mine(areas, "roc_auc")[0] == [merged.roc_auc()]
        exact = pooled_at(held, label)
        assert mine(calls, "sensitivity", "specificity_low", "precision_high") == [
            [exact["sensitivity"].value],
            [exact["specificity"].low],
            [exact["precision"].high],
        ]
        by_site = [row for row in calls if row["label"] == label and row["hospital"] != EVERYBODY]
        for count in ("true_positives", "false_negatives", "false_positives", "true_negatives"):
            assert mine(calls, count)[0] == [sum(int(row[count]) for row in by_site)]
        for row in by_site:
            true, missed = int(row["true_positives"]), int(row["false_negatives"])
            assert float(row["sensitivity"]) == pytest.approx(true / (true + missed))
            assert float(row["threshold"]) == POINT


def test_curves_of_other_tasks_are_those_of_the_merged_histograms() -> None:
    run = everything("detection")
    merged = merged_froc(each.detections["nodule"] for each in held_by(run.result))
    assert merged is not None
    rows = [row for row in read(PICTURES["froc"](run).numbers) if row["hospital"] == EVERYBODY]
    assert [float(row["sensitivity"]) for row in rows] == merged.curve().sensitivity.tolist()
    at_rates = read(PICTURES["froc"](run).table)[0]
    assert [float(value) for key, value in at_rates.items() if key.startswith("at_")] == pytest.approx(
        merged.sensitivities()
    )
    run = everything("segmentation")
    spread = dice_percentiles([each.overlaps["tumour"] for each in held_by(run.result)])
    [row] = [
        row for row in read(PICTURES["dice"](run).numbers) if (row["hospital"], row["label"]) == (EVERYBODY, "tumour")
    ]
    assert [float(value) for value in list(row.values())[2:]] == spread.tolist()
    run = everything("survival")
    pairs = pooled_concordance(each.concordance for each in held_by(run.result) if each.concordance is not None)
    assert pairs is not None
    assert run.overall["federated"].figures["c_index"].value == pairs.value


# Pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_every_picture_is_drawn(name: str) -> None:
    run = everything(name)
    for picture in pictures(run):
        svg = draw(run, picture.name, "svg")
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert not re.search(rb"<script|href=\"[^#]|url\((?!#)", svg)
        assert picture.table.rows
    missing = {"classes": {"subgroups"}, "several": {"subgroups"}, "bare registration": {"dice", "subgroups"}}
    expected = [each for each in PICTURED[run.study.study.task] if each not in missing.get(name, ())]
    assert [picture.name for picture in pictures(run)] == expected


def test_a_picture_is_the_same_bytes_again() -> None:
    again = RunFigures(RESULTS["survival"], Scope())
    for picture, form in itertools.product(pictures(again), ("svg", "png")):
        assert draw(again, picture.name, form) == draw(everything("survival"), picture.name, form)


def test_a_picture_of_pixels() -> None:
    png = draw(everything("survival"), "gains", "png")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")


def test_letters_that_our_font_has_not_are_drawn_in_pixels_too() -> None:
    """Boxes in their places would be the same for both."""

    def drawn(labels: tuple[str, ...]) -> bytes:
        study = study_of("segmentation", labels, "unet", "dice")
        return draw(RunFigures(result_of(study), Scope()), "dice", "png")

    assert drawn(("肝脏", "肿瘤")) != drawn(("肾脏", "囊肿"))


def test_a_figure_that_a_site_left_out_is_no_error() -> None:
    """A sketch without the figures that are read off it."""

    def without(_name: str, site: SiteResult) -> dict[str, Any]:
        return {} if site.test is None else {"test": site.test.model_copy(update={"figures": {}})}

    run = RunFigures(changed(RESULTS["classification"], without), Scope())
    assert all(draw(run, picture.name, "svg") for picture in pictures(run))


def test_many_hospitals_share_a_look() -> None:
    many = {f"hospital-{number:02}": 40 for number in range(12)}
    run = RunFigures(result_of(STUDIES["classification"], many), Scope())
    svg = draw(run, "roc", "svg").decode()
    assert svg.count("Each hospital") == 1
    assert "hospital-03" not in svg


def test_a_measure_is_called_the_same_everywhere() -> None:
    assert {metric: texts("en")[f"col_{metric}"] for metric in METRIC_TITLES} == METRIC_TITLES


# What is not there ---------------------------------------------------------------------------------------------------


def changed(result: RunResult, change: Callable[[str, SiteResult], dict[str, Any]]) -> RunResult:
    sites = {name: site.model_copy(update=change(name, site)) for name, site in result.sites.items()}
    return result.model_copy(update={"sites": sites})


def test_a_run_in_which_one_hospital_alone_is_tested() -> None:
    """Leave-site-out: the others have no test patients, and the one has not trained."""
    nobody = Evaluation(patients=0, loss=None, withheld="fewer than 5 patients on this side")
    study = tiny_study(split={"kind": "leave-site-out", "site": "valley", "shares": [0.75, 0.25, 0.0]})
    result = changed(
        RESULTS["classification"].model_copy(update={"study": study}),
        lambda name, _: (
            {"alone": None, "across": {}, "personal": None} | ({} if name == "valley" else {"test": nobody})
        ),
    )
    run = RunFigures(result, Scope())
    assert run.of("north").withheld == nobody.withheld  # type: ignore[union-attr]
    assert run.overall["federated"].roc_auc == run.blocks["valley"]["federated"].roc_auc
    assert run.models == ["federated"]
    assert "Tested only at valley" in " ".join(run.limits)
    assert "across" not in [picture.name for picture in pictures(run)]
    assert all(draw(run, picture.name, "svg") for picture in pictures(run))
    other = RunFigures(result, Scope("north"))
    assert other.who == ["north"]
    assert "Tested only at another hospital, which did not train" in " ".join(other.limits)
    assert [picture.name for picture in pictures(other)] == ["gains", "learning", "losses"]


def test_nothing_at_all_is_no_error() -> None:
    result = changed(
        RESULTS["classification"], lambda *_: {"test": None, "alone": None, "across": {}, "personal": None}
    )
    for scope in (Scope(), Scope("north")):
        run = RunFigures(result.model_copy(update={"history": ()}), scope)
        assert run.gains.hospitals == 0
        assert not operating_points(run).rows
        assert all(draw(run, picture.name, "svg") for picture in pictures(run))
        assert run.public()["sites"]


# Stewards ------------------------------------------------------------------------------------------------------------


def shown_to(result: RunResult, site: str) -> list[Any]:
    """Everything that a steward gets to see."""
    run = RunFigures(result, Scope(site))
    shown = pictures(run)
    tables = [table.csv() for picture in shown for table in (picture.table, picture.numbers)]
    drawn = [draw(run, picture.name, "svg") for picture in shown]
    return [run.public(), numbers(run).csv(), operating_points(run).csv(), tables, drawn]


@pytest.mark.parametrize("name", ["classification", "classes"])
def test_which_of_two_other_hospitals_is_which_a_steward_cannot_see(name: str) -> None:
    """The others' figures are exchanged: all that is shown is of the steward's own and of all together."""
    result = RESULTS[name]
    harbour, valley = result.sites["harbour"], result.sites["valley"]
    exchanged = {**result.sites, "harbour": valley, "valley": harbour}
    sites = {place: site.model_copy(update={"across": result.sites[place].across}) for place, site in exchanged.items()}
    other = result.model_copy(update={"sites": sites})
    assert shown_to(other, "north") == shown_to(result, "north")
    assert RunFigures(other, Scope("harbour")).blocks != RunFigures(result, Scope("harbour")).blocks


@pytest.mark.parametrize("name", ["classification", "classes", "segmentation", "detection", "survival"])
def test_of_how_many_patients_figures_of_all_are_is_not_told_a_steward(name: str) -> None:
    """Of the same study with a hospital more it would be how many that one has."""
    whole = RunFigures(RESULTS[name], Scope())
    block = whole.overall["federated"]
    counts = {
        count for each in (block, *block.labels.values()) for count in (each.patients, each.positives, each.negatives)
    }
    told = repr(shown_to(RESULTS[name], "north")[:-1])  # the pictures hold numbers of other kinds
    own = {
        count
        for each in RunFigures(RESULTS[name], Scope("north")).blocks["north"].values()
        for count in (each.patients, each.positives, each.negatives)
    }
    assert counts - {None}
    for count in counts - own - {None}:
        assert not re.search(rf"(?<![\d.]){count}(?!\d|\.\d)", told), count


def floats(told: Any) -> Iterator[float]:
    """Every number with a point, but thresholds and losses, which are not of a number of patients."""
    if isinstance(told, dict):
        kept = {key: value for key, value in told.items() if key != "threshold" and not str(key).endswith("loss")}
        yield from itertools.chain.from_iterable(map(floats, kept.values()))
    elif isinstance(told, list | tuple):
        yield from itertools.chain.from_iterable(map(floats, told))
    elif isinstance(told, float):
        yield told


@pytest.mark.parametrize("name", ["classification", "classes", "segmentation", "detection", "survival"])
def test_figures_of_all_have_no_more_digits_for_a_steward_than_are_read(name: str) -> None:
    """All digits of a share and of its interval tell of how many it is, and so do a curve's steps."""
    run = RunFigures(RESULTS[name], Scope("north"))
    public = run.public()
    rows = [
        dict(zip(table.columns, row, strict=True))
        for table in (numbers(run), *(each for shown in pictures(run) for each in (shown.numbers, shown.table)))
        for row in table.rows
        if EVERYBODY in row or "group" in table.columns
    ]
    figures = [figure.model_dump() for row in rows for figure in row.values() if isinstance(figure, Figure)]
    told = [*floats([public["overall"], public["subgroups"], public["history"][EVERYBODY], rows, figures])]
    assert len(told) > 10
    assert [value for value in told if value != round(value, 2)] == []
    assert EVERYBODY not in {*run.scores, *run.froc, *run.dice}


@pytest.mark.parametrize("name", ["classification", "several", "registration", "detection", "survival"])
def test_of_one_other_hospital_a_steward_sees_nothing(name: str) -> None:
    """The other one's figures are others altogether, and nothing that is shown changes."""
    two = {"harbour": 60, "north": 90}
    result = result_of(STUDIES[name], two)
    other = result_of(STUDIES[name], {**two, "harbour": 48})
    history = tuple(
        row.model_copy(update={"primary": 0.1, "validation_loss": 3.0, "train_loss": 7.0}) for row in result.history
    )
    other = other.model_copy(update={"history": history})
    assert shown_to(other, "north") == shown_to(result, "north")
    assert RunFigures(result, Scope("north")).who == ["north"]


@pytest.mark.parametrize("name", ["classification", "segmentation", "bare registration", "detection", "survival"])
def test_no_other_hospital_is_named_to_a_steward(name: str) -> None:
    said = repr(shown_to(RESULTS[name], "north"))
    for other in ("harbour", "valley", "west"):
        assert other not in said
    assert "west: is not connected" in RunFigures(RESULTS[name], Scope("west")).left_out[0]


def test_what_only_some_hospitals_show_is_no_difference_to_what_all_show() -> None:
    """Valley shows no one with the severe form: of the others' sum with it and without it, it would be the rest."""

    def without(name: str, site: SiteResult) -> dict[str, Any]:
        if name != "valley" or site.test is None:
            return {}
        kept = {
            field: {label: one for label, one in getattr(site.test, field).items() if label != "severe"}
            for field in ("sketches", "figures")
        }
        return {"test": site.test.model_copy(update=kept)}

    four = result_of(STUDIES["classes"], {**PATIENTS, "west": 80})
    result = changed(four, without)
    assert "severe" in RunFigures(result, Scope()).overall["federated"].labels
    seen = RunFigures(result, Scope("north"))
    assert seen.overall["federated"].labels.keys() == {"healthy", "mild"}
    assert seen.kept_from
    assert "valley" not in repr(seen.public())


PARTS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", "e"]), st.sets(st.sampled_from(["healthy", "mild", "severe"])), min_size=1
)
WHOLE = invented(STUDIES["classes"], 60, 0.5, 1)


@given(PARTS, st.sampled_from(["a", "b", "x"]))
def test_what_may_be_pooled_is_of_the_same_hospitals_and_of_two_others(parts: dict[str, set[str]], own: str) -> None:
    def only(labels: set[str]) -> Evaluation:
        fields = ("sketches", "figures")
        kept = {field: {label: getattr(WHOLE, field)[label] for label in labels} for field in fields}
        return WHOLE.model_copy(update=kept)

    evaluations = {site: only(labels) for site, labels in parts.items()}
    everybody = reference(evaluations)
    found = poolable(evaluations, Scope(own), everybody)
    for label in ("healthy", "mild", "severe"):
        sites = shown_by(found, "figures", label)
        assert sites in (set(), everybody)
        assert len(sites - {own}) != 1
        assert shown_by(found, "sketches", label) == sites
    assert poolable(evaluations, Scope(), everybody) == evaluations


SITES = st.lists(st.from_regex(r"[a-z0-9][a-z0-9-]{0,8}", fullmatch=True), min_size=1, max_size=5, unique=True)


@given(SITES, st.text("abz-, .:", max_size=10), st.randoms())
def test_no_name_is_left_in_a_sentence(names: list[str], filler: str, random: Any) -> None:
    own, *others = names
    words = [random.choice([*names, "and", "was left out"]) for _ in range(6)]
    sentence = f"{filler} " + " ".join(words) + ", ".join(names)
    said = Scope(own).words(sentence, names)
    left = re.findall(r"[\w-]+", said.replace("another hospital", "").replace("other hospitals", ""))
    assert not set(others) & set(left)
    assert Scope().words(sentence, names) == sentence


# Tables --------------------------------------------------------------------------------------------------------------

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(st.text(max_size=12), NUMBERS, st.none() | st.tuples(NUMBERS, NUMBERS, NUMBERS))))
def test_a_table_is_read_back_as_it_was(rows: list[tuple[str, float, tuple[float, float, float] | None]]) -> None:
    cells = tuple(
        (name, number, None if ends is None else Figure(value=ends[0], low=ends[1], high=ends[2]))
        for name, number, ends in rows
    )
    text = Table(("name", "number", "figure"), cells, frozenset({"figure"})).csv()
    back = list(csv.reader(io.StringIO(text, newline="")))
    assert back[0] == ["name", "number", "figure", "figure_low", "figure_high"]
    for (name, number, ends), row in zip(rows, back[1:], strict=True):
        assert row[0] in (name, f"'{name}")
        assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r"))
        assert float(row[1]) == number
        assert row[2:] == ["", "", ""] if ends is None else [float(each) for each in row[2:]] == list(ends)


def test_a_value_that_is_no_number_has_no_place_in_a_table() -> None:
    rows = PICTURES["roc"](everything("classification")).numbers.rows
    assert rows[0][2] is None  # the threshold at which nobody is called positive
    assert np.isfinite([cell for row in rows for cell in row if isinstance(cell, float)]).all()
