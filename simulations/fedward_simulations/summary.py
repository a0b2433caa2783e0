"""From finished runs to results.json's numbers: which evaluation becomes which block of the table."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from fedward_common.metrics import (
    Estimate,
    Evaluation,
    GroupEvaluation,
    MergedHistogram,
    pooled,
    pooled_at,
)
from fedward_common.records import Prepared
from fedward_common.streams import stream_seed
from fedward_common.study import StudySpec
from fedward_common.study_subgroups import GROUPS
from fedward_server.result import RoundHistory
from fedward_simulations.compare import Comparison
from fedward_simulations.results import (
    Block,
    CalibrationPoint,
    Compared,
    Curve,
    Figure,
    GroupBlock,
    GroupBlocks,
    ModelName,
    PrecisionRecall,
    RoundPoint,
    SeedRun,
    SiteResult,
    Traffic,
    f1,
    mean_block,
)
from fedward_simulations.task_blocks import dice_spreads, froc_curves, group_block, task_block

NOT_SCORED = "the model was not scored here; the run's log says why"
TOO_CLOSE = "the scores lie too close together for histograms to tell them apart"
MOST_HIDDEN = 0.01  # of the area under the ROC curve, by the unknown order of patients in one bin,
HIDDEN_BY_CHANCE = 0.1  # or of its interval's width, where few patients leave more of it open anyway
MIXED = "each hospital has a model of its own, whose scores cannot be ranked against another's"

ONE_EACH: tuple[ModelName, ...] = ("local", "personal")  # not one model but one for each hospital

RANKED = ("classification", "detection")  # tasks whose overall figures rank the scores of all hospitals' patients

Evaluations = Mapping[str, Evaluation]  # by hospital, on its test patients


def summarize(comparison: Comparison, *, workers: int) -> SeedRun:
    """The numbers of one seed; `workers` is how many hospitals trained at a time."""
    run = comparison.federated
    names = sorted(run.sites)
    tests: dict[ModelName, Evaluations] = {
        "local": {name: e for name, one in comparison.local.items() if (e := one.sites[name].test) is not None},
        "federated": {name: e for name in names if (e := run.sites[name].test) is not None},
    }
    if comparison.pooled is not None:
        held = comparison.pooled.sites
        tests["pooled"] = {name: e for name in names if name in held and (e := held[name].test) is not None}
    if own := {name: e for name in names if (e := run.sites[name].personal) is not None}:
        tests["personal"] = own
    merged = {model: _merged(found, run.study) for model, found in tests.items()}
    single = {model: by_label for model, by_label in merged.items() if by_label and model not in ONE_EACH}
    overall = {model: _overall(found, merged[model], run.study) for model, found in tests.items()}
    if run.study.study.task in RANKED:
        overall |= {model: _without_ranking(overall[model]) for model in ONE_EACH if model in overall}
    one_model = {model: found for model, found in tests.items() if model not in ONE_EACH}
    return SeedRun(
        seed=comparison.seed,
        model_sha256=run.model_sha256,
        wall_s=comparison.wall_s,
        seconds_per_round=fmean(row.seconds for row in run.history),
        training_share=training_share(run.history, workers),
        bytes_per_site_per_round=traffic(run.history),
        sites=tuple(_site(name, comparison, tests) for name in names),
        overall=Compared(
            local=overall["local"],
            federated=overall["federated"],
            personal=overall.get("personal"),
            pooled=overall.get("pooled"),
        ),
        history=tuple(_point(row, run.study) for row in run.history),
        local_history={
            name: tuple(_point(row, run.study) for row in one.history) for name, one in comparison.local.items()
        },
        roc={
            model: {label: Curve.of(histogram.roc()) for label, histogram in by_label.items()}
            for model, by_label in single.items()
        },
        precision_recall={
            model: {label: PrecisionRecall.of(histogram.precision_recall()) for label, histogram in by_label.items()}
            for model, by_label in single.items()
        },
        calibration={
            model: {label: _calibration(histogram) for label, histogram in by_label.items()}
            for model, by_label in single.items()
        },
        froc={model: curves for model, found in one_model.items() if (curves := froc_curves(found.values()))},
        subgroups=_groups(tests["federated"], run.study),
        dice={model: spreads for model, found in tests.items() if (spreads := dice_spreads(found.values()))},
    )


def training_share(history: Iterable[RoundHistory], workers: int) -> float:
    """Of the time that workers had in these rounds, how much went into training. In [0, 1]."""
    rows = list(history)
    available = sum(row.seconds * min(workers, len(row.sites)) for row in rows)
    trained = sum(site.train_seconds for row in rows for site in row.sites.values())
    return min(1.0, trained / available) if available else 0.0


def traffic(history: Iterable[RoundHistory]) -> Traffic:
    """Mean bytes of one hospital in one round, arrays and text of the messages."""
    sites = [site for row in history for site in row.sites.values()]
    return Traffic(up=round(fmean(s.bytes_up for s in sites)), down=round(fmean(s.bytes_down for s in sites)))


# Blocks --------------------------------------------------------------------------------------------------------------


def _labels(study: StudySpec) -> tuple[str, ...]:
    """The labels whose figures count: the positive one, else all, averaged."""
    return study.cohort.labels if study.cohort.positive is None else (study.cohort.positive,)


def _site(name: str, comparison: Comparison, tests: Mapping[ModelName, Evaluations]) -> SiteResult:
    run = comparison.federated
    blocks = {model: _block(found.get(name), run.study) for model, found in tests.items()}
    if name in comparison.failed:
        blocks["local"] = Block(withheld=comparison.failed[name])
    if run.study.only_evaluates(name):
        blocks["local"] = _visited(name, comparison)
    return SiteResult(
        name=name,
        patients=_told(run.sites[name].prepared),
        local=blocks["local"],
        federated=blocks["federated"],
        personal=blocks.get("personal"),
        pooled=blocks.get("pooled"),
    )


def _told(prepared: Prepared) -> int:
    """How many patients a hospital has in the study, as far as its small-cell rule tells: or as many as its sides."""
    sides = (count for count in prepared.patients.values() if count is not None)
    return sum(sides) if prepared.total is None else prepared.total


def _visited(name: str, comparison: Comparison) -> Block:
    """A hospital that trains nothing: the mean of what the other hospitals' own models do there."""
    visits = [e for _, one in sorted(comparison.local.items()) if (e := one.sites[name].test) is not None]
    return mean_block([_block(e, comparison.federated.study) for e in visits]) if visits else Block(withheld=NOT_SCORED)


def _block(evaluation: Evaluation | None, study: StudySpec) -> Block:
    if evaluation is None:
        return Block(withheld=NOT_SCORED)
    if study.study.task != "classification":
        return task_block([evaluation], study)
    labels = _labels(study)
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


def _merged(evaluations: Evaluations, study: StudySpec) -> dict[str, MergedHistogram]:
    """All hospitals' sketches of each label that counts and that some hospital shows."""
    if study.study.task != "classification":
        return {}
    held = [evaluations[name] for name in sorted(evaluations)]
    return {label: histogram for label in _labels(study) if (histogram := pooled(held, label)) is not None}


def _without_ranking(block: Block) -> Block:
    """The block of several models together: their calls can be counted, their scores not ranked."""
    unranked = dict.fromkeys(("roc_auc", "brier", "average_precision", "calibration_error"))
    labels = {label: _without_ranking(own) for label, own in block.labels.items()}
    why = (block.withheld, MIXED) if labels else (block.withheld or MIXED,)
    kept = {"figures": {}, "labels": labels, "withheld": "; ".join(filter(None, why))}
    return block.model_copy(update={**unranked, **kept})


def _overall(evaluations: Evaluations, merged: Mapping[str, MergedHistogram], study: StudySpec) -> Block:
    """All hospitals' test patients together: of classes, the area from merged sketches, the rest exact."""
    held = [evaluations[name] for name in sorted(evaluations)]
    if study.study.task != "classification":
        return task_block(held, study)
    if not merged:
        return Block(withheld="no figure over all hospitals: too few patients for any hospital to show")
    blocks = {label: _pooled_block(held, label, histogram, study) for label, histogram in merged.items()}
    if study.cohort.positive is not None:
        return blocks[study.cohort.positive]
    shown = sum(e.patients for e in held if e.figures)
    return _macro(blocks, patients=shown, withheld=_partial(evaluations, blocks, study))


def _partial(evaluations: Evaluations, blocks: Mapping[str, Block], study: StudySpec) -> str | None:
    """Which hospitals count in a label's figures where not all do, and why a label has no area."""
    found = []
    for label in _labels(study):
        shown = [name for name, e in sorted(evaluations.items()) if label in e.figures]
        if len(shown) < len(evaluations):
            found.append(f"{label} is shown by {' and '.join(shown) or 'no hospital'}")
        if label in blocks and blocks[label].withheld:
            found.append(f"{label}: {blocks[label].withheld}")
    return "; ".join(found) or None


def _pooled_block(held: Sequence[GroupEvaluation], label: str, merged: MergedHistogram, study: StudySpec) -> Block:
    """Patients of several hospitals together, for one label; of one that shows it alone, exactly."""
    own = [e for e in held if label in e.figures]
    area = area_of(merged, study)
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


def _groups(evaluations: Evaluations, study: StudySpec) -> GroupBlocks:
    """Each group of patients of whom a hospital may tell: of one hospital exactly, of several as of all patients."""
    found: GroupBlocks = {}
    for by in study.evaluation.subgroups:
        for name in GROUPS[by]:
            held = [e.subgroups[by][name] for _, e in sorted(evaluations.items()) if name in e.subgroups.get(by, {})]
            for label in _labels(study):
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
    return GroupBlock(**dict(_pooled_block(own, label, merged, study)), sites=len(own))


def area_of(merged: MergedHistogram, study: StudySpec) -> Estimate | None:
    """The area under the ROC curve, None where the unknown order of patients in one bin hides too much of it."""
    area = merged.roc_auc_interval(stream_seed(study.training.seed, "overall"))
    hidden = merged.tied() / 2  # a tied pair counts half, and is right or wrong
    return area if hidden <= max(MOST_HIDDEN, HIDDEN_BY_CHANCE * (area.high - area.low)) else None


# Curves --------------------------------------------------------------------------------------------------------------


def _calibration(histogram: MergedHistogram) -> tuple[CalibrationPoint, ...]:
    return tuple(CalibrationPoint.of(group) for group in histogram.calibration())


def _point(row: RoundHistory, study: StudySpec) -> RoundPoint:
    layer = study.layer(row.round)
    return RoundPoint(
        round=row.round,
        seconds=row.seconds,
        train_loss=row.train_loss if layer is None else None,
        layer=layer,
        layer_loss=None if layer is None else row.train_loss,
        fold=study.fold(row.round),
        validation_loss=row.validation_loss,
        primary=row.primary,
        sites=tuple(sorted(row.sites)),
        missing=dict(row.refused),
    )
