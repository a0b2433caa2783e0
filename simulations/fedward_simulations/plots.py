"""The report's figures as inline SVG: text stays text, the same results give the same bytes, nothing is fetched."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from fedward_simulations.drawing import (
    LOOKS,
    MUTED,
    RULE,
    SERIES,
    add_legend,
    drawn_labels,
    line_style,
    new_canvas,
    panel_inches,
    panel_title,
    panels,
    svg_text,
)
from fedward_simulations.results import Block, Figure, Metric, ModelName, PrecisionRecall, Results
from fedward_simulations.wording import METRIC_TITLES, MODEL_TITLES, figure_text, number, shown

SPREAD = 0.2  # of a hospital's models above and below its row
GRID = np.linspace(0.0, 1.0, 201)

Floats = npt.NDArray[np.float64]


def roc(results: Results) -> str:
    """ROC curves of all hospitals' test patients, the diagonal, and each model at its operating point; a panel a label.

    Over several seeds: the mean true positive rate at each false positive rate (vertical averaging, Fawcett 2006).
    """
    labels = drawn_labels(results, [run.roc for run in results.runs])
    with new_canvas(_squares(labels)) as canvas:
        for axes, label in zip(panels(canvas, len(labels)), labels, strict=True):
            axes.plot([0, 1], [0, 1], color=RULE, linewidth=1.0)
            for model in shown(results):
                curve = _mean_curve(results, model, label)
                if curve is not None:
                    axes.plot(*curve, label=_roc_label(results, model, label), **line_style(model))
            for model in shown(results):
                _operating_point(axes, model, _block(results, model, label))
            _unit_square(axes, "1 − specificity", "Sensitivity")
            panel_title(axes, label, labels)
            add_legend(axes, loc="lower right")
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


def _operating_point(axes: Axes, model: ModelName, block: Block | None) -> None:
    if block is not None and block.sensitivity is not None and block.specificity is not None:
        _marker(axes, model, (1 - block.specificity.value, block.sensitivity.value))


def _marker(axes: Axes, model: ModelName, point: tuple[float, float]) -> None:
    look, order = LOOKS[model], 6 if model == "federated" else 5
    axes.plot(*point, look.marker, markersize=7, markerfacecolor=look.face, markeredgecolor=look.colour, zorder=order)


def precision_recall(results: Results) -> str:
    """Precision over recall of all hospitals' test patients, in steps; the share of positives is what chance gives.

    A panel a label. Over several seeds: the mean precision at each recall.
    """
    labels = drawn_labels(results, [run.precision_recall for run in results.runs])
    with new_canvas(_squares(labels)) as canvas:
        for axes, label in zip(panels(canvas, len(labels)), labels, strict=True):
            block = _block(results, "federated", label)
            if block is not None and block.positives is not None and block.patients:
                axes.plot([0, 1], [block.positives / block.patients] * 2, color=RULE, linewidth=1.0)
            for model in shown(results):
                held = [run.precision_recall.get(model, {}) for run in results.runs]
                curves = [_steps(curves[label]) for curves in held if label in curves]
                if curves:
                    said = _precision_label(results, model, label)
                    axes.plot(GRID, np.mean(curves, axis=0), label=said, **line_style(model))
            for model in shown(results):
                _calls(axes, model, _block(results, model, label))
            _unit_square(axes, "Recall (sensitivity)", "Precision")
            panel_title(axes, label, labels)
            add_legend(axes, loc="lower left")
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


def _calls(axes: Axes, model: ModelName, block: Block | None) -> None:
    if block is not None and block.sensitivity is not None and block.precision is not None:
        _marker(axes, model, (block.sensitivity.value, block.precision.value))


def calibration(results: Results) -> str:
    """Reliability: the observed share of positives against the mean score, in groups of patients; first seed.

    A panel a label; with several, Brier scores would not fit into the legend.
    """
    held = results.runs[0].calibration
    labels = drawn_labels(results, [held])
    with new_canvas(_squares(labels)) as canvas:
        for axes, label in zip(panels(canvas, len(labels)), labels, strict=True):
            axes.plot([0, 1], [0, 1], color=RULE, linewidth=1.0)
            for model in shown(results):
                points = held.get(model, {}).get(label, ())
                if points:
                    x, y = [point.predicted for point in points], [point.observed.value for point in points]
                    name = _brier_label(results, model) if len(labels) == 1 else MODEL_TITLES[model]
                    axes.plot(x, y, label=name, **line_style(model, marked=True))
            for point in held.get("federated", {}).get(label, ()):
                ends = [point.observed.low, point.observed.high]
                axes.plot([point.predicted] * 2, ends, color=LOOKS["federated"].colour, linewidth=0.8)
            _unit_square(axes, "Mean score", "Observed share")
            panel_title(axes, label, labels)
            if len(labels) == 1:
                add_legend(axes, loc="upper left")
        if len(labels) > 1:
            canvas.legend(*canvas.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
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


def _squares(labels: Sequence[str]) -> tuple[float, float]:
    """Inches of a figure with a square panel a label."""
    return panel_inches(len(labels), 3.5 if len(labels) == 1 else 2.7)


def gain(results: Results) -> str:
    """Who gains: each hospital's headline figure, local only to federated (and pooled data), with 95 % intervals."""
    metric = results.study.headline
    rows = [(site.name, {model: site.block(model) for model in shown(results)}) for site in results.sites]
    rows.append(("all hospitals", {model: getattr(results.overall, model) for model in shown(results)}))
    with new_canvas((7.2, 1.0 + 0.62 * len(rows))) as canvas:
        axes = canvas.add_subplot()
        for index, (_, blocks) in enumerate(rows):
            _dumbbell(axes, float(index), blocks, metric)
        names, sizes = [_short(name) for name, _ in rows], [_tested(blocks) for _, blocks in rows]
        axes.set_yticks([index - 0.15 for index in range(len(rows))], names)
        axes.set_yticks([index + 0.19 for index in range(len(rows))], sizes, minor=True)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xlim(_lowest(rows, metric), 1.0)
        axes.set_xlabel(f"{METRIC_TITLES[metric]} with 95 % interval")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", which="both", length=0)
        axes.tick_params(axis="y", which="minor", labelcolor=MUTED)
        axes.spines["left"].set_visible(False)
        axes.axhline(len(rows) - 1.5, color=RULE, linewidth=0.8)
        handles = [
            axes.plot([], [], label=MODEL_TITLES[model], **line_style(model, marked=True))[0]
            for model in shown(results)
        ]
        canvas.legend(handles=handles, loc="outside upper right", ncols=4)
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


def _dumbbell(axes: Axes, row: float, blocks: Mapping[ModelName, Block | None], metric: Metric) -> None:
    heights = dict(zip(blocks, (row + np.linspace(-SPREAD, SPREAD, len(blocks))).tolist(), strict=True))
    local, federated = (block.figure(metric) if (block := blocks[model]) else None for model in ("local", "federated"))
    if local and federated:
        ends = ([local.value, federated.value], [heights["local"], heights["federated"]])
        axes.plot(*ends, color=RULE, linewidth=3.0, zorder=1, solid_capstyle="round")
    for model, block in blocks.items():
        if block is not None:
            _interval(axes, heights[model], model, block.figure(metric))


def _interval(axes: Axes, height: float, model: ModelName, figure: Figure | None) -> None:
    look = LOOKS[model]
    if figure is None:
        said = f"{MODEL_TITLES[model].lower()} withheld"
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "ha": "right", "fontsize": 9}
        axes.text(0.99, height, said, color=MUTED, fontstyle="italic", **place)
        return
    axes.plot([figure.low, figure.high], [height, height], color=look.colour, linestyle=look.line, linewidth=1.2)
    face: dict[str, Any] = {"markerfacecolor": look.face, "markeredgecolor": look.colour}
    axes.plot(figure.value, height, look.marker, markersize=6.5 if model != "pooled" else 5.5, **face)


def _tested(blocks: Mapping[ModelName, Block | None]) -> str:
    block = blocks["federated"]
    patients = None if block is None else block.patients
    return "n withheld" if patients is None else f"n = {patients}"


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"


def _lowest(rows: Sequence[tuple[str, Mapping[ModelName, Block | None]]], metric: Metric) -> float:
    lows = [figure.low for _, blocks in rows for block in blocks.values() if block and (figure := block.figure(metric))]
    return min(0.5, math.floor(10 * min(lows, default=0.5)) / 10)


def ways(name: str, areas: Mapping[str, Mapping[str, Sequence[float]]], *, axis: str, joined: bool) -> str:
    """A file of its own: the mean ROC-AUC of each way at each place on the axis, and its standard deviation over seeds.

    At most as many ways as `SERIES`. It has a white ground, for readers on a dark one.
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
        text = svg_text(canvas, name, ways_alt(areas), transparent=False)
        return text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)


def ways_alt(areas: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """The figure of the ways in words."""
    said = (
        f"{way}: {', '.join(f'{number(float(np.mean(values)))} at {place}' for place, values in places.items())}"
        for way, places in areas.items()
    )
    return f"ROC-AUC, mean over seeds. {'; '.join(said)}."


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), xlabel=x, ylabel=y, aspect="equal")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
