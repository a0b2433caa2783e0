"""The figures of detection and segmentation, beside those of `plots`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from fedward_common.metrics.froc import RATES
from fedward_simulations.drawing import (
    LOOKS,
    add_legend,
    drawn_labels,
    line_style,
    new_canvas,
    panel_inches,
    panel_title,
    panels,
    svg_text,
)
from fedward_simulations.results import ModelName, Results, Spread
from fedward_simulations.wording import MODEL_TITLES, figure_text, number, shown

_RATE_TICKS = ("1/8", "1/4", "1/2", "1", "2", "4", "8")


def froc(results: Results) -> str:
    """FROC curves of all hospitals' test patients, a panel for each kind of finding; over seeds, vertical averages."""
    kinds = drawn_labels(results, [run.froc for run in results.runs])
    with new_canvas(panel_inches(len(kinds), 3.4)) as canvas:
        for axes, kind in zip(panels(canvas, len(kinds)), kinds, strict=True):
            for model in shown(results):
                curves = [run.froc[model][kind] for run in results.runs if kind in run.froc.get(model, {})]
                if curves:
                    rates = np.geomspace(RATES[0], RATES[-1], 100)
                    mean = np.mean([np.interp(rates, one.false_positives, one.sensitivity) for one in curves], axis=0)
                    axes.plot(rates, mean, label=MODEL_TITLES[model], **line_style(model))
            axes.set_xscale("log", base=2)
            axes.set_xticks(RATES, _RATE_TICKS)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set(xlabel="False positives an image", ylabel="Sensitivity", ylim=(-0.015, 1.015))
            panel_title(axes, kind, kinds)
            add_legend(axes, loc="lower right")
        return svg_text(canvas, "froc", froc_alt(results))


def froc_alt(results: Results) -> str:
    """The FROC figure in words."""
    parts = [
        f"{MODEL_TITLES[model]} {figure_text(figure)}"
        for model in shown(results)
        if (figure := getattr(results.overall, model).figure("froc"))
    ]
    score = "Mean sensitivity at 1/8 to 8 false positives an image"
    return f"FROC curves of all hospitals’ test patients. {score}: {'; '.join(parts) or 'withheld'}."


def dice(results: Results) -> str:
    """How Dice is spread over all hospitals' test patients: boxes of each model by structure; means over seeds."""
    structures = drawn_labels(results, [run.dice for run in results.runs])
    models = [model for model in shown(results) if any(model in run.dice for run in results.runs)]
    with new_canvas((7.2, 1.0 + 0.3 * len(structures) * (len(models) + 1))) as canvas:
        axes = canvas.add_subplot()
        for place, structure in enumerate(structures):
            for shift, model in enumerate(models):
                held = [run.dice[model][structure] for run in results.runs if structure in run.dice.get(model, {})]
                if held:
                    _box(axes, place * (len(models) + 1) + shift, model, held)
        step, middle = len(models) + 1, (len(models) - 1) / 2
        axes.set_yticks([place * step + middle for place in range(len(structures))], structures)
        axes.set_ylim(len(structures) * step - 1.2, -0.8)
        axes.set(xlim=(-0.015, 1.015), xlabel="Dice of a patient: median, quartiles, 5 % to 95 %")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        handles = [axes.plot([], [], label=MODEL_TITLES[model], **line_style(model))[0] for model in models]
        canvas.legend(handles=handles, loc="outside upper right", ncols=4)
        return svg_text(canvas, "dice", dice_alt(results))


def dice_alt(results: Results) -> str:
    """The boxes in words."""
    found = results.runs[0].dice.get("federated", {})
    said = (
        f"{structure}: median {number(spread.median)}, half of all {number(spread.first)} to {number(spread.third)}"
        for structure, spread in found.items()
    )
    return (
        f"Spread of Dice over all hospitals’ test patients. Federated model, {'; '.join(said) or 'too few patients'}."
    )


def _box(axes: Axes, height: float, model: ModelName, held: Sequence[Spread]) -> None:
    ends = {name: float(np.mean([getattr(each, name) for each in held])) for name in Spread.model_fields}
    look: dict[str, Any] = {"color": LOOKS[model].colour, "linewidth": 1.2}
    box = {
        "whislo": ends["low"],
        "q1": ends["first"],
        "med": ends["median"],
        "q3": ends["third"],
        "whishi": ends["high"],
    }
    axes.bxp(
        [box],
        positions=[height],
        widths=[0.6],
        orientation="horizontal",
        showfliers=False,
        manage_ticks=False,
        boxprops=look,
        whiskerprops=look | {"linestyle": LOOKS[model].line},
        capprops=look,
        medianprops=look | {"linewidth": 2.2},
    )
