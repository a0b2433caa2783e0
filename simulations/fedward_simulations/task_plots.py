"""The figures of detection and segmentation, beside those of `plots`."""

from collections.abc import Sequence

import numpy as np

from fedward_common.metrics.froc import RATES
from fedward_server.figures.blocks import MODEL_TITLES
from fedward_server.figures.drawing import LOOKS, line_style, new_canvas, panel_inches, svg_text
from fedward_server.figures.plots import Line, box, dice_axis
from fedward_server.figures.plots import froc as draw_froc
from fedward_simulations.plots import drawn_labels
from fedward_simulations.results import ModelName, Results, Spread
from fedward_simulations.wording import figure_text, number, shown


def froc(results: Results) -> str:
    """FROC curves of all hospitals' test patients, a panel for each kind of finding; over seeds, vertical averages."""
    kinds = drawn_labels(results, [run.froc for run in results.runs])

    def line(model: ModelName, kind: str) -> Line:
        curves = [run.froc[model][kind] for run in results.runs if kind in run.froc.get(model, {})]
        rates = np.geomspace(RATES[0], RATES[-1], 100)
        each = [np.interp(rates, one.false_positives, one.sensitivity) for one in curves]
        return Line(MODEL_TITLES[model], LOOKS[model], (rates, np.mean(each, axis=0)) if curves else None)

    with new_canvas(panel_inches(len(kinds), 3.4)) as canvas:
        draw_froc(canvas, {kind: [line(model, kind) for model in shown(results)] for kind in kinds})
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
                    ends = {
                        name: float(np.mean([getattr(each, name) for each in held])) for name in Spread.model_fields
                    }
                    box(axes, place * (len(models) + 1) + shift, LOOKS[model], Spread(**ends))
        step, middle = len(models) + 1, (len(models) - 1) / 2
        axes.set_yticks([place * step + middle for place in range(len(structures))], structures)
        axes.set_ylim(len(structures) * step - 1.2, -0.8)
        dice_axis(axes)
        handles = [axes.plot([], [], label=MODEL_TITLES[model], **line_style(LOOKS[model]))[0] for model in models]
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


def _mean(held: Sequence[Spread]) -> Spread:
    """Each end's mean over seeds."""
    return Spread(**{name: float(np.mean([getattr(each, name) for each in held])) for name in Spread.model_fields})
