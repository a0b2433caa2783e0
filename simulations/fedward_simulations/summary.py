"""From finished runs to results.json's numbers: which evaluation becomes which block of the table."""

from collections.abc import Iterable, Mapping
from statistics import fmean

from fedward_common.study import StudySpec
from fedward_server.figures.blocks import Block, ModelName
from fedward_server.figures.curves import Curve, PrecisionRecall, calibration_points
from fedward_server.figures.pooling import (
    NOT_SCORED,
    ONE_EACH,
    Evaluations,
    group_blocks,
    merged_scores,
    overall_blocks,
    site_block,
)
from fedward_server.figures.task_blocks import dice_spreads, froc_curves
from fedward_server.result import RoundHistory
from fedward_simulations.compare import Comparison
from fedward_simulations.results import Compared, RoundPoint, SeedRun, SiteResult, Traffic, mean_block


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
    merged = {model: merged_scores(found, run.study) for model, found in tests.items()}
    single = {model: by_label for model, by_label in merged.items() if by_label and model not in ONE_EACH}
    overall = overall_blocks(tests, merged, run.study)
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
            model: {label: calibration_points(histogram) for label, histogram in by_label.items()}
            for model, by_label in single.items()
        },
        froc={model: curves for model, found in one_model.items() if (curves := froc_curves(found.values()))},
        subgroups=group_blocks(tests["federated"], run.study),
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


def _site(name: str, comparison: Comparison, tests: Mapping[ModelName, Evaluations]) -> SiteResult:
    run = comparison.federated
    blocks = {model: site_block(found.get(name), run.study) for model, found in tests.items()}
    if name in comparison.failed:
        blocks["local"] = Block(withheld=comparison.failed[name])
    if run.study.only_evaluates(name):
        blocks["local"] = _visited(name, comparison)
    return SiteResult(
        name=name,
        patients=run.sites[name].prepared.told_patients,
        local=blocks["local"],
        federated=blocks["federated"],
        personal=blocks.get("personal"),
        pooled=blocks.get("pooled"),
    )


def _visited(name: str, comparison: Comparison) -> Block:
    """A hospital that trains nothing: the mean of what the other hospitals' own models do there."""
    visits = [e for _, one in sorted(comparison.local.items()) if (e := one.sites[name].test) is not None]
    return (
        mean_block([site_block(e, comparison.federated.study) for e in visits])
        if visits
        else Block(withheld=NOT_SCORED)
    )


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
