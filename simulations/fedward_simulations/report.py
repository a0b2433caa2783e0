"""The report of a run: one offline page for clinicians, the model card beside it, a table for the terminal.

The page loads nothing, needs no script and forbids both in its own policy. Every word that comes from a study or a site
is escaped. The same results give the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedward_common import pages
from fedward_server.figures.blocks import METRIC_TITLES, MODEL_TITLES, PLAIN_TITLES
from fedward_simulations import method_wording, wording
from fedward_simulations.results import (
    Block,
    Figure,
    Metric,
    ModelName,
    OverallBlock,
    Results,
    SiteReport,
    write_atomic,
)


class Cell(NamedTuple):
    """A figure as the page shows it."""

    value: str
    interval: str
    sd: str


class Row(NamedTuple):
    """One metric of one group of patients: a cell a model, None where the block is withheld as a whole."""

    title: str
    cells: tuple[Cell | None, ...]


class Group(NamedTuple):
    """One hospital, or all of them: its rows and, per model, why nothing is shown."""

    title: str
    note: str
    rows: tuple[Row, ...]
    withheld: tuple[str | None, ...]
    remarks: tuple[str, ...]

    @property
    def hidden(self) -> str | None:
        """The one reason why nothing of the group is shown."""
        return self.withheld[0] if len(set(self.withheld)) == 1 else None


class Tile(NamedTuple):
    """A number to be read from across the room."""

    title: str
    value: str
    note: str


class Bar(NamedTuple):
    """One label's share of a hospital's patients, in percent of the bar's width."""

    label: str
    percent: str


class Hospital(NamedTuple):
    """A hospital's data, in words."""

    name: str
    patients: str
    sides: str
    images: str
    labels: str
    bars: tuple[Bar, ...]
    left_out: tuple[str, ...]
    quarantined: tuple[str, ...]
    origin: tuple[str, ...]


class Plot(NamedTuple):
    """One figure."""

    svg: str
    title: str
    caption: str
    wide: bool


def write_report(results: Results, out: Path) -> None:
    """Write report.html and model-card.md into the folder `out`, each atomically."""
    from fedward_simulations.model_card import render_model_card

    write_atomic(out / "report.html", render_report(results))
    write_atomic(out / "model-card.md", render_model_card(results))


def render_report(results: Results) -> str:
    """The page."""
    return pages.render("fedward_simulations", "report.html", _context(results))


def _context(results: Results) -> dict[str, Any]:
    from fedward_simulations import subgroup_report

    models = wording.shown(results)
    return {
        "results": results,
        "study": results.study,
        "headline": wording.headline(results),
        "verdict": wording.verdict(results),
        "tiles": _tiles(results),
        "models": [(model, MODEL_TITLES[model]) for model in models],
        "groups": [*_site_groups(results, models), _overall_group(results, models), _mean_group(results, models)],
        "alone": method_wording.alone_text(results),
        "subgroups": subgroup_report.rows(results),
        "subgroup_titles": [METRIC_TITLES[metric] for metric in subgroup_report.metrics(results)],
        "subgroup_notes": subgroup_report.notes(results),
        "cost": _cost(results),
        "plots": _plots(results),
        "hospitals": [
            _hospital(report, wording.SOURCES[results.study.spec.input.kind]) for report in results.site_reports
        ],
        "participation": _participation(results),
        "method": method_wording.method(results),
        "limits": [*method_wording.limits(results), *subgroup_report.limits(results)],
        "research_use": wording.RESEARCH_USE,
        "created": f"{results.created:%d %B %Y, %H:%M} {results.created.tzname()}",
        "provenance": _provenance(results),
    }


def _tiles(results: Results) -> list[Tile]:
    seeds = f", mean over {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
    tiles, metric = [], results.study.headline
    for model in wording.shown(results):
        overall: OverallBlock = getattr(results.overall, model)
        note = f"mean {METRIC_TITLES[metric]} of {wording.plural(overall.mean.sites, 'hospital')}{seeds}"
        tiles.append(Tile(MODEL_TITLES[model], wording.number(overall.mean.figure(metric)), note))
    return tiles


def _site_groups(results: Results, models: list[ModelName]) -> list[Group]:
    return [
        _group(
            results, site.name, f"{wording.plural(site.patients, 'patient')}", [site.block(model) for model in models]
        )
        for site in results.sites
    ]


def _overall_group(results: Results, models: list[ModelName]) -> Group:
    blocks = [getattr(results.overall, model) for model in models]
    patients = sum(site.patients for site in results.sites)
    return _group(results, "All hospitals together", wording.plural(patients, "patient"), blocks)


def _group(results: Results, title: str, note: str, blocks: list[Block | None]) -> Group:
    metrics = wording.metrics_shown(results)
    rows = tuple(
        Row(METRIC_TITLES[metric], tuple(_block_cell(block, metric) for block in blocks)) for metric in metrics
    )
    rows += tuple(
        Row(name, tuple(None if block is None else _plain_cell(getattr(block, key)) for block in blocks))
        for key, name in PLAIN_TITLES.items()
        if any(block is not None and getattr(block, key) is not None for block in blocks)
    )
    rows += _label_rows(blocks, metrics)
    withheld = tuple(_withheld(block, metrics) for block in blocks)
    remarks = {block.withheld for block, reason in zip(blocks, withheld, strict=True) if block and not reason}
    return Group(title, f"{note}, {_tested(blocks)}", rows, withheld, tuple(sorted(filter(None, remarks))))


def _label_rows(blocks: list[Block | None], metrics: list[Metric]) -> tuple[Row, ...]:
    """Each label's figures, where there are several: of one against the rest, a structure, a kind of finding."""
    labels = dict.fromkeys(label for block in blocks if block is not None for label in block.labels)
    return tuple(
        Row(
            f"{METRIC_TITLES[metric]}: {label}",
            tuple(None if block is None else _cell(_of_label(block, label, metric)) for block in blocks),
        )
        for label in labels
        for metric in metrics
        if any(block is not None and _of_label(block, label, metric) for block in blocks)
    )


def _of_label(block: Block, label: str, metric: Metric) -> Figure | None:
    return block.labels[label].figure(metric) if label in block.labels else None


def _tested(blocks: list[Block | None]) -> str:
    known = [block for block in blocks if block is not None and block.patients is not None]
    if not known:
        return "number tested withheld"
    block = known[-1]
    if block.positives is None or block.negatives is None:
        return f"{wording.count(block.patients)} tested"
    return f"{wording.count(block.patients)} tested ({block.positives} positive, {block.negatives} negative)"


def _withheld(block: Block | None, metrics: list[Metric]) -> str | None:
    """Why a column shows nothing; None when it shows something."""
    if block is None:
        return "not trained"
    if block.labels or any(block.figure(metric) for metric in metrics):
        return None
    return f"withheld: {block.withheld}"


def _block_cell(block: Block | None, metric: Metric) -> Cell | None:
    return None if block is None else _cell(block.figure(metric))


def _cell(figure: Figure | None) -> Cell:
    if figure is None:
        return Cell("–", "", "")
    return _plain_cell(figure.value, figure.sd)._replace(interval=wording.interval(figure))


def _plain_cell(value: float | None, sd: float | None = None) -> Cell:
    return Cell(wording.number(value), "", "" if sd is None else f"± {wording.number(sd)}")


def _mean_group(results: Results, models: list[ModelName]) -> Group:
    means = [getattr(results.overall, model).mean for model in models]
    headline = results.study.headline
    rows = tuple(
        Row(
            METRIC_TITLES[metric],
            tuple(_plain_cell(mean.figure(metric), mean.sd if metric == headline else None) for mean in means),
        )
        for metric in wording.metrics_shown(results)
    )
    note = f"each hospital counts once; {wording.plural(means[0].sites, 'hospital')} with figures for every model"
    return Group("Mean over hospitals", note, rows, tuple(None for _ in models), ())


def _cost(results: Results) -> list[Tile]:
    traffic = results.bytes_per_site_per_round
    share = wording.percent(results.training_share)
    return [
        Tile("Sent", wording.size(traffic.up), "to the hub, per hospital and round"),
        Tile("Received", wording.size(traffic.down), "from the hub, per hospital and round"),
        Tile("Time per round", wording.duration(results.seconds_per_round), _rounds(results)),
        Tile("In training", share, "of the rounds’ time; the rest is transfer, waiting and scoring"),
        Tile("Whole run", wording.duration(results.wall_s), "all seeds and comparisons"),
    ]


def _rounds(results: Results) -> str:
    several = f" for each of {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
    return f"{wording.plural(results.rounds, 'round')}{several}"


def _plots(results: Results) -> list[Plot]:
    from fedward_simulations import learning_plots, plots, subgroup_report, task_plots

    several, by_label = len(results.seeds) > 1, len(results.study.spec.asked_labels) > 1
    averaged = ", averaged over the seeds" if several else ""
    against = ", each label against the rest" if by_label else ""
    at_point = " The markers are the operating points." if wording.has_threshold(results) else ""
    seed = f" Seed {results.runs[0].seed}." if several else ""
    found = [
        Plot(
            plots.gain(results), "Who gains", "Each hospital’s own test patients. Lines are 95 % intervals.", wide=True
        )
    ]
    if any(block.figure(results.study.headline) for *_, block in subgroup_report.blocks(results)):
        caption = f"The federated model on groups of test patients{averaged}. A grey line is that of all of them."
        found.append(Plot(subgroup_report.forest(results), "Groups of patients", caption, wide=True))
    if any(run.roc for run in results.runs):
        caption = f"All hospitals’ test patients{against}{averaged}.{at_point}"
        found.append(Plot(plots.roc(results), "ROC curves", caption, wide=by_label))
    if any(run.precision_recall for run in results.runs):
        share = "The grey line is the share of patients with the finding."
        caption = f"All hospitals’ test patients{against}{averaged}. {share}"
        found.append(Plot(plots.precision_recall(results), "Precision–recall curves", caption, wide=by_label))
    if results.runs[0].calibration:
        caption = f"On the grey line, a score means what it says.{seed}"
        found.append(Plot(plots.calibration(results), "Calibration", caption, wide=by_label))
    if any(run.froc for run in results.runs):
        caption = f"All hospitals’ test patients{averaged}. Further up and left is better."
        found.append(Plot(task_plots.froc(results), "FROC curves", caption, wide=len(results.study.labels) > 1))
    if any(run.dice for run in results.runs):
        caption = f"Over all hospitals’ test patients{averaged}; in part modelled from histograms."
        found.append(Plot(task_plots.dice(results), "Spread of Dice", caption, wide=True))
    if results.study.spec.phases:
        caption = f"Layers that learned alone, one after the other, without labels{averaged}."
        found.append(Plot(learning_plots.layers(results), "Learning without labels", caption, wide=False))
    if results.study.spec.split.folds is not None:  # of whose rounds nothing is told on validation patients
        caption = f"Per round{averaged}. Each fold begins anew, and so does the model of all patients at the end."
        return [*found, Plot(learning_plots.losses(results), "Loss", caption, wide=False)]
    caption = f"Per round{averaged}. Thin: validation loss, local only."
    found.append(Plot(learning_plots.losses(results), "Loss", caption, wide=False))
    found.append(
        Plot(learning_plots.primary(results), "Learning curve", f"On validation patients{averaged}.", wide=False)
    )
    return found


def _hospital(report: SiteReport, source: str) -> Hospital:
    k = report.min_cell
    sides = [f"{wording.told(many)} {side}" for side, many in report.sides.items()]
    syntaxes = [f"{name} ({wording.told(many)})" for name, many in report.transfer_syntaxes.items()]
    modalities = [f"{name} ({wording.told(many)})" for name, many in report.modalities.items()]
    return Hospital(
        name=report.name,
        patients=f"{wording.told(report.patients)} patients, {wording.told(report.labelled)} labelled",
        images=f"{wording.told(report.images)} {source}",
        sides=", ".join(sides),
        labels=wording.labels_text(report),
        bars=_bars(report.labels),
        left_out=_reasons(report.left_out, k),
        quarantined=_reasons(report.quarantined, k),
        origin=(*report.scanners, *modalities, *syntaxes),
    )


def _bars(labels: Mapping[str, int | None]) -> tuple[Bar, ...]:
    """The label balance as a bar; none when a count stayed home, as the bar would tell it."""
    counts = [many for many in labels.values() if many is not None]
    total = sum(counts)
    if len(counts) < len(labels) or not total:
        return ()
    return tuple(Bar(label, f"{100 * many / total:.1f}") for label, many in zip(labels, counts, strict=True))


def _reasons(reasons: Mapping[str, int | None], min_cell: int) -> tuple[str, ...]:
    return tuple(f"{reason}: {wording.count(many, min_cell)}" for reason, many in reasons.items())


def _participation(results: Results) -> list[tuple[str, str, str]]:
    return [
        (
            name,
            f"{part.rounds} of {part.of}",
            "; ".join(f"{reason} ({wording.plural(times, 'round')})" for reason, times in part.missed.items()) or "–",
        )
        for name, part in results.participation.items()
    ]


def _provenance(results: Results) -> list[tuple[str, str, bool]]:
    """(what, value, whether it is a code)."""
    models = [(f"Model SHA-256, seed {run.seed}", run.model_sha256, True) for run in results.runs]
    return [
        ("Study", f"{results.study.id}, {results.study.task}", False),
        ("Study digest", results.study.digest, True),
        *models,
        ("Seeds", ", ".join(map(str, results.seeds)), False),
        ("Engine", results.engine, False),
        ("Fedward", results.fedward, False),
        ("Packages", ", ".join(f"{name} {version}" for name, version in sorted(results.versions.items())), False),
    ]


def print_table(results: Results, console: Console) -> None:
    """The result on a terminal: one line a hospital, a figure a model, the headline beneath."""
    metric = results.study.headline
    table = Table(title=escape(results.study.title), title_justify="left", caption_justify="left")
    table.add_column("Hospital", overflow="fold")
    table.add_column("Patients", justify="right")
    models = wording.shown(results)
    for model in models:
        table.add_column(f"{MODEL_TITLES[model]}\n{METRIC_TITLES[metric]} (95 %)", justify="right")
    for site in results.sites:
        cells = [_terminal_cell(site.block(model), metric) for model in models]
        table.add_row(escape(site.name), wording.count(site.patients), *cells)
    table.add_section()
    total = sum(site.patients for site in results.sites)
    blocks: list[OverallBlock] = [getattr(results.overall, model) for model in models]
    table.add_row("all together", wording.count(total), *(_terminal_cell(block, metric) for block in blocks))
    table.add_row("mean over hospitals", "", *(wording.number(block.mean.figure(metric)) for block in blocks))
    console.print(table)
    console.print(escape(wording.headline(results)), highlight=False)
    for sentence in wording.verdict(results):
        console.print(escape(sentence), highlight=False)


def _terminal_cell(block: Block | None, metric: Metric) -> str:
    if block is None:
        return "not trained"
    figure = block.figure(metric)
    return wording.figure_text(figure) if figure else "withheld"
