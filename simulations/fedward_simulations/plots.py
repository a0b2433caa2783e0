"""The report's figures as inline SVG: text stays text, the same results give the same bytes, nothing is fetched."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward_server.figures.blocks import METRIC_TITLES, MODEL_TITLES
from fedward_server.figures.drawing import LOOKS, MOST, SERIES, new_canvas, svg_file, svg_text
from fedward_server.figures.plots import (
    SPREAD,
    Line,
    Panel,
    Row,
    gain_inches,
    square_inches,
    squares,
)
from fedward_server.figures.plots import gain as draw_gain
from fedward_simulations.results import Block, ModelName, PrecisionRecall, Results
from fedward_simulations.wording import figure_text, number, shown

GRID = np.linspace(0.0, 1.0, 201)

Floats = npt.NDArray[np.float64]


def drawn_labels(results: Results, held: Sequence[Mapping[ModelName, Mapping[str, Any]]]) -> list[str]:
    """The study's labels of which anything is drawn, up to `MOST`."""
    drawn = {label for run in held for labels in run.values() for label in labels}
    return [label for label in results.study.labels if label in drawn][:MOST]


def roc(results: Results) -> str:
    """ROC curves of all hospitals' test patients, the diagonal, and each model at its operating point; a panel a label.

    Over several seeds: the mean true positive rate at each false positive rate (vertical averaging, Fawcett 2006).
    """
    labels = drawn_labels(results, [run.roc for run in results.runs])

    def line(model: ModelName, label: str) -> Line:
        block, point = _block(results, model, label), None
        if block is not None and block.sensitivity is not None and block.specificity is not None:
            point = (1 - block.specificity.value, block.sensitivity.value)
        return Line(_roc_label(results, model, label), LOOKS[model], _mean_curve(results, model, label), point)

    shown_panels = {label: Panel([line(model, label) for model in shown(results)]) for label in labels}
    with new_canvas(square_inches(len(labels))) as canvas:
        squares(canvas, shown_panels, x="1 − specificity", y="Sensitivity", loc="lower right")
        return svg_text(canvas, "roc", roc_alt(results))


def roc_alt(results: Results) -> str:
    """The ROC figure in words."""
    said = _said(results, drawn_labels(results, [run.roc for run in results.runs]), _roc_label)
    return f"ROC curves of all hospitals’ test patients. Area under the curve: {said}."


def _said(results: Results, labels: Sequence[str], words: Callable[[Results, ModelName, str], str]) -> str:
    """`words` of each label and model; the label is named where there are several."""
    parts = ("; ".join(words(results, model, label) for model in shown(results)) for label in labels)
    return "; ".join(f"{label}: {part}" if len(labels) > 1 else part for label, part in zip(labels, parts, strict=True))


def _block(results: Results, model: ModelName, label: str) -> Block | None:
    block: Block = getattr(results.overall, model)
    return block.of_label(label)


def _roc_label(results: Results, model: ModelName, label: str) -> str:
    block = _block(results, model, label)
    return f"{MODEL_TITLES[model]} {number(block.roc_auc.value if block and block.roc_auc else None)}"


def _mean_curve(results: Results, model: ModelName, label: str) -> tuple[Floats, Floats] | None:
    curves = [run.roc[model][label] for run in results.runs if label in run.roc.get(model, {})]
    if not curves:
        return None
    if len(curves) == 1:
        return np.asarray(curves[0].fpr), np.asarray(curves[0].tpr)
    mean = np.mean([np.interp(GRID, curve.fpr, curve.tpr) for curve in curves], axis=0)
    return np.concatenate(([0.0], GRID)), np.concatenate(([0.0], mean))


def precision_recall(results: Results) -> str:
    """Precision over recall of all hospitals' test patients, in steps; the share of positives is what chance gives.

    A panel a label. Over several seeds: the mean precision at each recall.
    """
    labels = drawn_labels(results, [run.precision_recall for run in results.runs])

    def line(model: ModelName, label: str) -> Line:
        block, point = _block(results, model, label), None
        if block is not None and block.sensitivity is not None and block.precision is not None:
            point = (block.sensitivity.value, block.precision.value)
        held = [run.precision_recall.get(model, {}) for run in results.runs]
        curves = [_steps(curves[label]) for curves in held if label in curves]
        curve = (GRID, np.mean(curves, axis=0)) if curves else None
        return Line(_precision_label(results, model, label), LOOKS[model], curve, point)

    def panel(label: str) -> Panel:
        block = _block(results, "federated", label)
        share = block.positives / block.patients if block and block.positives is not None and block.patients else None
        chance = None if share is None else ((0, 1), (share, share))
        return Panel([line(model, label) for model in shown(results)], chance)

    with new_canvas(square_inches(len(labels))) as canvas:
        panels = {label: panel(label) for label in labels}
        squares(canvas, panels, x="Recall (sensitivity)", y="Precision", loc="lower left")
        return svg_text(canvas, "precision-recall", precision_recall_alt(results))


def precision_recall_alt(results: Results) -> str:
    """The precision-recall figure in words."""
    labels = drawn_labels(results, [run.precision_recall for run in results.runs])
    said = _said(results, labels, _precision_label)
    return f"Precision–recall curves of all hospitals’ test patients. Average precision: {said}."


def _precision_label(results: Results, model: ModelName, label: str) -> str:
    block = _block(results, model, label)
    return f"{MODEL_TITLES[model]} {number(block.average_precision if block else None)}"


def _steps(curve: PrecisionRecall) -> Floats:
    """The precision of the point that first reaches each recall of `GRID`; at 0, of the first that has any."""
    place = np.searchsorted(curve.recall, np.maximum(GRID - 1e-9, 1e-9))
    return np.asarray(curve.precision)[np.minimum(place, len(curve.precision) - 1)]


def calibration(results: Results) -> str:
    """Reliability: the observed share of positives against the mean score, in groups of patients; first seed.

    A panel a label; with several, Brier scores would not fit into the legend.
    """
    held = results.runs[0].calibration
    labels = drawn_labels(results, [held])

    def line(model: ModelName, label: str) -> Line:
        points = held.get(model, {}).get(label, ())
        curve = [point.predicted for point in points], [point.observed.value for point in points]
        name = _brier_label(results, model) if len(labels) == 1 else MODEL_TITLES[model]
        bars = [(point.predicted, point.observed.low, point.observed.high) for point in points]
        return Line(name, LOOKS[model], curve if points else None, bars=bars if model == "federated" else ())

    panels = {label: Panel([line(model, label) for model in shown(results)]) for label in labels}
    with new_canvas(square_inches(len(labels))) as canvas:
        words: dict[str, Any] = {"x": "Mean score", "y": "Observed share", "loc": "upper left"}
        squares(canvas, panels, **words, marked=True, one_legend=len(labels) > 1)
        return svg_text(canvas, "calibration", calibration_alt(results))


def calibration_alt(results: Results) -> str:
    """The calibration figure in words."""
    labels = drawn_labels(results, [results.runs[0].calibration])
    said = "; ".join(
        f"{label}, score {number(point.predicted)}, observed {number(point.observed.value)}"
        for label in labels
        for point in results.runs[0].calibration.get("federated", {}).get(label, ())
    )
    return f"Calibration on all hospitals’ test patients. Federated model: {said or 'too few patients'}."


def _brier_label(results: Results, model: ModelName) -> str:
    block: Block = getattr(results.overall, model)
    return MODEL_TITLES[model] if block.brier is None else f"{MODEL_TITLES[model]}, Brier {number(block.brier)}"


def gain(results: Results) -> str:
    """Who gains: each hospital's headline figure, local only to federated (and pooled data), with 95 % intervals."""
    metric, models = results.study.headline, shown(results)
    held = [(site.name, {model: site.block(model) for model in models}) for site in results.sites]
    held.append(("all hospitals", {model: getattr(results.overall, model) for model in models}))
    rows = [
        Row(name, _tested(blocks), {model: block.figure(metric) for model, block in blocks.items() if block})
        for name, blocks in held
    ]
    with new_canvas(gain_inches(len(rows))) as canvas:
        draw_gain(canvas, rows, {model: MODEL_TITLES[model] for model in models}, METRIC_TITLES[metric])
        return svg_text(canvas, "gain", gain_alt(results))


def gain_alt(results: Results) -> str:
    """The dumbbell figure in words."""
    metric = results.study.headline
    said = [
        f"{site.name}: "
        + ", ".join(
            f"{MODEL_TITLES[model].lower()} {figure_text(figure) if (figure := block.figure(metric)) else 'withheld'}"
            for model in shown(results)
            if (block := site.block(model)) is not None
        )
        for site in results.sites
    ]
    return f"{METRIC_TITLES[metric]} at each hospital. {'; '.join(said)}."


def _tested(blocks: Mapping[ModelName, Block | None]) -> str:
    block = blocks["federated"]
    patients = None if block is None else block.patients
    return "n withheld" if patients is None else f"n = {patients}"


def ways(name: str, areas: Mapping[str, Mapping[str, Sequence[float]]], *, axis: str, joined: bool) -> str:
    """A file of its own: the mean ROC-AUC of each way at each place on the axis, and its standard deviation over seeds.

    At most as many ways as `SERIES`.
    """
    with new_canvas((7.2, 3.6)) as canvas:
        axes = canvas.add_subplot()
        shifts = np.linspace(-SPREAD, SPREAD, len(areas))
        for (way, places), look, shift in zip(areas.items(), SERIES[: len(areas)], shifts, strict=True):
            means, spreads = (
                [np.mean(each) for each in places.values()],
                [np.std(each, ddof=1) for each in places.values()],
            )
            stroke: dict[str, Any] = {
                "color": look.colour,
                "markerfacecolor": look.face,
                "markersize": 6,
                "capsize": 3,
                "label": way,
            }
            line = look.line if joined else "none"
            axes.errorbar(np.arange(len(places)) + shift, means, spreads, fmt=look.marker, linestyle=line, **stroke)
        axes.set(xlabel=axis, ylabel="ROC-AUC, mean and SD over seeds")
        axes.set_xticks(range(len(places)), list(places))
        axes.set_xlim(-0.5, len(places) - 0.5)
        canvas.legend(loc="outside upper left", ncols=2)
        return svg_file(canvas, name, ways_alt(areas))


def ways_alt(areas: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """The figure of the ways in words."""
    said = (
        f"{way}: {', '.join(f'{number(float(np.mean(values)))} at {place}' for place, values in places.items())}"
        for way, places in areas.items()
    )
    return f"ROC-AUC, mean over seeds. {'; '.join(said)}."
