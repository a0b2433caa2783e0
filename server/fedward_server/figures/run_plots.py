"""Draws the `pictures` of a run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from fedward_common.metrics.froc import RATES
from fedward_server.figures import plots
from fedward_server.figures.blocks import METRIC_TITLES, MODEL_TITLES
from fedward_server.figures.curves import calibration_points
from fedward_server.figures.drawing import (
    LOOKS,
    MOST,
    MUTED,
    SERIES,
    Look,
    add_legend,
    new_canvas,
    panel_inches,
    png_file,
    svg_file,
)
from fedward_server.figures.groups import title
from fedward_server.figures.pictures import labelled
from fedward_server.figures.plots import Line, Panel, Row
from fedward_server.figures.pooling import RANKED
from fedward_server.figures.run_figures import EVERYBODY, RunFigures

_SITES = tuple(look._replace(width=1.2) for look in SERIES if look != LOOKS["federated"])
_ONE_OF_MANY = Look(MUTED, "-", "o", "white", 0.7)
_SQUARE = (4.4, 4.3)  # inches of a panel that stands alone

Drawing = tuple[tuple[float, float], Callable[[Canvas], None]]
"""Inches, and what draws."""


def draw(run: RunFigures, name: str, form: str) -> bytes:
    """A picture as "svg" or "png"."""
    inches, paint = _DRAWINGS[name](run)
    with new_canvas(inches, pixels=form == "png") as canvas:
        paint(canvas)
        return png_file(canvas) if form == "png" else svg_file(canvas, name, name).encode()


# Who -----------------------------------------------------------------------------------------------------------------


def _look(run: RunFigures, who: str) -> Look:
    """Everybody's line stands out; many sites look alike."""
    if who == EVERYBODY:
        return LOOKS["federated"]
    return _SITES[run.sites.index(who)] if len(run.sites) <= len(_SITES) else _ONE_OF_MANY


def _order(who: str) -> float:
    """Everybody's line lies over the others."""
    return 3.0 if who == EVERYBODY else 2.0


def _title(run: RunFigures, who: str, figure: str = "") -> str:
    """Of a line in the legend; of many sites one names all."""
    if who == EVERYBODY:
        return f"All hospitals{figure}"
    if len(run.sites) <= len(_SITES):
        return f"{who}{figure}"
    return "Each hospital" if who == run.sites[0] else f"_{who}"  # matplotlib leaves out what begins so


def _drawn(run: RunFigures, held: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The labels of which there is anything, up to `MOST`."""
    return [label for label in run.study.cohort.labels if any(label in own for own in held.values())][:MOST]


def _squares(labels: Sequence[str]) -> tuple[float, float]:
    return _SQUARE if len(labels) == 1 else plots.square_inches(len(labels))


# Classification ------------------------------------------------------------------------------------------------------


def _roc(run: RunFigures) -> Drawing:
    labels = _drawn(run, run.scores)

    def line(who: str, label: str) -> Line:
        block, scores = labelled(run, who).get(label), run.scores[who].get(label)
        curve = None if scores is None else scores.roc()[:2]
        point = None
        if block and block.sensitivity and block.specificity:
            point = (1 - block.specificity.value, block.sensitivity.value)
        area = f" {block.roc_auc.text}" if block and block.roc_auc and len(labels) == 1 else ""
        return Line(_title(run, who, area), _look(run, who), curve, point, order=_order(who))

    shown = {label: Panel([line(who, label) for who in run.scores]) for label in labels}
    words: dict[str, Any] = {"x": "1 − specificity", "y": "Sensitivity", "loc": "lower right"}
    return _squares(labels), lambda canvas: plots.squares(canvas, shown, **words, one_legend=len(labels) > 1)


def _precision_recall(run: RunFigures) -> Drawing:
    labels = _drawn(run, run.scores)

    def line(who: str, label: str) -> Line:
        block, scores = labelled(run, who).get(label), run.scores[who].get(label)
        curve = None if scores is None else scores.precision_recall()[:2]
        point = None
        if block and block.sensitivity and block.precision:
            point = (block.sensitivity.value, block.precision.value)
        return Line(_title(run, who), _look(run, who), curve, point, order=_order(who))

    def panel(label: str) -> Panel:
        first = next(iter(run.scores.values())).get(label)
        share = None if first is None else first.total_positives / (first.total_positives + first.total_negatives)
        chance = None if share is None else ((0, 1), (share, share))
        return Panel([line(who, label) for who in run.scores], chance)

    shown = {label: panel(label) for label in labels}
    words: dict[str, Any] = {"x": "Recall (sensitivity)", "y": "Precision", "loc": "lower left"}
    return _squares(labels), lambda canvas: plots.squares(canvas, shown, **words, one_legend=len(labels) > 1)


def _calibration(run: RunFigures) -> Drawing:
    """Of whoever comes first: of one site alone there are few patients in a group."""
    who = next(iter(run.scores))
    labels = _drawn(run, {who: run.scores[who]})

    def line(label: str) -> Line:
        points = calibration_points(run.scores[who][label])
        curve = [point.predicted for point in points], [point.observed.value for point in points]
        bars = [(point.predicted, point.observed.low, point.observed.high) for point in points]
        return Line(_title(run, who), _look(run, who), curve, bars=bars)

    shown = {label: Panel([line(label)]) for label in labels}
    words: dict[str, Any] = {"x": "Mean score", "y": "Observed share", "loc": "upper left", "marked": True}
    return _squares(labels), lambda canvas: plots.squares(canvas, shown, **words, one_legend=len(labels) > 1)


# Other tasks ---------------------------------------------------------------------------------------------------------


def _froc(run: RunFigures) -> Drawing:
    kinds = _drawn(run, run.froc)

    def line(who: str, kind: str) -> Line:
        found, rates = run.froc[who].get(kind), np.geomspace(RATES[0], RATES[-1], 100)
        curve = None if found is None else (rates, np.interp(rates, found.false_positives, found.sensitivity))
        return Line(_title(run, who), _look(run, who), curve, order=_order(who))

    shown = {kind: [line(who, kind) for who in run.froc] for kind in kinds}
    inches = panel_inches(len(kinds), 3.4) if len(kinds) > 1 else (4.8, 3.8)
    return inches, lambda canvas: plots.froc(canvas, shown, one_legend=len(kinds) > 1)


def _dice(run: RunFigures) -> Drawing:
    rows = [
        (who, structure, spread)
        for structure in _drawn(run, run.dice)
        for who in run.dice
        if (spread := run.dice[who].get(structure)) is not None
    ]

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for place, (who, _, spread) in enumerate(rows):
            plots.box(axes, place, _look(run, who), spread)
        axes.set_yticks(range(len(rows)), [f"{structure}, {who}" for who, structure, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        plots.dice_axis(axes)

    return plots.forest_inches(len(rows)), paint


# Every task ----------------------------------------------------------------------------------------------------------


def _gains(run: RunFigures) -> Drawing:
    def row(who: str) -> Row:
        blocks = {model: block for model in run.models if (block := run.of(who, model)) is not None}
        patients = blocks["federated"].patients
        note = "n withheld" if patients is None else f"n = {patients}"
        figures = {model: block.figure(run.metric) for model, block in blocks.items()}
        if who == EVERYBODY and run.study.study.task in RANKED:  # which models of one hospital each are not together
            figures = {"federated": figures["federated"]}
        return Row(who, note, figures)

    rows = [row(who) for who in (*run.sites, EVERYBODY) if run.of(who) is not None]
    models = {model: MODEL_TITLES[model] for model in run.models}
    measure = METRIC_TITLES[run.metric]
    return plots.gain_inches(len(rows)), lambda canvas: plots.gain(canvas, rows, models, measure)


def _many(patients: int | None) -> str:
    return "" if patients is None else f", n = {patients}"


def _subgroups(run: RunFigures) -> Drawing:
    whole = run.overall["federated"].figure(run.metric)
    several = len(run.study.asked_labels) > 1
    rows = [
        (f"{title(by, name)}{f', {label}' * several}{_many(block.patients)}", figure)
        for by, names in run.groups.items()
        for name, labels in names.items()
        for label, block in labels.items()
        if (figure := block.figure(run.metric)) is not None
    ]
    line = None if several else whole
    return plots.forest_inches(len(rows)), lambda canvas: plots.forest(canvas, rows, line, METRIC_TITLES[run.metric])


def _across(run: RunFigures) -> Drawing:
    cells = {(visit.trained_at, visit.tested_at): visit.figure for visit in run.across if not visit.label}
    makers, testers = (sorted({pair[side] for pair in cells}) for side in (0, 1))
    inches = (2.4 + 0.85 * len(testers), 1.4 + 0.5 * len(makers))
    return inches, lambda canvas: plots.matrix(canvas, makers, testers, cells, METRIC_TITLES[run.metric])


def _learning(run: RunFigures) -> Drawing:
    primary = run.study.evaluation.primary
    title = "loss" if primary == "loss" else METRIC_TITLES[run.metric]
    return _over_rounds(run, {"primary": ""}, f"Validation {title}")


def _losses(run: RunFigures) -> Drawing:
    return _over_rounds(run, {"train_loss": "training", "validation_loss": "validation"}, "Loss")


def _over_rounds(run: RunFigures, keys: Mapping[str, str], label: str) -> Drawing:
    """Everybody's values over rounds, the first of the `keys` of each site; each stage begins anew."""

    def paint(canvas: Canvas) -> None:
        axes, first = canvas.add_subplot(), next(iter(keys))
        for who in run.history:
            for key, word in keys.items():
                look = _look(run, who)
                if word == "training" and who == EVERYBODY:
                    look = look._replace(line="--")
                if who == EVERYBODY or key == first:
                    name = _title(run, who, f", {word}" * (who == EVERYBODY and bool(word)))
                    for number, values in enumerate(_stages(run, who, key)):
                        style: dict[str, Any] = {"color": look.colour, "linestyle": look.line, "linewidth": look.width}
                        style["zorder"] = _order(who)
                        plots.over_rounds(axes, values, **style, label=f"_{name}" if number else name)
        axes.axvline(run.result.kept_round, color=MUTED, linewidth=0.8, linestyle=":", label="Kept model")
        plots.rounds_axis(axes, len(run.result.history), label)
        add_legend(axes, loc="best")

    return (5.0, 3.6), paint


def _stages(run: RunFigures, who: str, key: str) -> list[dict[int, float]]:
    """By stage, a value of each of its rounds; not of layers that learn alone, whose loss is another."""
    found: dict[str, dict[int, float]] = {}
    for row in run.history[who]:
        number, value = row["round"], row.get(key)
        if value is not None and run.study.layer(number) is None:
            found.setdefault(run.stage(number), {})[number] = value
    return list(found.values())


def _layers(run: RunFigures) -> Drawing:
    found: dict[int, dict[int, float]] = {}
    for row in next(iter(run.history.values())):
        layer = run.study.layer(row["round"])
        if layer is not None:
            found.setdefault(layer, {})[row["round"]] = row["train_loss"]
    shares = {
        layer: {number: value / first for number, value in values.items()}
        for layer, values in found.items()
        if (first := values[min(values)])
    }
    last = sum(phase.rounds for phase in run.study.phases)
    return (5.0, 3.6), lambda canvas: plots.layers(canvas, shares, last)


_DRAWINGS: Mapping[str, Callable[[RunFigures], Drawing]] = {
    "gains": _gains,
    "roc": _roc,
    "precision-recall": _precision_recall,
    "calibration": _calibration,
    "froc": _froc,
    "dice": _dice,
    "subgroups": _subgroups,
    "across": _across,
    "learning": _learning,
    "losses": _losses,
    "layers": _layers,
}
