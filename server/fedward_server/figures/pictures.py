"""Which pictures a run has, and the numbers in each. `run_plots` draws them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fedward_common.metrics.froc import RATES
from fedward_common.study_subgroups import GROUPS
from fedward_server.figures.blocks import METRICS, MODELS, OTHER_METRICS, PLAIN_TITLES, Block, Figure, Metric, ModelName
from fedward_server.figures.curves import Spread, calibration_points
from fedward_server.figures.pooling import are_apart
from fedward_server.figures.run_figures import EVERYBODY, Calls, RunFigures
from fedward_server.figures.tables import Cell, Table

MEAN = "mean over labels"
AT_POINT: tuple[Metric, ...] = ("sensitivity", "specificity", "precision")
AT_RATES = tuple(f"at_{rate:g}" for rate in RATES)  # false positives an image


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: the `table` that stands beside it on a page, and the `numbers` drawn, which its CSV file has."""

    name: str
    table: Table
    numbers: Table


def pictures(run: RunFigures) -> list[Picture]:
    """The pictures in which there is anything to see, in the order of a page."""
    return [picture for made in PICTURES.values() if (picture := made(run)).numbers.rows]


# All figures ---------------------------------------------------------------------------------------------------------


def labelled(run: RunFigures, who: str, model: ModelName = "federated") -> dict[str, Block]:
    """A model's blocks on whose test patients, by label; first the mean over labels, where there are several."""
    block, asked = run.of(who, model), run.study.asked_labels
    if block is None:
        return {}
    return {asked[0] if len(asked) == 1 else MEAN: block, **block.labels}


def numbers(run: RunFigures) -> Table:
    """Every figure of every model, on each site's test patients and on those of all sites together."""
    figures, plain = (*METRICS, *OTHER_METRICS), ("threshold", *PLAIN_TITLES)
    rows = [
        (
            who,
            model,
            label,
            *(block.patients, block.positives, block.negatives),
            *(block.figure(metric) for metric in figures),
            *(getattr(block, key) for key in plain),
            block.withheld,
        )
        for model in run.models
        for who in (EVERYBODY, *run.sites)
        for label, block in labelled(run, who, model).items()
    ]
    counts = ("hospital", "model", "label", "patients", "positives", "negatives")
    return Table((*counts, *figures, *plain, "withheld"), tuple(rows), frozenset(figures)).without_empty()


def main_figures(run: RunFigures) -> Table:
    """The common model's figures that need no operating point."""
    figures = tuple(metric for metric in (*METRICS, *OTHER_METRICS) if metric not in AT_POINT)
    counts = ("patients", "positives", "negatives")
    rows = [
        (
            who,
            label,
            *(getattr(block, count) for count in counts),
            *(block.figure(metric) for metric in figures),
            block.brier,
        )
        for who in run.who
        for label, block in labelled(run, who).items()
    ]
    return Table(("hospital", "label", *counts, *figures, "brier"), tuple(rows), frozenset(figures)).without_empty()


def operating_points(run: RunFigures) -> Table:
    """What the common model says of test patients at its operating points."""
    rows = [
        (who, label, block.threshold, block.sensitivity, block.specificity, block.precision, *dict(calls).values())
        for label in run.study.asked_labels
        for who in run.who
        if (block := labelled(run, who).get(label)) is not None and (calls := Calls.of(block)) is not None
    ]
    columns = ("hospital", "label", "threshold", *AT_POINT, *Calls.model_fields)
    return Table(columns, tuple(rows), frozenset(AT_POINT))


def gains(run: RunFigures) -> Picture:
    """Each site's main figure by the model that it made alone and by the common one."""
    rows = [
        (who, label, block.patients, *(_figure_of(run, who, model, label) for model in run.models))
        for who in (*run.sites, EVERYBODY)
        for label, block in labelled(run, who).items()
    ]
    table = Table(("hospital", "label", "patients", *run.models), tuple(rows), frozenset(MODELS))
    return Picture("gains", table, table)


def _figure_of(run: RunFigures, who: str, model: ModelName, label: str) -> Figure | None:
    block = labelled(run, who, model).get(label)
    return None if block is None else block.figure(run.metric)


def across(run: RunFigures) -> Picture:
    """The cross-site matrix."""
    asked = run.study.asked_labels
    rows = [
        (visit.trained_at, visit.tested_at, visit.label or (asked[0] if len(asked) == 1 else MEAN), visit.figure)
        for visit in run.across
    ]
    table = Table(("trained_at", "tested_at", "label", run.metric), tuple(rows), frozenset({run.metric}))
    return Picture("across", table, table)


def subgroups(run: RunFigures) -> Picture:
    """The common model on groups of all sites' test patients."""
    figures = METRICS[:3] if run.study.study.task == "classification" else OTHER_METRICS
    rows = [
        (by, name, label, block.patients, block.sites, *(block.figure(metric) for metric in figures))
        for by, names in run.groups.items()
        for name in GROUPS[by]
        for label, block in names.get(name, {}).items()
    ]
    columns = ("by", "group", "label", "patients", "hospitals", *figures)
    table = Table(columns, tuple(rows), frozenset(figures)).without_empty()
    return Picture("subgroups", table, table)


# Curves --------------------------------------------------------------------------------------------------------------


def roc(run: RunFigures) -> Picture:
    """The ROC curve of all sites' scores and of each site's, and the areas under them."""
    areas = [
        (who, label, block.positives, block.negatives, block.roc_auc)
        for label in run.study.asked_labels
        for who in run.scores
        if (block := labelled(run, who).get(label)) is not None and label in run.scores[who]
    ]
    points = [
        (who, label, threshold if np.isfinite(threshold) else None, fpr, tpr)
        for who, by_label in run.scores.items()
        for label, scores in by_label.items()
        for fpr, tpr, threshold in zip(*(array.tolist() for array in scores.roc()), strict=True)
    ]
    return Picture(
        "roc",
        Table(("hospital", "label", "positives", "negatives", "roc_auc"), tuple(areas), frozenset({"roc_auc"})),
        Table(("hospital", "label", "threshold", "false_positive_rate", "true_positive_rate"), tuple(points)),
    )


def precision_recall(run: RunFigures) -> Picture:
    """Precision over recall of all sites' scores and of each site's, and the areas under the curves."""
    areas: list[tuple[Cell, ...]] = []
    points: list[tuple[Cell, ...]] = []
    for who, by_label in run.scores.items():
        for label, scores in by_label.items():
            block = labelled(run, who).get(label)
            told = block is not None and block.roc_auc is not None and are_apart(scores, block.roc_auc)
            share = scores.total_positives / (scores.total_positives + scores.total_negatives)
            areas.append((who, label, scores.average_precision() if told else None, share))
            curve = zip(*(array.tolist() for array in scores.precision_recall()), strict=True)
            points += [(who, label, threshold, recall, precision) for recall, precision, threshold in curve]
    return Picture(
        "precision-recall",
        Table(("hospital", "label", "average_precision", "share_of_positives"), tuple(areas)),
        Table(("hospital", "label", "threshold", "recall", "precision"), tuple(points)),
    )


def calibration(run: RunFigures) -> Picture:
    """The observed share of positives beside the mean score, in groups of patients of like score."""
    rows = [
        (who, label, point.predicted, point.observed, point.patients)
        for who, by_label in run.scores.items()
        for label, scores in by_label.items()
        for point in calibration_points(scores)
    ]
    table = Table(("hospital", "label", "predicted", "observed", "patients"), tuple(rows), frozenset({"observed"}))
    return Picture("calibration", _first(table), table)


def froc(run: RunFigures) -> Picture:
    """Sensitivity over false positives an image, of all sites' findings and of each site's."""
    at_rates: list[tuple[Cell, ...]] = []
    points: list[tuple[Cell, ...]] = []
    for who, by_kind in run.froc.items():
        for kind, curve in by_kind.items():
            held = np.interp(RATES, curve.false_positives, curve.sensitivity).tolist()
            at_rates.append((who, kind, *held))
            points += [(who, kind, *pair) for pair in zip(curve.false_positives, curve.sensitivity, strict=True)]
    return Picture(
        "froc",
        Table(("hospital", "label", *AT_RATES), tuple(at_rates)),
        Table(("hospital", "label", "false_positives_per_image", "sensitivity"), tuple(points)),
    )


def dice(run: RunFigures) -> Picture:
    """How Dice is spread over test patients."""
    rows = [
        (who, structure, *(getattr(spread, end) for end in Spread.model_fields))
        for who, by_structure in run.dice.items()
        for structure, spread in by_structure.items()
    ]
    percentiles = ("percentile_5", "percentile_25", "median", "percentile_75", "percentile_95")
    table = Table(("hospital", "label", *percentiles), tuple(rows))
    return Picture("dice", table, table)


# Rounds --------------------------------------------------------------------------------------------------------------


def learning(run: RunFigures) -> Picture:
    """The primary metric on validation patients, round by round."""
    table = _rounds(run, ("primary",))
    return Picture("learning", _first(table), table)


def losses(run: RunFigures) -> Picture:
    """The loss in training and on validation patients, round by round."""
    table = _rounds(run, ("train_loss", "validation_loss"))
    return Picture("losses", _first(table), table)


def layers(run: RunFigures) -> Picture:
    """The loss of each layer that learned alone, without labels."""
    table = _rounds(run, ("train_loss",), layers=True)
    return Picture("layers", _first(table), table)


def _rounds(run: RunFigures, keys: tuple[str, ...], *, layers: bool = False) -> Table:
    """What is known of these `keys` in the rounds in which all layers learn, or in the others."""
    rows = [
        (who, row["round"], run.stage(row["round"]) or None, *values)
        for who, history in run.history.items()
        for row in history
        if (run.study.layer(row["round"]) is not None) == layers
        for values in [[row.get(key) for key in keys]]
        if any(value is not None for value in values)
    ]
    return Table(("hospital", "round", "stage", *keys), tuple(rows)).without_empty()


def _first(table: Table) -> Table:
    """The rows of whoever comes first: of all sites together, or else of a steward's own."""
    return Table(table.columns, tuple(row for row in table.rows if row[0] == table.rows[0][0]), table.figures)


PICTURES: Mapping[str, Callable[[RunFigures], Picture]] = {
    "gains": gains,
    "roc": roc,
    "precision-recall": precision_recall,
    "calibration": calibration,
    "froc": froc,
    "dice": dice,
    "subgroups": subgroups,
    "across": across,
    "learning": learning,
    "losses": losses,
    "layers": layers,
}
"""By name, in the order of a page."""
