"""The figures of learning, round by round: losses, the primary metric, layers that learned alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fedward_server.figures.blocks import METRIC_TITLES
from fedward_server.figures.drawing import LOOKS, add_legend, new_canvas, svg_text
from fedward_server.figures.plots import layers as draw_layers
from fedward_server.figures.plots import over_rounds, rounds_axis
from fedward_simulations.results import Results, RoundPoint
from fedward_simulations.wording import number


def losses(results: Results) -> str:
    """Loss per round: training and validation of the federated model; thin, each hospital's own."""
    with new_canvas((3.7, 3.1)) as canvas:
        axes = canvas.add_subplot()
        look = LOOKS["federated"]
        _series(axes, results, "validation_loss", color=look.colour, linewidth=2.0, label="Federated, validation")
        _series(axes, results, "train_loss", color=look.colour, linestyle="--", label="Federated, training")
        _thin(axes, results, "validation_loss")
        rounds_axis(axes, results.rounds, "Loss")
        add_legend(axes, loc="best")
        return svg_text(canvas, "losses", losses_alt(results))


def losses_alt(results: Results) -> str:
    """The loss figure in words."""
    said = f"training {_ends(results, 'train_loss')}, validation {_ends(results, 'validation_loss')}"
    return f"Loss per round of the federated model: {said}."


def layers(results: Results) -> str:
    """The loss of each layer that learned alone, as a share of what it was in that layer's first round."""
    with new_canvas((3.7, 3.1)) as canvas:
        draw_layers(canvas, _layer_losses(results), sum(phase.rounds for phase in results.study.spec.phases))
        return svg_text(canvas, "layers", layers_alt(results))


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
    with new_canvas((3.7, 3.1)) as canvas:
        axes = canvas.add_subplot()
        _series(axes, results, "primary", color=LOOKS["federated"].colour, linewidth=2.0, label="Federated")
        _thin(axes, results, "primary")
        rounds_axis(axes, results.rounds, f"Validation {_primary_title(results)}")
        add_legend(axes, loc="best")
        return svg_text(canvas, "primary", primary_alt(results))


def primary_alt(results: Results) -> str:
    """The learning curve in words."""
    return f"Validation {_primary_title(results)} of the federated model per round: {_ends(results, 'primary')}."


def _primary_title(results: Results) -> str:
    return "loss" if results.study.spec.evaluation.primary == "loss" else METRIC_TITLES[results.study.headline]


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
        over_rounds(axes, values, **style)


def _thin(axes: Axes, results: Results, key: str) -> None:
    """Each hospital's local-only model as a thin line; one entry in the legend stands for them all."""
    label = "Local only, each hospital"
    for site in results.sites:
        histories = [run.local_history[site.name] for run in results.runs if site.name in run.local_history]
        values = _per_round(histories, key)
        if values:
            over_rounds(axes, values, color=LOOKS["local"].colour, linewidth=0.8, alpha=0.75, zorder=1.5, label=label)
            label = "_another"
