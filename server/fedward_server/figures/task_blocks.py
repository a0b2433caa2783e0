"""Blocks and curves from evaluations of segmentation, registration, detection and survival, for `pooling`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from fedward_common.metrics import (
    Detections,
    Estimate,
    Evaluation,
    GroupEvaluation,
    Moments,
    Overlap,
    dice_percentiles,
    merged_froc,
    pooled_concordance,
    pooled_moments,
    wilson_interval,
)
from fedward_common.metrics.froc import RATES
from fedward_common.study import StudySpec
from fedward_server.figures.blocks import OTHER_METRICS, Block, Figure, GroupBlock, Metric, headline, interval_seed
from fedward_server.figures.curves import FrocCurve, Spread

NO_FIGURE = "too few patients for any hospital to show"
NO_STRUCTURES = "the study names no structures whose overlap could be measured"

Figures = dict[Metric, Figure]


def task_block(evaluations: Iterable[Evaluation], study: StudySpec) -> Block:
    """One model on the patients of one site or of several: exact pooled means, C over all sites' pairs, merged FROC."""
    held = list(evaluations)
    reasons = [e.withheld for e in held if e.withheld]
    labels, whole = _BY_TASK[study.study.task](held, study)
    figures = {**_mean(list(labels.values())), **whole}
    why = reasons[0] if len(held) == 1 and reasons else None
    missing = [label for label in study.asked_labels if label not in labels]
    if headline(study) not in figures:
        why = why or (NO_FIGURE if study.cohort.labels else NO_STRUCTURES)
    elif missing:
        why = why or f"no figure of {', '.join(missing)}: too few patients to show it"
    return Block(
        figures=figures,
        labels={label: Block(figures=own) for label, own in labels.items()} if len(study.asked_labels) > 1 else {},
        patients=sum(e.patients for e in held if e.overlaps or e.detections or e.concordance or e.folding) or None,
        withheld=why,
    )


def group_block(groups: Iterable[GroupEvaluation], label: str, study: StudySpec) -> GroupBlock | None:
    """One model on a group of patients, for one label, of the sites that may tell of it; None of no site."""
    held = [e for e in groups if label in e.overlaps or label in e.detections or e.concordance is not None]
    labels, _ = _BY_TASK[study.study.task](held, study)
    if label not in labels:
        return None
    patients = sum(e.overlaps[label].dice.patients if label in e.overlaps else e.patients for e in held)
    return GroupBlock(figures=labels[label], patients=patients, sites=len(held))


def _mean(given: Sequence[Figures]) -> Figures:
    """The mean over labels of each figure, of those that have it; likewise of the ends of its interval."""
    found: Figures = {}
    for metric in OTHER_METRICS:
        held = [figures[metric] for figures in given if metric in figures]
        if held:
            found[metric] = Figure(
                value=fmean(each.value for each in held),
                low=fmean(each.low for each in held),
                high=fmean(each.high for each in held),
            )
    return found


def _figures(estimates: Mapping[Metric, Estimate | None]) -> Figures:
    return {metric: figure for metric, one in estimates.items() if (figure := Figure.of(one)) is not None}


def _dice(overlaps: Iterable[Overlap]) -> Estimate | None:
    moments = pooled_moments(one.dice for one in overlaps)
    return None if moments is None else moments.fraction_interval()


def _mm(parts: Iterable[Moments | None]) -> Estimate | None:
    moments = pooled_moments(part for part in parts if part is not None)
    return None if moments is None else moments.interval()


def _masks(held: Sequence[GroupEvaluation], study: StudySpec) -> tuple[dict[str, Figures], Figures]:
    labels = {}
    for structure in study.cohort.labels:
        own = [e.overlaps[structure] for e in held if structure in e.overlaps]
        before = [e.unregistered[structure] for e in held if structure in e.unregistered]
        figures = _figures(
            {
                "dice": _dice(own),
                "dice_before": _dice(before),
                "surface_mm": _mm(one.surface_mm for one in own),
                "hausdorff_mm": _mm(one.hausdorff_mm for one in own),
            }
        )
        if own:
            labels[structure] = figures
    folding = _mm(e.folding for e in held)
    if folding is None:
        return labels, {}
    share = {"value": folding.value, "low": folding.low, "high": folding.high}
    return labels, {"folding_percent": Figure(**{end: 100 * value for end, value in share.items()})}


def _survival(held: Sequence[GroupEvaluation], study: StudySpec) -> tuple[dict[str, Figures], Figures]:
    pairs = pooled_concordance(e.concordance for e in held if e.concordance is not None)
    return {} if pairs is None else {study.cohort.labels[-1]: _figures({"c_index": pairs.interval()})}, {}


def _detections(held: Sequence[GroupEvaluation], study: StudySpec) -> tuple[dict[str, Figures], Figures]:
    labels = {}
    for kind in study.cohort.labels:
        froc = merged_froc(_of_kind(held, kind))
        if froc is not None:
            at_one = float(froc.sensitivities()[RATES.index(1.0)])
            labels[kind] = _figures(
                {
                    "froc": froc.interval(interval_seed(study)),
                    "sensitivity_at_1": wilson_interval(at_one * froc.findings, froc.findings),
                }
            )
    return labels, {}


def _of_kind(held: Iterable[GroupEvaluation], kind: str) -> list[Detections]:
    return [e.detections[kind] for e in held if kind in e.detections]


_BY_TASK: Mapping[str, Callable[[Sequence[GroupEvaluation], StudySpec], tuple[dict[str, Figures], Figures]]] = {
    "segmentation": _masks,
    "registration": _masks,
    "survival": _survival,
    "detection": _detections,
}


def froc_curves(evaluations: Iterable[Evaluation]) -> dict[str, FrocCurve]:
    """The merged FROC curve of each kind of finding of which a site tells."""
    held = list(evaluations)
    kinds = sorted({kind for e in held for kind in e.detections})
    return {kind: FrocCurve.of(froc) for kind in kinds if (froc := merged_froc(_of_kind(held, kind))) is not None}


def dice_spreads(evaluations: Iterable[Evaluation]) -> dict[str, Spread]:
    """How each structure's Dice is spread over all sites' patients."""
    held = list(evaluations)
    structures = sorted({structure for e in held for structure in e.overlaps})
    return {
        structure: Spread(**dict(zip(Spread.model_fields, found.tolist(), strict=True)))
        for structure in structures
        for found in [dice_percentiles([e.overlaps[structure] for e in held if structure in e.overlaps])]
    }
