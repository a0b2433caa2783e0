"""From finished runs to results.json's numbers: which evaluation becomes which block of the table."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from fedward_common.metrics import (
    Estimate,
    Evaluation,
    GroupEvaluation,
    MergedHistogram,
    SiteFigures,
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
from fedward_simulations.task_blocks import Figures, dice_spreads, figures_of, froc_curves, group_block, task_block

NOT_SCORED = "the model was not scored here; the run's log says why"
TOO_CLOSE = "the scores lie too close together for histograms to tell them apart"
MOST_TIES = 0.02  # half of it, 0.01, is what ties can hide of the area under the ROC curve
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
    single = {model: found for model, found in merged.items() if found is not None and model not in ONE_EACH}
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
        roc={model: Curve.of(histogram.roc()) for model, histogram in single.items()},
        precision_recall={
            model: PrecisionRecall.of(histogram.precision_recall()) for model, histogram in single.items()
        },
        calibration={model: _calibration(histogram) for model, histogram in single.items()},
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
    figures = [evaluation.figures[label] for label in labels if label in evaluation.figures]
    # a mean over some labels cannot stand beside one over all; of several labels an image, each hospital knows its own
    if not figures or (len(figures) < len(labels) and not study.cohort.multi_label):
        return Block(withheld=evaluation.withheld or NOT_SCORED)
    if len(labels) == 1:
        return Block.of(figures[0])
    return Block(
        roc_auc=_mean_figure([one.roc_auc for one in figures]),
        sensitivity=_mean_figure([one.sensitivity for one in figures]),
        specificity=_mean_figure([one.specificity for one in figures]),
        precision=_mean_figure([one.precision for one in figures]),
        brier=fmean(one.brier for one in figures),
        f1=_mean_f1(figures),
        patients=evaluation.patients,
        withheld=evaluation.withheld,
        labels={
            label: figures_of({"roc_auc": one.roc_auc})
            for label, one in evaluation.figures.items()
            if study.cohort.multi_label
        },
    )


def _mean_f1(figures: Sequence[SiteFigures]) -> float | None:
    """The mean over labels ("macro"); None where one of them has none."""
    values = [f1(one.precision, one.sensitivity) for one in figures]
    given = [value for value in values if value is not None]
    return fmean(given) if len(given) == len(values) else None


def _mean_figure(given: list[Estimate | None]) -> Figure | None:
    """The mean over labels; None where one of them has none."""
    estimates = [one for one in given if one is not None]
    if len(estimates) < len(given):
        return None
    return Figure(
        value=fmean(one.value for one in estimates),
        low=fmean(one.low for one in estimates),
        high=fmean(one.high for one in estimates),
    )


def _merged(evaluations: Evaluations, study: StudySpec) -> MergedHistogram | None:
    """All hospitals' sketches of the positive label; None where there is no positive label or nothing left home."""
    if study.cohort.positive is None or study.study.task != "classification":
        return None
    return pooled([evaluations[name] for name in sorted(evaluations)], study.cohort.positive)


def _without_ranking(block: Block) -> Block:
    """The block of several models together: their calls can be counted, their scores not ranked."""
    unranked = dict.fromkeys(("roc_auc", "brier", "average_precision", "calibration_error"))
    return block.model_copy(update={**unranked, "figures": {}, "labels": {}, "withheld": block.withheld or MIXED})


def _overall(evaluations: Evaluations, merged: MergedHistogram | None, study: StudySpec) -> Block:
    """All hospitals' test patients together: of classes, the area from merged sketches, the rest exact."""
    if study.study.task != "classification":
        return task_block([evaluations[name] for name in sorted(evaluations)], study)
    positive = study.cohort.positive
    if merged is None or positive is None:
        why = "the study has no positive label" if positive is None else "too few patients for any hospital to show"
        return Block(withheld=f"no figure over all hospitals: {why}", labels=_areas(evaluations, study))
    if len(evaluations) == 1:  # then all together is that hospital, exactly
        block = _block(next(iter(evaluations.values())), study)
        return block.model_copy(update=_of_scores(merged))
    return _pooled_block(list(evaluations.values()), positive, merged, study)


def _areas(evaluations: Evaluations, study: StudySpec) -> dict[str, Figures]:
    """Of several labels an image, the area of each from all hospitals' merged sketches."""
    found: dict[str, Figures] = {}
    for label in study.cohort.labels if study.cohort.multi_label else ():
        merged = pooled([evaluations[name] for name in sorted(evaluations)], label)
        if merged is not None and merged.tied() <= MOST_TIES:
            interval = merged.roc_auc_interval(stream_seed(study.training.seed, "overall"))
            found[label] = figures_of({"roc_auc": interval})
    return found


def _pooled_block(held: Sequence[GroupEvaluation], label: str, merged: MergedHistogram, study: StudySpec) -> Block:
    """Patients of several hospitals together, for one label."""
    close = merged.tied() > MOST_TIES
    interval = None if close else merged.roc_auc_interval(stream_seed(study.training.seed, "overall"))
    calls = pooled_at(held, label)
    scores = _of_scores(merged)
    points = {e.figures[label].threshold for e in held if label in e.figures}
    return Block(
        roc_auc=Figure.of(interval),
        sensitivity=Figure.of(calls.get("sensitivity")),
        specificity=Figure.of(calls.get("specificity")),
        precision=Figure.of(calls.get("precision")),
        brier=merged.brier(),
        f1=f1(calls.get("precision"), calls.get("sensitivity")),
        average_precision=scores["average_precision"],
        calibration_error=scores["calibration_error"],
        withheld=TOO_CLOSE if close else None,
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
    block = Block.of(own[0].figures[label]) if len(own) == 1 else _pooled_block(own, label, merged, study)
    return GroupBlock(**dict(block), sites=len(own))


def _of_scores(merged: MergedHistogram) -> dict[str, float | None]:
    """What only the scores of all patients together tell."""
    close = merged.tied() > MOST_TIES
    return {
        "average_precision": None if close else merged.average_precision(),
        "calibration_error": merged.calibration_error(),
    }


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
