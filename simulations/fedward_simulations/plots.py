"""The report's figures as inline SVG: text stays text, the same results give the same bytes, nothing is fetched.

Colours come from the palette of Okabe and Ito (2008), which colour-blind readers can tell apart; line styles and
markers differ as well, so a greyscale print reads the same.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from fedward_simulations.results import Block, ModelName, PrecisionRecall, Results, RoundPoint
from fedward_simulations.wording import MODEL_TITLES, figure_text, number, shown

INK, MUTED, RULE = "#1f2933", "#5b6770", "#d5dae0"


class Look(NamedTuple):
    """How a model is drawn everywhere."""

    colour: str
    line: str
    marker: str
    face: str
    width: float


LOOKS: dict[ModelName, Look] = {
    "local": Look("#c05a00", "--", "o", "white", 1.4),
    "federated": Look("#005b94", "-", "o", "#005b94", 2.0),
    "personal": Look("#7a3b8f", "-.", "s", "white", 1.4),
    "pooled": Look("#4d5761", ":", "D", "white", 1.6),
}
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": "#e8ebee",
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedward",
    "text.color": INK,
    "text.parse_math": False,  # a name with a dollar sign is a name
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9,
    "xtick.major.size": 3,
    "xtick.major.width": 0.7,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9,
    "ytick.major.size": 3,
    "ytick.major.width": 0.7,
}
SERIES = (*LOOKS.values(), Look("#8f6a00", "-", "^", "#8f6a00", 1.4))  # of a figure whose lines are no models
SPREAD = 0.2  # of a hospital's models above and below its row
SQUARE = (3.7, 3.5)  # inches
GRID = np.linspace(0.0, 1.0, 201)

Floats = npt.NDArray[np.float64]


def roc(results: Results) -> str:
    """ROC curves of all hospitals' test patients, the diagonal, and each model at its operating point.

    Over several seeds: the mean true positive rate at each false positive rate (vertical averaging, Fawcett 2006).
    """
    with _canvas(SQUARE) as canvas:
        axes = canvas.add_subplot()
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1.0)
        for model in shown(results):
            curve = _mean_curve(results, model)
            if curve is not None:
                axes.plot(*curve, label=_roc_label(results, model), **_stroke(model))
        for model in shown(results):
            _operating_point(axes, model, getattr(results.overall, model))
        _unit_square(axes, "1 − specificity", "Sensitivity")
        _legend(axes, loc="lower right")
        return _svg(canvas, "roc", roc_alt(results))


def roc_alt(results: Results) -> str:
    """The ROC figure in words."""
    parts = [_roc_label(results, model) for model in shown(results)]
    return f"ROC curves of all hospitals’ test patients. Area under the curve: {'; '.join(parts)}."


def _roc_label(results: Results, model: ModelName) -> str:
    block: Block = getattr(results.overall, model)
    return f"{MODEL_TITLES[model]} {number(block.roc_auc.value if block.roc_auc else None)}"


def _mean_curve(results: Results, model: ModelName) -> tuple[Floats, Floats] | None:
    curves = [run.roc[model] for run in results.runs if model in run.roc]
    if not curves:
        return None
    if len(curves) == 1:
        return np.asarray(curves[0].fpr), np.asarray(curves[0].tpr)
    mean = np.mean([np.interp(GRID, curve.fpr, curve.tpr) for curve in curves], axis=0)
    return np.concatenate(([0.0], GRID)), np.concatenate(([0.0], mean))


def _operating_point(axes: Axes, model: ModelName, block: Block) -> None:
    if block.sensitivity is None or block.specificity is None:
        return
    _marker(axes, model, (1 - block.specificity.value, block.sensitivity.value))


def _marker(axes: Axes, model: ModelName, point: tuple[float, float]) -> None:
    look, order = LOOKS[model], 6 if model == "federated" else 5
    axes.plot(*point, look.marker, markersize=7, markerfacecolor=look.face, markeredgecolor=look.colour, zorder=order)


def precision_recall(results: Results) -> str:
    """Precision over recall of all hospitals' test patients, in steps; the share of positives is what chance gives.

    Over several seeds: the mean precision at each recall.
    """
    with _canvas(SQUARE) as canvas:
        axes = canvas.add_subplot()
        block = results.overall.federated
        if block.positives is not None and block.patients:
            axes.plot([0, 1], [block.positives / block.patients] * 2, color=RULE, linewidth=1.0)
        for model in shown(results):
            curves = [run.precision_recall[model] for run in results.runs if model in run.precision_recall]
            if curves:
                mean = np.mean([_steps(curve) for curve in curves], axis=0)
                axes.plot(GRID, mean, label=_precision_label(results, model), **_stroke(model))
        for model in shown(results):
            _calls(axes, model, getattr(results.overall, model))
        _unit_square(axes, "Recall (sensitivity)", "Precision")
        _legend(axes, loc="lower left")
        return _svg(canvas, "precision-recall", precision_recall_alt(results))


def precision_recall_alt(results: Results) -> str:
    """The precision-recall figure in words."""
    parts = [_precision_label(results, model) for model in shown(results)]
    return f"Precision–recall curves of all hospitals’ test patients. Average precision: {'; '.join(parts)}."


def _precision_label(results: Results, model: ModelName) -> str:
    block: Block = getattr(results.overall, model)
    return f"{MODEL_TITLES[model]} {number(block.average_precision)}"


def _steps(curve: PrecisionRecall) -> Floats:
    """The precision of the point that first reaches each recall of `GRID`; at 0, of the first that has any."""
    place = np.searchsorted(curve.recall, np.maximum(GRID - 1e-9, 1e-9))
    return np.asarray(curve.precision)[np.minimum(place, len(curve.precision) - 1)]


def _calls(axes: Axes, model: ModelName, block: Block) -> None:
    if block.sensitivity is not None and block.precision is not None:
        _marker(axes, model, (block.sensitivity.value, block.precision.value))


def calibration(results: Results) -> str:
    """Reliability: the observed share of positives against the mean score, in groups of patients; first seed."""
    with _canvas(SQUARE) as canvas:
        axes = canvas.add_subplot()
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1.0)
        for model in shown(results):
            points = results.runs[0].calibration.get(model, ())
            if points:
                x, y = [point.predicted for point in points], [point.observed.value for point in points]
                axes.plot(x, y, label=_brier_label(results, model), **_stroke(model, marked=True))
        for point in results.runs[0].calibration.get("federated", ()):
            ends = [point.observed.low, point.observed.high]
            axes.plot([point.predicted] * 2, ends, color=LOOKS["federated"].colour, linewidth=0.8)
        _unit_square(axes, "Mean score", "Observed share of positives")
        _legend(axes, loc="upper left")
        return _svg(canvas, "calibration", calibration_alt(results))


def calibration_alt(results: Results) -> str:
    """The calibration figure in words."""
    points = results.runs[0].calibration.get("federated", ())
    said = "; ".join(f"score {number(point.predicted)}, observed {number(point.observed.value)}" for point in points)
    return f"Calibration on all hospitals’ test patients. Federated model: {said or 'too few patients'}."


def _brier_label(results: Results, model: ModelName) -> str:
    block: Block = getattr(results.overall, model)
    return MODEL_TITLES[model] if block.brier is None else f"{MODEL_TITLES[model]}, Brier {number(block.brier)}"


def gain(results: Results) -> str:
    """Who gains: each hospital's ROC-AUC, local only to federated (and pooled data), with 95 % intervals."""
    rows = [(site.name, {model: site.block(model) for model in shown(results)}) for site in results.sites]
    rows.append(("all hospitals", {model: getattr(results.overall, model) for model in shown(results)}))
    with _canvas((7.2, 1.0 + 0.62 * len(rows))) as canvas:
        axes = canvas.add_subplot()
        for index, (_, blocks) in enumerate(rows):
            _dumbbell(axes, float(index), blocks)
        names, sizes = [_short(name) for name, _ in rows], [_tested(blocks) for _, blocks in rows]
        axes.set_yticks([index - 0.15 for index in range(len(rows))], names)
        axes.set_yticks([index + 0.19 for index in range(len(rows))], sizes, minor=True)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xlim(_lowest(rows), 1.0)
        axes.set_xlabel("ROC-AUC with 95 % interval")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", which="both", length=0)
        axes.tick_params(axis="y", which="minor", labelcolor=MUTED)
        axes.spines["left"].set_visible(False)
        axes.axhline(len(rows) - 1.5, color=RULE, linewidth=0.8)
        handles = [
            axes.plot([], [], label=MODEL_TITLES[model], **_stroke(model, marked=True))[0] for model in shown(results)
        ]
        canvas.legend(handles=handles, loc="outside upper right", ncols=4)
        return _svg(canvas, "gain", gain_alt(results))


def gain_alt(results: Results) -> str:
    """The dumbbell figure in words."""
    said = [
        f"{site.name}: "
        + ", ".join(
            f"{MODEL_TITLES[model].lower()} {figure_text(block.roc_auc) if block.roc_auc else 'withheld'}"
            for model in shown(results)
            if (block := site.block(model)) is not None
        )
        for site in results.sites
    ]
    return f"ROC-AUC at each hospital. {'; '.join(said)}."


def _dumbbell(axes: Axes, row: float, blocks: Mapping[ModelName, Block | None]) -> None:
    heights = dict(zip(blocks, (row + np.linspace(-SPREAD, SPREAD, len(blocks))).tolist(), strict=True))
    local, federated = blocks["local"], blocks["federated"]
    if local and local.roc_auc and federated and federated.roc_auc:
        ends = ([local.roc_auc.value, federated.roc_auc.value], [heights["local"], heights["federated"]])
        axes.plot(*ends, color=RULE, linewidth=3.0, zorder=1, solid_capstyle="round")
    for model, block in blocks.items():
        if block is not None:
            _interval(axes, heights[model], model, block)


def _interval(axes: Axes, height: float, model: ModelName, block: Block) -> None:
    look, figure = LOOKS[model], block.roc_auc
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


def _lowest(rows: Sequence[tuple[str, Mapping[ModelName, Block | None]]]) -> float:
    lows = [block.roc_auc.low for _, blocks in rows for block in blocks.values() if block and block.roc_auc]
    return min(0.5, math.floor(10 * min(lows, default=0.5)) / 10)


def losses(results: Results) -> str:
    """Loss per round: training and validation of the federated model; thin, each hospital's own."""
    with _canvas((3.7, 3.1)) as canvas:
        axes = canvas.add_subplot()
        look = LOOKS["federated"]
        _series(axes, results, "validation_loss", color=look.colour, linewidth=2.0, label="Federated, validation")
        _series(axes, results, "train_loss", color=look.colour, linestyle="--", label="Federated, training")
        _thin(axes, results, "validation_loss")
        _rounds_axis(axes, results, "Loss")
        _legend(axes, loc="best")
        return _svg(canvas, "losses", losses_alt(results))


def losses_alt(results: Results) -> str:
    """The loss figure in words."""
    said = f"training {_ends(results, 'train_loss')}, validation {_ends(results, 'validation_loss')}"
    return f"Loss per round of the federated model: {said}."


def layers(results: Results) -> str:
    """The loss of each layer that learned alone, as a share of what it was in that layer's first round."""
    with _canvas((3.7, 3.1)) as canvas:
        axes = canvas.add_subplot()
        styles = ("-", "--", ":", "-.")
        for layer, values in _layer_losses(results).items():
            look = {"color": LOOKS["federated"].colour, "linestyle": styles[layer % len(styles)]}
            _plot_series(axes, values, **look, label=f"Layer {layer + 1}")
        _rounds_axis(axes, results, "Loss, as a share of the first")
        axes.set_xlim(0, sum(phase.rounds for phase in results.study.spec.phases))
        _legend(axes, loc="best")
        return _svg(canvas, "layers", layers_alt(results))


def layers_alt(results: Results) -> str:
    """The figure of the layers in words."""
    lines = (
        f"layer {layer + 1} to {number(list(values.values())[-1])} of its first"
        for layer, values in _layer_losses(results).items()
    )
    return f"Loss of each layer that learned alone, without labels: {', '.join(lines)}."


def _layer_losses(results: Results) -> dict[int, dict[int, float]]:
    """By layer and round."""
    found = {}
    for layer in range(len(results.study.spec.phases)):
        own = [[point for point in run.history if point.layer == layer] for run in results.runs]
        values = _per_round(own, "layer_loss")
        if values and (first := values[min(values)]):
            found[layer] = {index: value / first for index, value in values.items()}
    return found


def primary(results: Results) -> str:
    """The primary metric on validation patients per round; thin, each hospital's own local-only model."""
    with _canvas((3.7, 3.1)) as canvas:
        axes = canvas.add_subplot()
        _series(axes, results, "primary", color=LOOKS["federated"].colour, linewidth=2.0, label="Federated")
        _thin(axes, results, "primary")
        _rounds_axis(axes, results, f"Validation {_primary_title(results)}")
        _legend(axes, loc="best")
        return _svg(canvas, "primary", primary_alt(results))


def primary_alt(results: Results) -> str:
    """The learning curve in words."""
    return f"Validation {_primary_title(results)} of the federated model per round: {_ends(results, 'primary')}."


def _primary_title(results: Results) -> str:
    return "ROC-AUC" if results.study.spec.evaluation.primary == "roc_auc" else "loss"


def ways(name: str, areas: Mapping[str, Mapping[str, Sequence[float]]], *, axis: str, joined: bool) -> str:
    """A file of its own: the mean ROC-AUC of each way at each place on the axis, and its standard deviation over seeds.

    At most as many ways as `SERIES`. It has a white ground, for readers on a dark one.
    """
    with _canvas((7.2, 3.6)) as canvas:
        axes = canvas.add_subplot()
        shifts = np.linspace(-SPREAD, SPREAD, len(areas))
        for (way, places), look, shift in zip(areas.items(), SERIES, shifts, strict=False):
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
        text = _svg(canvas, name, ways_alt(areas), transparent=False)
        return text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)


def ways_alt(areas: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """The figure of the ways in words."""
    said = (
        f"{way}: {', '.join(f'{number(float(np.mean(values)))} at {place}' for place, values in places.items())}"
        for way, places in areas.items()
    )
    return f"ROC-AUC, mean over seeds. {'; '.join(said)}."


def _ends(results: Results, key: str) -> str:
    values = _per_round([run.history for run in results.runs], key)
    if not values:
        return "not measured"
    first, last = min(values), max(values)
    return f"{number(values[first])} in round {first}, {number(values[last])} in round {last}"


def _per_round(histories: Sequence[Sequence[RoundPoint]], key: str) -> dict[int, float]:
    """Mean over seeds per round, of the rounds that have it."""
    found: dict[int, list[float]] = {}
    for history in histories:
        for point in history:
            value = getattr(point, key)
            if value is not None:
                found.setdefault(point.round, []).append(value)
    return {index: float(np.mean(values)) for index, values in sorted(found.items())}


def _series(axes: Axes, results: Results, key: str, **style: Any) -> None:
    values = _per_round([run.history for run in results.runs], key)
    if values:
        _plot_series(axes, values, **style)


def _thin(axes: Axes, results: Results, key: str) -> None:
    """Each hospital's local-only model as a thin line; one entry in the legend stands for them all."""
    label = "Local only, each hospital"
    for site in results.sites:
        histories = [run.local_history[site.name] for run in results.runs if site.name in run.local_history]
        values = _per_round(histories, key)
        if values:
            _plot_series(axes, values, color=LOOKS["local"].colour, linewidth=0.8, alpha=0.75, zorder=1.5, label=label)
            label = "_another"


def _plot_series(axes: Axes, values: Mapping[int, float], **style: Any) -> None:
    marker = "o" if len(values) == 1 else None
    axes.plot(list(values), list(values.values()), **{"marker": marker, "markersize": 4, **style})


def _rounds_axis(axes: Axes, results: Results, label: str) -> None:
    axes.set_xlabel("Round")
    axes.set_ylabel(label)
    axes.set_xlim(0, max(results.rounds, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _stroke(model: ModelName, *, marked: bool = False) -> dict[str, Any]:
    look = LOOKS[model]
    stroke: dict[str, Any] = {"color": look.colour, "linestyle": look.line, "linewidth": look.width}
    if marked:
        stroke |= {"marker": look.marker, "markersize": 5.5, "markerfacecolor": look.face}
    return stroke


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), xlabel=x, ylabel=y, aspect="equal")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))


def _legend(axes: Axes, *, loc: Literal["best", "lower left", "lower right", "upper left"]) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=loc, facecolor="white", framealpha=0.85, frameon=True, edgecolor="none")


@contextmanager
def _canvas(inches: tuple[float, float]) -> Iterator[Canvas]:
    """A figure in our style, whatever the caller's matplotlib is set to."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]  # names its own keys
        # a hospital's name may be in any script: the reader's fonts draw it, ours only measure it
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas = Canvas(figsize=inches, layout="constrained")
        FigureCanvasSVG(canvas)
        yield canvas


def _svg(canvas: Canvas, name: str, alt: str, *, transparent: bool = True) -> str:
    """The figure as an <svg> element for a page: ids are unique to it, no prolog, no metadata, no address anywhere."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=transparent, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    if view is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    body = re.sub(r'(?<=\sid=")(?=[^"]*")', f"{name}-", body)
    body = body.replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    return f'<svg {view[0]} role="img" aria-label="{escape(alt)}">{body}'
