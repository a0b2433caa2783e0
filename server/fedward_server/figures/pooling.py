"""From evaluations to blocks: one site's, all sites' patients together, groups of patients."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from fedward_common.metrics import (
    Estimate,
    Evaluation,
    GroupEvaluation,
    MergedHistogram,
    auc_score_interval,
    pooled,
    pooled_at,
)
from fedward_common.study import StudySpec
from fedward_common.study_subgroups import GROUPS
from fedward_server.figures.blocks import Block, Figure, GroupBlock, GroupBlocks, ModelName, f1, interval_seed
from fedward_server.figures.task_blocks import group_block, task_block

NOT_SCORED = "the model was not scored here; the run's log says why"
TOO_CLOSE = "the scores lie too close together for histograms to tell them apart"
MOST_HIDDEN = 0.01  # of the area under the ROC curve, by the unknown order of patients in one bin,
HIDDEN_BY_CHANCE = 0.1  # or of its interval's width, where few patients leave more of it open anyway
MIXED = "each hospital has a model of its own, whose scores cannot be ranked against another's"

ONE_EACH: tuple[ModelName, ...] = ("local", "personal")  # not one model but one for each hospital

RANKED = ("classification", "detection")  # tasks whose overall figures rank the scores of all hospitals' patients

Evaluations = Mapping[str, Evaluation]  # by hospital, on its test patients
Area = Callable[[MergedHistogram, StudySpec], Estimate | None]  # under the ROC curve, None where too little is known


def site_block(evaluation: Evaluation | None, study: StudySpec) -> Block:
    """A model on one site's patients."""
    if evaluation is None:
        return Block(withheld=NOT_SCORED)
    if study.study.task != "classification":
        return task_block([evaluation], study)
    labels = study.asked_labels
    blocks = {label: Block.of(evaluation.figures[label]) for label in labels if label in evaluation.figures}
    if not blocks:
        return Block(withheld=evaluation.withheld or NOT_SCORED)
    if study.cohort.positive is not None:
        return blocks[study.cohort.positive]
    # a mean over some labels cannot stand beside one over all; of several labels an image, each hospital knows its own
    if len(blocks) < len(labels) and not study.cohort.multi_label:
        return Block(labels=blocks, patients=evaluation.patients, withheld=evaluation.withheld or NOT_SCORED)
    return _macro(blocks, patients=evaluation.patients, withheld=evaluation.withheld)


def _macro(blocks: Mapping[str, Block], *, patients: int, withheld: str | None) -> Block:
    """The means over labels, each judged against the rest ("macro"); None where a label has none.

    An interval's ends are the means of the labels' own. However the labels' errors go together, the standard deviation
    of a mean is at most the mean of the standard deviations (the triangle inequality), with equality where all err
    alike: so this interval is rather too wide than too narrow, and nothing need be assumed of their correlation.
    """
    held = blocks.values()
    return Block(
        roc_auc=_mean_figure([block.roc_auc for block in held]),
        sensitivity=_mean_figure([block.sensitivity for block in held]),
        specificity=_mean_figure([block.specificity for block in held]),
        precision=_mean_figure([block.precision for block in held]),
        brier=_mean([block.brier for block in held]),
        f1=_mean([block.f1 for block in held]),
        average_precision=_mean([block.average_precision for block in held]),
        calibration_error=_mean([block.calibration_error for block in held]),
        patients=patients,
        withheld=withheld,
        labels=dict(blocks),
    )


def _mean(given: Sequence[float | None]) -> float | None:
    values = [value for value in given if value is not None]
    return fmean(values) if len(values) == len(given) else None


def _mean_figure(given: Sequence[Figure | None]) -> Figure | None:
    figures = [one for one in given if one is not None]
    if len(figures) < len(given):
        return None
    return Figure(
        value=fmean(one.value for one in figures),
        low=fmean(one.low for one in figures),
        high=fmean(one.high for one in figures),
    )


def merged_scores(evaluations: Evaluations, study: StudySpec) -> dict[str, MergedHistogram]:
    """All hospitals' sketches of each label that counts and that some hospital shows."""
    if study.study.task != "classification":
        return {}
    held = [evaluations[name] for name in sorted(evaluations)]
    return {label: histogram for label in study.asked_labels if (histogram := pooled(held, label)) is not None}


def without_ranking(block: Block) -> Block:
    """The block of several models together: their calls can be counted, their scores not ranked."""
    unranked = dict.fromkeys(("roc_auc", "brier", "average_precision", "calibration_error"))
    labels = {label: without_ranking(own) for label, own in block.labels.items()}
    why = (block.withheld, MIXED) if labels else (block.withheld or MIXED,)
    kept = {"figures": {}, "labels": labels, "withheld": "; ".join(filter(None, why))}
    return block.model_copy(update={**unranked, **kept})


def overall_blocks(
    tests: Mapping[ModelName, Evaluations], merged: Mapping[ModelName, Mapping[str, MergedHistogram]], study: StudySpec
) -> dict[ModelName, Block]:
    """By model, all hospitals' test patients together; `merged` are their scores by label."""
    apart = ONE_EACH if study.study.task in RANKED else ()
    return {
        model: without_ranking(overall_block(own, merged[model], study, _quick_area))
        if model in apart
        else overall_block(own, merged[model], study, area_of)
        for model, own in tests.items()
    }


def overall_block(
    evaluations: Evaluations, merged: Mapping[str, MergedHistogram], study: StudySpec, area: Area
) -> Block:
    """All hospitals' test patients together: of classes, the area from merged sketches, the rest exact."""
    held = [evaluations[name] for name in sorted(evaluations)]
    if study.study.task != "classification":
        return task_block(held, study)
    if not merged:
        return Block(withheld="no figure over all hospitals: too few patients for any hospital to show")
    blocks = {
        label: pooled_block(held, label, histogram, area(histogram, study)) for label, histogram in merged.items()
    }
    if study.cohort.positive is not None:
        return blocks[study.cohort.positive]
    shown = sum(e.patients for e in held if e.figures)
    return _macro(blocks, patients=shown, withheld=_partial(evaluations, blocks, study))


def _partial(evaluations: Evaluations, blocks: Mapping[str, Block], study: StudySpec) -> str | None:
    """Which hospitals count in a label's figures where not all do, and why a label has no area."""
    found = []
    for label in study.asked_labels:
        shown = [name for name, e in sorted(evaluations.items()) if label in e.figures]
        if len(shown) < len(evaluations):
            found.append(f"{label} is shown by {' and '.join(shown) or 'no hospital'}")
        if label in blocks and blocks[label].withheld:
            found.append(f"{label}: {blocks[label].withheld}")
    return "; ".join(found) or None


def pooled_block(held: Sequence[GroupEvaluation], label: str, merged: MergedHistogram, area: Estimate | None) -> Block:
    """Patients of several hospitals together, for one label; of one that shows it alone, exactly."""
    own = [e for e in held if label in e.figures]
    precision, error = None if area is None else merged.average_precision(), merged.calibration_error()
    if len(own) == 1:
        exact = Block.of(own[0].figures[label])
        return exact.model_copy(update={"average_precision": precision, "calibration_error": error})
    calls = pooled_at(held, label)
    points = {e.figures[label].threshold for e in held if label in e.figures}
    return Block(
        roc_auc=Figure.of(area),
        sensitivity=Figure.of(calls.get("sensitivity")),
        specificity=Figure.of(calls.get("specificity")),
        precision=Figure.of(calls.get("precision")),
        brier=merged.brier(),
        f1=f1(calls.get("precision"), calls.get("sensitivity")),
        average_precision=precision,
        calibration_error=error,
        withheld=TOO_CLOSE if area is None else None,
        threshold=points.pop() if len(points) == 1 else None,
        patients=merged.total_positives + merged.total_negatives,
        positives=merged.total_positives,
        negatives=merged.total_negatives,
    )


def group_blocks(evaluations: Evaluations, study: StudySpec) -> GroupBlocks:
    """Each group of patients of whom a hospital may tell: of one hospital exactly, of several as of all patients."""
    found: GroupBlocks = {}
    for by in study.evaluation.subgroups:
        for name in GROUPS[by]:
            held = [e.subgroups[by][name] for _, e in sorted(evaluations.items()) if name in e.subgroups.get(by, {})]
            for label in study.asked_labels:
                of_label = _group if study.study.task == "classification" else group_block
                block = of_label(held, label, study)
                if block is not None:
                    found.setdefault(by, {}).setdefault(name, {})[label] = block
    return found


def _group(held: Sequence[GroupEvaluation], label: str, study: StudySpec) -> GroupBlock | None:
    own = [e for e in held if label in e.figures]
    merged = pooled(own, label)
    if merged is None:
        return None
    return GroupBlock(**dict(pooled_block(own, label, merged, area_of(merged, study))), sites=len(own))


def area_of(merged: MergedHistogram, study: StudySpec) -> Estimate | None:
    """The area under the ROC curve, None where the unknown order of patients in one bin hides too much of it."""
    area = merged.roc_auc_interval(interval_seed(study))
    return area if are_apart(merged, area) else None


def _quick_area(merged: MergedHistogram, _study: StudySpec) -> Estimate:
    """The same for a figure that will not be shown: without the bootstrap, which takes long."""
    return auc_score_interval(merged.roc_auc(), merged.total_positives, merged.total_negatives)


def are_apart(merged: MergedHistogram, area: Estimate | Figure) -> bool:
    """Whether the unknown order of patients in one bin hides little of the area under the ROC curve."""
    hidden = merged.tied() / 2  # a tied pair counts half, and is right or wrong
    return hidden <= max(MOST_HIDDEN, HIDDEN_BY_CHANCE * (area.high - area.low))
