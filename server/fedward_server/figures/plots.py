"""The kinds of figure: plain values drawn on a canvas. What is drawn, and what it is called, the caller says."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from fedward_common.metrics.froc import RATES
from fedward_server.figures.blocks import Figure, ModelName
from fedward_server.figures.curves import Spread
from fedward_server.figures.drawing import (
    INK,
    LOOKS,
    MUTED,
    RULE,
    Look,
    add_legend,
    line_style,
    panel_inches,
    panel_title,
    panels,
)

SPREAD = 0.2  # of a hospital's models above and below its row
RATE_TICKS = ("1/8", "1/4", "1/2", "1", "2", "4", "8")
_LAYER_LINES = ("-", "--", ":", "-.")

Floats = npt.NDArray[np.float64]
Curve = tuple[npt.ArrayLike, npt.ArrayLike]


class Line(NamedTuple):
    """A curve in a panel, `name` in the legend; the points on it that count, and intervals upwards at places on x."""

    name: str
    look: Look
    curve: Curve | None
    point: tuple[float, float] | None = None
    bars: Sequence[tuple[float, float, float]] = ()  # x, low, high
    order: float = 2.0  # the higher lies over the lower


class Panel(NamedTuple):
    """The lines of one label, and what no model would give, as a grey line."""

    lines: Sequence[Line]
    chance: Curve | None = ((0, 1), (0, 1))


class Row(NamedTuple):
    """A hospital: what stands beneath its name, and its figure of each model, None where that stays home."""

    name: str
    note: str
    figures: Mapping[ModelName, Figure | None]


def square_inches(many: int) -> tuple[float, float]:
    """Of a figure with so many square panels."""
    return panel_inches(many, 3.5 if many == 1 else 2.7)


def squares(
    canvas: Canvas,
    shown: Mapping[str, Panel],
    *,
    x: str,
    y: str,
    loc: Literal["lower left", "lower right", "upper left"],
    marked: bool = False,
    one_legend: bool = False,
) -> None:
    """Curves of shares over shares, a square panel a label; `one_legend` for all panels stands above them."""
    labels = list(shown)
    for axes, label in zip(panels(canvas, len(labels)), labels, strict=True):
        panel = shown[label]
        if panel.chance is not None:
            axes.plot(*panel.chance, color=RULE, linewidth=1.0)
        for line in panel.lines:
            if line.curve is not None:
                axes.plot(*line.curve, label=line.name, zorder=line.order, **line_style(line.look, marked=marked))
        for line in panel.lines:
            for place, low, high in line.bars:
                axes.plot([place] * 2, [low, high], color=line.look.colour, linewidth=0.8)
            if line.point is not None:
                _marker(axes, line.look, line.point)
        axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), xlabel=x, ylabel=y, aspect="equal")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_yticks(np.linspace(0, 1, 6))
        panel_title(axes, label, labels)
        if not one_legend:
            add_legend(axes, loc=loc)
    if one_legend:
        _legend_above(canvas)


def _marker(axes: Axes, look: Look, point: tuple[float, float]) -> None:
    order = 6 if look == LOOKS["federated"] else 5
    axes.plot(*point, look.marker, markersize=7, markerfacecolor=look.face, markeredgecolor=look.colour, zorder=order)


def _legend_above(canvas: Canvas) -> None:
    """One legend for all panels, of whatever one of them names."""
    named = {
        label: handle for axes in canvas.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    canvas.legend(list(named.values()), list(named), loc="outside upper right", ncols=4)


def froc(canvas: Canvas, shown: Mapping[str, Sequence[Line]], *, one_legend: bool = False) -> None:
    """Sensitivity over false positives an image, from 1/8 to 8, a panel for each kind of finding."""
    kinds = list(shown)
    for axes, kind in zip(panels(canvas, len(kinds)), kinds, strict=True):
        for line in shown[kind]:
            if line.curve is not None:
                axes.plot(*line.curve, label=line.name, zorder=line.order, **line_style(line.look))
        axes.set_xscale("log", base=2)
        axes.set_xticks(RATES, RATE_TICKS)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="False positives an image", ylabel="Sensitivity", ylim=(-0.015, 1.015))
        panel_title(axes, kind, kinds)
        if not one_legend:
            add_legend(axes, loc="lower right")
    if one_legend:
        _legend_above(canvas)


def gain_inches(rows: int) -> tuple[float, float]:
    """Of `gain`."""
    return (7.2, 1.0 + 0.62 * rows)


def gain(canvas: Canvas, rows: Sequence[Row], models: Mapping[ModelName, str], measure: str) -> None:
    """Each hospital's figure by each of `models`, as they are titled, with intervals; the last row stands apart."""
    axes = canvas.add_subplot()
    for index, row in enumerate(rows):
        _dumbbell(axes, float(index), row, models)
    axes.set_yticks([index - 0.15 for index in range(len(rows))], [_short(row.name) for row in rows])
    axes.set_yticks([index + 0.19 for index in range(len(rows))], [row.note for row in rows], minor=True)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(_lowest(rows), 1.0)
    axes.set_xlabel(f"{measure} with 95 % interval")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", which="both", length=0)
    axes.tick_params(axis="y", which="minor", labelcolor=MUTED)
    axes.spines["left"].set_visible(False)
    axes.axhline(len(rows) - 1.5, color=RULE, linewidth=0.8)
    handles = [
        axes.plot([], [], label=title, **line_style(LOOKS[model], marked=True))[0] for model, title in models.items()
    ]
    canvas.legend(handles=handles, loc="outside upper right", ncols=4)


def _dumbbell(axes: Axes, place: float, row: Row, models: Mapping[ModelName, str]) -> None:
    heights = dict(zip(models, (place + np.linspace(-SPREAD, SPREAD, len(models))).tolist(), strict=True))
    local, federated = row.figures.get("local"), row.figures.get("federated")
    if local and federated:
        ends = ([local.value, federated.value], [heights["local"], heights["federated"]])
        axes.plot(*ends, color=RULE, linewidth=3.0, zorder=1, solid_capstyle="round")
    for model, title in models.items():
        if model in row.figures:
            _interval(axes, heights[model], model, title, row.figures[model])


def _interval(axes: Axes, height: float, model: ModelName, title: str, figure: Figure | None) -> None:
    look = LOOKS[model]
    if figure is None:
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "ha": "right", "fontsize": 9}
        axes.text(0.99, height, f"{title.lower()} withheld", color=MUTED, fontstyle="italic", **place)
        return
    axes.plot([figure.low, figure.high], [height, height], color=look.colour, linestyle=look.line, linewidth=1.2)
    face: dict[str, Any] = {"markerfacecolor": look.face, "markeredgecolor": look.colour}
    axes.plot(figure.value, height, look.marker, markersize=6.5 if model != "pooled" else 5.5, **face)


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"


def _lowest(rows: Sequence[Row]) -> float:
    lows = [figure.low for row in rows for figure in row.figures.values() if figure]
    return min(0.5, math.floor(10 * min(lows, default=0.5)) / 10)


def forest_inches(rows: int) -> tuple[float, float]:
    """Of `forest`."""
    return (7.2, 1.0 + 0.34 * rows)


def forest(canvas: Canvas, rows: Sequence[tuple[str, Figure]], whole: Figure | None, measure: str) -> None:
    """A figure of each group with its interval, beneath each other; the line is of all of them."""
    axes, look = canvas.add_subplot(), LOOKS["federated"]
    if whole is not None:
        axes.axvline(whole.value, color=RULE, linewidth=1.2)
    for place, (_, figure) in enumerate(rows):
        axes.plot([figure.low, figure.high], [place, place], color=look.colour, linewidth=1.2)
        axes.plot(figure.value, place, look.marker, color=look.colour, markersize=6)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    lowest = min((0.5, *(figure.low for _, figure in rows)))
    axes.set(xlim=(lowest, 1.0), xlabel=f"{measure} with 95 % interval")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def box(axes: Axes, height: float, look: Look, spread: Spread) -> None:
    """A figure's spread over patients: median, quartiles, 5 % to 95 %."""
    stroke: dict[str, Any] = {"color": look.colour, "linewidth": 1.2}
    ends = {
        "whislo": spread.low,
        "q1": spread.first,
        "med": spread.median,
        "q3": spread.third,
        "whishi": spread.high,
    }
    axes.bxp(
        [ends],
        positions=[height],
        widths=[0.6],
        orientation="horizontal",
        showfliers=False,
        manage_ticks=False,
        boxprops=stroke,
        whiskerprops=stroke | {"linestyle": look.line},
        capprops=stroke,
        medianprops=stroke | {"linewidth": 2.2},
    )


def dice_axis(axes: Axes) -> None:
    """What `box`es of Dice stand on."""
    axes.set(xlim=(-0.015, 1.015), xlabel="Dice of a patient: median, quartiles, 5 % to 95 %")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def matrix(
    canvas: Canvas,
    makers: Sequence[str],
    testers: Sequence[str],
    cells: Mapping[tuple[str, str], Figure | None],
    measure: str,
) -> None:
    """What the models of `makers` do at `testers`: a coloured cell each with its figure, empty where there is none."""
    axes = canvas.add_subplot()
    values = [[figure.value if (figure := cells.get((one, other))) else np.nan for other in testers] for one in makers]
    table = np.asarray(values, dtype=np.float64)
    axes.pcolormesh(np.ma.masked_invalid(table), cmap="Blues", vmin=0.0, vmax=1.0, edgecolors="white", linewidth=2)
    for (row, column), value in np.ndenumerate(table):
        said = "withheld" if np.isnan(value) else f"{value:.2f}"
        colour = "white" if value > 0.6 else MUTED if np.isnan(value) else INK
        axes.text(column + 0.5, row + 0.5, said, ha="center", va="center", color=colour, fontsize=9.5)
    axes.set_xticks(np.arange(len(testers)) + 0.5, testers)
    axes.set_yticks(np.arange(len(makers)) + 0.5, makers)
    axes.invert_yaxis()
    axes.set(xlabel=f"{measure}, tested at", ylabel="Trained at")
    axes.grid(visible=False)
    axes.tick_params(length=0)


def over_rounds(axes: Axes, values: Mapping[int, float], **style: Any) -> None:
    """A value of each round as a line; of one round, a dot."""
    marker = "o" if len(values) == 1 else None
    axes.plot(list(values), list(values.values()), **{"marker": marker, "markersize": 4, **style})


def rounds_axis(axes: Axes, rounds: int, label: str) -> None:
    """The axis of so many rounds."""
    axes.set(xlabel="Round", ylabel=label, xlim=(0, max(rounds, 1)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def layers(canvas: Canvas, losses: Mapping[int, Mapping[int, float]], rounds: int) -> None:
    """By layer that learned alone and round, its loss as a share of its first."""
    axes = canvas.add_subplot()
    for layer, values in losses.items():
        look = {"color": LOOKS["federated"].colour, "linestyle": _LAYER_LINES[layer % len(_LAYER_LINES)]}
        over_rounds(axes, values, **look, label=f"Layer {layer + 1}")
    rounds_axis(axes, rounds, "Loss, as a share of the first")
    add_legend(axes, loc="best")
