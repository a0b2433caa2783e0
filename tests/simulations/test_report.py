import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest
from rich.console import Console

from fedward_common.markdown import plain
from fedward_common.study import (
    Cohort,
    Evaluation,
    Input,
    Model,
    Split,
    Start,
    Strategy,
    StudySpec,
    TableInput,
    Training,
)
from fedward_server.figures import drawing
from fedward_simulations import learning_plots, method_wording, plots, wording
from fedward_simulations.model_card import render_model_card
from fedward_simulations.report import print_table, render_report, write_report
from fedward_simulations.results import METRICS, Block, Results, SiteEffect, SiteEffectChange, combine

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)> $x^2$ & 病院 {{ 7*7 }} | `a` [b](javascript:c)'
VOID = {"meta", "br", "img", "link", "input", "hr"}
LOADS = {"src", "href", "xlink:href", "srcset", "data", "poster", "action", "formaction", "background"}


class Page(HTMLParser):
    """Tags in order, text, tables as rows of cells; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.tables: list[list[list[dict[str, str]]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append({"tag": tag, **self.tags[-1][1]})

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def renamed(results: Results, name: str) -> Results:
    """The same results with hostile text wherever a study or a site can put text."""
    about = results.study.spec.study.model_copy(update={"contact": name})
    spec = results.study.spec.model_copy(update={"study": about})
    runs = [
        run.model_copy(
            update={
                "sites": (run.sites[0].model_copy(update={"name": name}), *run.sites[1:]),
                "roc": {model: {name: curves["malignant"]} for model, curves in run.roc.items()},
                "history": tuple(
                    point.model_copy(update={"sites": (), "missing": {name: name}}) for point in run.history
                ),
            }
        )
        for run in results.runs
    ]
    report = results.site_reports[0].model_copy(
        update={"name": name, "scanners": (name,), "labels": {name: 7}, "left_out": {name: 7}, "quarantined": {name: 7}}
    )
    study = results.study.model_copy(
        update={"title": name, "purpose": name, "labels": (name, "b"), "positive": name, "model": name, "spec": spec}
    )
    hidden = Block(withheld=name)
    runs[0] = runs[0].model_copy(
        update={"sites": (runs[0].sites[0].model_copy(update={"local": hidden}), *runs[0].sites[1:])}
    )
    return combine(
        runs,
        study=study,
        engine="embedded",
        created=results.created,
        wall_s=1.0,
        data_notes=[name],
        site_reports=[report, *results.site_reports[1:]],
        versions={name: name},
    )


@pytest.fixture(scope="module")
def html(results: Results) -> str:
    return render_report(results)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_loads_nothing(html: str, page: Page) -> None:
    assert "http://" not in html
    assert "https://" not in html
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "img", "form", "base"}
    for _, attributes in page.tags:
        for name in attributes.keys() & LOADS:
            assert attributes[name].startswith("#"), attributes
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"@import|url\((?!#)", html)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert "default-src 'none'" in policy


def test_every_figure_is_on_the_page(results: Results, page: Page) -> None:
    for site in results.sites:
        assert site.name in page.text
        for model in wording.shown(results):
            block = site.block(model)
            assert block is not None
            if block.roc_auc is None:
                assert f"withheld: {block.withheld}" in page.text
                continue
            for metric in METRICS:
                figure = block.figure(metric)
                assert figure is not None
                wanted = f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f}) ± {figure.sd:.2f}"
                assert wanted in page.text
    for model in wording.shown(results):
        overall = getattr(results.overall, model)
        assert wording.figure_text(overall.roc_auc) in page.text
        assert f"{overall.mean.roc_auc:.2f}" in page.text
        assert f"{overall.f1:.2f}" in page.text
    for title in ("F1", "Brier", "Precision–recall curves"):
        assert title in page.text


def test_cost_provenance_and_data_are_on_the_page(results: Results, page: Page) -> None:
    wanted = [
        "3.2 MB",
        "1.31 s",
        "91 %",
        "2 min 51 s",
        results.study.digest,
        *(run.model_sha256 for run in results.runs),
    ]
    wanted += [
        "flwr 1.41.0",
        "Fedward 0.1.0",
        "Aloka ProSound",
        "not a DICOM file: fewer than 5",
        "pixel data cut short: 6",
    ]
    wanted += ["137 benign, 77 malignant", "no reply within 600 s (1 round)", "25 of 26", wording.RESEARCH_USE]
    wanted += [
        "Near-duplicate images are grouped as one planted patient.",
        "DeLong",
        "Wilson",
        "24 November 2026, 09:30 UTC",
    ]
    assert [text for text in wanted if text not in page.text] == []


def test_tables_are_well_formed(page: Page) -> None:
    assert len(page.tables) == 3
    for table in page.tables:
        width = len(table[0])
        assert all(cell["tag"] == "th" and cell["scope"] == "col" for cell in table[0])
        carried = 0  # cells that a rowspan above reaches down
        left = 0
        for row in table[1:]:
            spans = sum(int(cell.get("colspan") or 1) for cell in row)
            if not left:
                carried = 0
            assert spans + carried == width
            left = max(left - 1, 0)
            for cell in row:
                if cell.get("rowspan"):
                    left, carried = int(cell["rowspan"]) - 1, carried + 1
            if row[0]["tag"] == "th":
                assert row[0]["scope"] in {"row", "rowgroup"}


def test_headings_ids_and_figures_are_accessible(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("href", "aria-labelledby"):
            if name in attributes:
                assert attributes[name].lstrip("#") in ids
        clip = attributes.get("clip-path")
        assert clip is None or clip[5:-1] in ids
    svgs = [a for tag, a in page.tags if tag == "svg"]
    assert len(svgs) == 6
    assert all(a["role"] == "img" and len(a["aria-label"]) > 40 for a in svgs)
    assert ("html", {"lang": "en"}) in page.tags


def test_hostile_names_stay_text(results: Results) -> None:
    hostile = renamed(results, HOSTILE)
    page = Page(render_report(hostile))
    assert not {tag for tag, _ in page.tags} & {"script", "img", "a"}
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert page.text.count(HOSTILE) >= 10
    card = render_model_card(hostile)
    assert "<script" not in card
    assert "<img" not in card
    assert "{{ 7\\*7 }}" in card
    for mark in ("| `a`", "[b]"):
        assert mark not in card


def test_the_same_results_give_the_same_bytes(results: Results, html: str, tmp_path: Path) -> None:
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path"}):
        again = render_report(Results.model_validate_json(results.model_dump_json()))
    assert again == html
    write_report(results, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_report(results, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert first.keys() == {"report.html", "model-card.md"}


def test_drawing_leaves_matplotlib_as_it_was(results: Results) -> None:
    before = dict(mpl.rcParams)
    plots.roc(results)
    assert dict(mpl.rcParams) == before


def test_text_in_figures_is_text_and_large_enough(results: Results) -> None:
    for draw in (plots.gain, plots.roc, plots.calibration, learning_plots.losses, learning_plots.primary):
        svg = draw(results)
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", svg)]
        assert sizes
        assert min(sizes) >= 9
    assert "north-university" in plots.gain(results)
    assert "local only withheld" in plots.gain(results)


def test_models_differ_in_more_than_colour() -> None:
    assert len({look.line for look in drawing.LOOKS.values()}) == len(drawing.LOOKS)
    assert len({(look.marker, look.face) for look in drawing.LOOKS.values()}) == len(drawing.LOOKS)


def changed(results: Results, local: float, federated: float) -> Results:
    """`results` with these means over hospitals."""
    overall = results.overall
    means = {"local": local, "federated": federated}
    blocks = {
        model: getattr(overall, model).model_copy(
            update={"mean": getattr(overall, model).mean.model_copy(update={"roc_auc": value})}
        )
        for model, value in means.items()
    }
    return results.model_copy(update={"overall": overall.model_copy(update=blocks)})


def test_the_headline_is_computed(results: Results) -> None:
    assert wording.headline(results) == (
        "On the hospitals’ own test patients the federated model reached a mean ROC-AUC of 0.87 "
        "(local-only 0.79, pooled data 0.88)."
    )
    said = " ".join(wording.verdict(results))
    assert "0.08 higher" in said
    assert "at 2 of 2 hospitals" in said
    assert "1 hospital is not in these means" in said


@pytest.mark.parametrize(
    ("local", "federated", "wanted"),
    [
        (0.80, 0.8049, "no different"),
        (0.80, 0.80, "no different"),
        (0.86, 0.84, "0.02 lower"),
        (0.8, 0.85, "0.05 higher"),
    ],
)
def test_the_verdict_is_neutral_where_federation_does_not_gain(
    results: Results, local: float, federated: float, wanted: str
) -> None:
    said = wording.verdict(changed(results, local, federated))[0]
    assert wanted in said
    assert ("gain" in said) == (wanted == "0.05 higher")


def test_nothing_to_compare_is_said(results: Results) -> None:
    hidden = Block(withheld="fewer than 5 patients")
    runs = [
        run.model_copy(
            update={
                "sites": tuple(
                    site.model_copy(update=dict.fromkeys(("local", "federated", "pooled"), hidden))
                    for site in run.sites
                ),
                "overall": run.overall.model_copy(update=dict.fromkeys(("local", "federated", "pooled"), hidden)),
                "roc": {},
                "precision_recall": {},
                "calibration": {},
            }
        )
        for run in results.runs
    ]
    empty = combine(runs, study=results.study, engine="embedded", created=results.created, wall_s=1.0)
    page = Page(render_report(empty))
    assert "No hospital has enough test patients" in page.text
    assert page.text.count("withheld: fewer than 5 patients") == 4  # once a hospital, once for all of them
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 3
    assert "No hospital has enough test patients" in render_model_card(empty)


def test_without_pooled_data_the_column_is_gone(one_seed: Results) -> None:
    run = one_seed.runs[0]
    alone = run.model_copy(
        update={
            "sites": tuple(site.model_copy(update={"pooled": None}) for site in run.sites),
            "overall": run.overall.model_copy(update={"pooled": None}),
        }
    )
    results = combine([alone], study=one_seed.study, engine="deployment", created=one_seed.created, wall_s=1.0)
    page = Page(render_report(results))
    assert "Pooled" not in page.text
    assert "±" not in page.text
    assert "Pooled" not in render_model_card(results)
    assert "ran on one system" not in page.text


def test_model_card_answers_what_the_run_knows(results: Results) -> None:
    card = render_model_card(results)
    assert "- Model: enhanced-alexnet, classification into benign, malignant\n" in card
    sections = ["Model details", "Intended use", "Out-of-scope use", "Factors", "Metrics", "Training data"]
    sections += ["Evaluation data", "Quantitative analyses", "Ethical considerations", "Caveats and recommendations"]
    assert [title for title in sections if f"\n## {title}\n" not in card] == []
    claim, tripod = card.split("### CLAIM, 2024 update")[1].split("### TRIPOD+AI")
    assert re.findall(r"^\| (\d+) \|", claim, re.MULTILINE) == [str(item) for item in range(1, 45)]
    items = re.findall(r"^\| (\d+)([a-g]?) \|", tripod, re.MULTILINE)
    assert sorted({int(item) for item, _ in items}) == list(range(1, 28))
    assert len(items) == 52
    assert "| 44 | Funding | *for the study team to fill in* |" in claim
    assert results.study.digest in claim
    assert "Mongan" in claim
    assert "Collins" in tripod
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4, 6}
    assert wording.RESEARCH_USE in card


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("# head", "\\# head"),
        ("1. item", "1\\. item"),
        ("- item", "\\- item"),
        ("0.87 (0.8)", "0.87 (0.8)"),
        ("a|b\nc", "a\\|b c"),
    ],
)
def test_plain_text_is_no_markdown(text: str, wanted: str) -> None:
    assert plain(text) == wanted


def test_terminal_table_shows_the_result(results: Results) -> None:
    console = Console(width=130, color_system=None)
    with console.capture() as captured:
        print_table(renamed(results, "[bold]north[/bold]"), console)
    text = captured.get()
    assert "[bold]north[/bold]" in text
    assert "0.86 (0.71–0.98)" in text
    assert "withheld" in text
    assert wording.headline(results)[:60] in text


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (3_214_567, "3.2 MB"),
        (5e11, "500 GB"),
    ],
)
def test_sizes(value: float, wanted: str) -> None:
    assert wording.size(int(value)) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0.034, "0.03 s"), (12.34, "12.3 s"), (171.2, "2 min 51 s"), (1200, "20 min"), (9000, "2.5 h")],
)
def test_durations(value: float, wanted: str) -> None:
    assert wording.duration(value) == wanted


def with_spec(results: Results, **sections: object) -> Results:
    """`results` of a study with these sections changed."""
    spec = StudySpec.model_validate({**dict(results.study.spec), **sections})
    return results.model_copy(update={"study": results.study.model_copy(update={"spec": spec})})


NARROW = Cohort(
    modality="US",
    labels=("benign", "malignant"),
    positive="malignant",
    body_part="BREAST",
    vendors=("GE",),
    sex="F",
    age=(40, 70),
    months=("2015-01", "2019-12"),
)
STARTED = Model(name="enhanced-alexnet", start=Start(file="w.safetensors", sha256="a" * 64), frozen=("features.*",))
TABLE: dict[str, object] = {
    "cohort": Cohort(labels=("benign", "malignant"), positive="malignant"),
    "model": Model(name="mlp"),
    "training": Training(),
}


@pytest.mark.parametrize(
    ("sections", "topic", "wanted"),
    [
        ({"split": Split(kind="column", column="fold")}, "Patients", "column “fold” of each hospital’s label table"),
        ({"split": Split(kind="leave-site-out", site="harbour-clinic")}, "Patients", "harbour-clinic is only tested"),
        ({"split": Split(kind="leave-one-patient-out", folds=9)}, "Patients", "tested alone, in up to 9 folds. Each"),
        ({"split": Split(kind="folds", folds=5)}, "Patients", "No model was tested on a patient that it was trained"),
        ({"split": Split(kind="folds", folds=5)}, "Operating point", "No test score played a part in it"),
        ({"split": Split(kind="folds", folds=5)}, "Training", "for each of 5 folds, and as many for the model of all"),
        ({"input": Input(size=(16, 64, 64), intensity="zscore")}, "Images", "16 × 64 × 64 pixels"),
        ({"input": Input(intensity="window", window=(240.0, 400.0))}, "Images", "window with centre 240 and width 400"),
        ({"input": Input(spacing=(1.0, 0.5))}, "Images", "1 x 0.5 mm; images more than 4 times as coarse are left out"),
        (
            {
                "cohort": Cohort(modality="MR", labels=("benign", "malignant"), positive="malignant"),
                "input": Input(bias_field="n4", crop="foreground"),
            },
            "Images",
            "are taken out (N4). Images are",
        ),
        ({"input": Input(intensity="landmarks", landmarks=(0.5,) * 9)}, "Images", "common landmarks (Nyúl)."),
        ({"input": Input(statistics="foreground")}, "Images", "set to 0 and 1, measured on the foreground"),
        (
            {"evaluation": Evaluation(operating_point={"sensitivity": 0.9})},
            "Operating point",
            "sensitivity of at least 0.9",
        ),
        ({"training": Training(local_steps=5)}, "Training", "5 batches at each hospital"),
        (
            {
                "cohort": Cohort(labels=("benign", "malignant"), positive="malignant", unlabelled=True),
                "training": Training(pseudo_labels_after=4),
            },
            "Training",
            "training images without a label are learned from by the model's own word",
        ),
        (
            {"strategy": Strategy(name="fedprox", options={"proximal_mu": 0.1})},
            "Training",
            "fedprox (proximal_mu = 0.1)",
        ),
        (
            {"strategy": Strategy(name="krum", min_sites=3)},
            "Training",
            "After each round: the one hospital's model that is nearest to the others' (Krum).",
        ),
        ({"evaluation": {"early_stopping": {"patience": 3}}}, "Training", "up to 12 rounds of fedavg"),
        ({"evaluation": {"early_stopping": {"patience": 3}}}, "Comparison", "the same rule for when to end before it."),
        ({"evaluation": {"keep": "best"}}, "Model selection", "The model of the round with the best ROC-AUC on valid"),
        ({"cohort": NARROW}, "Cohort", "Body part: BREAST. Scanner made by: GE. Sex: F. Age: 40 to 70 years. Examined"),
        ({"model": STARTED}, "Model", "the last layer where it is of the same labels. Held as they are: features.*."),
        (
            {"model": Model(name="enhanced-alexnet", options={"dropout": 0.2})},
            "Model",
            "enhanced-alexnet (dropout = 0.2)",
        ),
    ],
)
def test_the_method_follows_the_study(results: Results, sections: dict[str, object], topic: str, wanted: str) -> None:
    assert wanted in dict(method_wording.method(with_spec(results, **sections)))[topic]
    assert wanted not in dict(method_wording.method(results))[topic]


NO_EFFECT = "No effect of a hospital was modelled"
ALL_LABELLED = "Patients without a label are left out."


@pytest.mark.parametrize(
    ("sections", "wanted", "gone"),
    [
        (
            {"cohort": NARROW},
            "| Who is included | Patients with US images and one of the labels benign or malignant. Body part: BREAST.",
            "patients labelled",
        ),
        (
            {"cohort": NARROW.model_copy(update={"unlabelled": True}), "training": Training(pseudo_labels_after=4)},
            "Patients without a label learn too and are not tested.",
            ALL_LABELLED,
        ),
        (
            {**TABLE, "input": TableInput(kind="table", features=("age",), missing="leave-out")},
            f"{ALL_LABELLED} A missing value leaves its row out.",
            "A missing value is",
        ),
        (
            {**TABLE, "input": TableInput(kind="table", features=("age", "volume"), combat=("age", "volume"))},
            "hospital and overall. What each hospital adds to age and volume is taken out (ComBat).",
            NO_EFFECT,
        ),
        ({"strategy": Strategy(name="ditto")}, "overall. Each hospital keeps a model of its own beside", NO_EFFECT),
        (
            {
                "strategy": Strategy(name="fedbn"),
                "model": Model(name="resnet10", options={"norm": "batch"}),
                "training": Training(batch_norm="local"),
            },
            "overall. Statistics of BatchNorm layers stay at each hospital.",
            NO_EFFECT,
        ),
        (
            {"evaluation": {"keep": "best", "early_stopping": {"patience": 3}}},
            "best ROC-AUC on validation patients. Training ends when the ROC-AUC on validation patients has not",
            "no round was picked by its result",
        ),
        (
            {"evaluation": {"early_stopping": {"patience": 1}}},
            "The model after the last round. Training ends when",
            "no round was picked by its result",
        ),
        ({"evaluation": {"early_stopping": {"patience": 1}}}, "fedavg over up to 12 rounds", "over 12 rounds"),
        (
            {"model": STARTED},
            "Held as they are: features.\\*. Layers without such weights are random, from the seed (42, 7).",
            "Random, from the seed",
        ),
        (
            {"split": Split(kind="leave-site-out", site="harbour-clinic")},
            "| Goal of the study | Model development. Tested only at harbour-clinic, which did not train; no patient",
            "Tested on held-out patients",
        ),
    ],
)
def test_the_card_answers_as_the_study_is(
    results: Results, sections: dict[str, object], wanted: str, gone: str
) -> None:
    card = render_model_card(with_spec(results, **sections))
    assert wanted in card
    assert gone not in card
    assert wanted not in render_model_card(results)


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [(0.001, 0.001, "can still be told"), (0.001, 0.4, "can no longer be told"), (0.3, 0.4, "could not be told")],
)
def test_the_site_effect_is_told_where_there_is_one(results: Results, before: float, after: float, wanted: str) -> None:
    effect = SiteEffect(accuracy=0.87, chance=1 / 3, chance_low=0.25, chance_high=0.42, p_value=before, patients=90)
    changed = SiteEffectChange(before=effect, after=effect.model_copy(update={"accuracy": 0.41, "p_value": after}))
    page = render_report(results.model_copy(update={"site_effect": changed}))
    assert "was 0.87 on images only brought to size, 0.41 on the model’s input; guessing gives 0.33 (0.25–0.42)" in page
    assert wanted in page
    assert "guessing gives" not in render_report(results.model_copy(update={"site_effect": None}))


@pytest.mark.parametrize(
    ("sections", "tested"),
    [
        (
            {"split": Split(kind="leave-site-out", site="harbour-clinic")},
            "Tested only at harbour-clinic, which did not train; no patient of a hospital that trained was tested.",
        ),
        (
            {
                "sites": (
                    {"name": "north-university"},
                    {"name": "harbour-clinic", "role": "evaluate"},
                    {"name": "valley-hospital"},
                )
            },
            "Tested on held-out patients of the hospitals that trained, and at harbour-clinic, which did not train.",
        ),
    ],
)
def test_a_hospital_that_did_not_train_is_named(results: Results, sections: dict[str, object], tested: str) -> None:
    assert "no hospital outside the training was tested" in method_wording.tested_where(results)
    outside = with_spec(results, **sections)
    local = "harbour-clinic did not train: “Local only” is there a mean over the models that the other hospitals"
    for render in (render_model_card, render_report):
        assert tested in render(outside)
        assert local in render(outside)
        assert "“Local only” is there" not in render(results)
