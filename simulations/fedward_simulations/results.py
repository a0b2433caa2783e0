"""What a run found, as results.json: the numbers that scripts, the report and the model card share. Values only.

Scripts may rely on study, seeds, engine, sites (name, patients, local, federated, personal, pooled with roc_auc,
sensitivity, specificity, precision, each with value, low, high), rounds, seconds_per_round, bytes_per_site_per_round
(up, down), model_sha256 and wall_s; every other key stands beside them. Where the task is not classification, a model's
figures are in `figures`: dice, surface_mm, hausdorff_mm; dice_before, folding_percent; c_index; froc, sensitivity_at_1.
Of several labels without a positive one a figure is the mean over labels, and each label's own figures are in `labels`;
curves in `runs` are by model and label. Nothing here is about one patient. Where the study asks for groups of patients,
`subgroups` has them by sex, age or vendor, group and label.

`combine` makes the file of one seed or of several: a figure is then the mean over the seeds, its interval the mean of
the seeds' 95 % intervals, and `sd` says how much the value differs between seeds.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, ValidationError

from fedward_common import __version__
from fedward_common.errors import RunError, UsageError
from fedward_common.study_subgroups import Subgroups
from fedward_server.figures.blocks import (
    METRICS,
    MODELS,
    OTHER_METRICS,
    Block,
    Count,
    Figure,
    GroupBlock,
    GroupBlocks,
    Metric,
    ModelName,
    Part,
    f1,
)
from fedward_server.figures.curves import CalibrationPoint, Curve, FrocCurve, PrecisionRecall, Spread
from fedward_server.figures.run_figures import Participation
from fedward_simulations.result_blocks import Compared, Means, Overall, OverallBlock
from fedward_simulations.result_parts import (
    Digest,
    RoundPoint,
    Seconds,
    SeedRun,
    Share,
    Side,
    SiteEffect,
    SiteEffectChange,
    SiteReport,
    SiteResult,
    StudyInfo,
    Traffic,
)

__all__ = [
    "METRICS",
    "MODELS",
    "OTHER_METRICS",
    "Block",
    "CalibrationPoint",
    "Compared",
    "Count",
    "Curve",
    "Digest",
    "Engine",
    "Figure",
    "FrocCurve",
    "GroupBlock",
    "GroupBlocks",
    "Means",
    "Metric",
    "ModelName",
    "Overall",
    "OverallBlock",
    "Participation",
    "PrecisionRecall",
    "Results",
    "RoundPoint",
    "Seconds",
    "SeedRun",
    "Share",
    "Side",
    "SiteEffect",
    "SiteEffectChange",
    "SiteReport",
    "SiteResult",
    "Spread",
    "StudyInfo",
    "Traffic",
    "combine",
    "f1",
    "package_versions",
    "write_atomic",
]

Engine = Literal["embedded", "ray", "deployment"]

PACKAGES = ("flwr", "matplotlib", "monai", "numpy", "pydantic", "pydicom", "python-gdcm", "ray", "torch")


class Results(Part):
    """results.json."""

    study: StudyInfo
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)]
    engine: Engine
    sites: tuple[SiteResult, ...]
    rounds: Count
    seconds_per_round: Seconds
    bytes_per_site_per_round: Traffic
    model_sha256: Digest  # the first seed's model
    wall_s: Seconds
    overall: Overall
    training_share: Share | None
    planted: bool  # made for a demonstration, not a hospital's own data
    data_notes: tuple[str, ...]
    site_reports: tuple[SiteReport, ...]
    participation: dict[str, Participation]
    subgroups: GroupBlocks = Field(default_factory=dict, exclude_if=lambda held: not held)  # the federated model
    site_effect: SiteEffectChange | None = None  # None where data may not be in one place, or are too few
    fedward: str
    versions: dict[str, str]
    created: AwareDatetime
    runs: Annotated[tuple[SeedRun, ...], Field(min_length=1)]

    def write(self, path: Path) -> None:
        """Write results.json atomically."""
        write_atomic(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote; `UsageError` says what is wrong with a file that is something else."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise UsageError(f"{path} is no results.json of this version of Fedward: {where}: {first['msg']}") from None


def write_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text under a temporary name, fsync, rename: a reader sees the old file or the new one, whole."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def package_versions() -> dict[str, str]:
    """The versions of the installed packages that a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def combine(
    runs: Sequence[SeedRun],
    *,
    study: StudyInfo,
    engine: Engine,
    created: AwareDatetime,
    wall_s: float,
    planted: bool = False,
    data_notes: Sequence[str] = (),
    site_reports: Sequence[SiteReport] = (),
    site_effect: SiteEffectChange | None = None,
    versions: Mapping[str, str] | None = None,
) -> Results:
    """One results.json of a run per seed.

    `wall_s` is of the whole command, baselines included. `versions` are those of the installed packages unless given.
    Raises `RunError` when there is no run, a seed stands twice, or the runs are of different hospitals.
    """
    _check(runs)
    sites = tuple(_mean_site([run.sites[index] for run in runs]) for index in range(len(runs[0].sites)))
    return Results(
        study=study,
        seeds=tuple(run.seed for run in runs),
        engine=engine,
        sites=sites,
        rounds=study.rounds,
        seconds_per_round=fmean(run.seconds_per_round for run in runs),
        bytes_per_site_per_round=Traffic(
            up=round(fmean(run.bytes_per_site_per_round.up for run in runs)),
            down=round(fmean(run.bytes_per_site_per_round.down for run in runs)),
        ),
        model_sha256=runs[0].model_sha256,
        wall_s=wall_s,
        overall=_overall(runs, sites, study.headline),
        training_share=_mean([run.training_share for run in runs]),
        planted=planted,
        data_notes=tuple(data_notes),
        site_reports=tuple(site_reports),
        participation={site.name: _participation(runs, site.name) for site in sites},
        subgroups=_mean_groups([run.subgroups for run in runs]),
        site_effect=site_effect,
        fedward=__version__,
        versions=dict(package_versions() if versions is None else versions),
        created=created,
        runs=tuple(runs),
    )


def _check(runs: Sequence[SeedRun]) -> None:
    if not runs:
        raise RunError("there is no finished run to report; run at least one seed to its end")
    repeated = [seed for seed, times in Counter(run.seed for run in runs).items() if times > 1]
    if repeated:
        raise RunError(f"seed {repeated[0]} stands twice; give each seed once")
    rosters = {tuple(site.name for site in run.sites) for run in runs}
    if len(rosters) > 1:
        raise RunError(f"the seeds were run at different hospitals: {' and '.join(map(str, sorted(rosters)))}")


def _mean_site(sites: Sequence[SiteResult]) -> SiteResult:
    pooled = [site.pooled for site in sites if site.pooled is not None]
    personal = [site.personal for site in sites if site.personal is not None]
    return SiteResult(
        name=sites[0].name,
        patients=round(fmean(site.patients for site in sites)),
        local=mean_block([site.local for site in sites]),
        federated=mean_block([site.federated for site in sites]),
        personal=mean_block(personal) if personal else None,
        pooled=mean_block(pooled) if pooled else None,
    )


def mean_block(blocks: Sequence[Block]) -> Block:
    """The mean over seeds; a figure that some seeds withheld is the mean over the others."""
    return Block(
        **{metric: _mean_figure([block.figure(metric) for block in blocks]) for metric in METRICS},
        brier=_mean([block.brier for block in blocks]),
        f1=_mean([block.f1 for block in blocks]),
        average_precision=_mean([block.average_precision for block in blocks]),
        calibration_error=_mean([block.calibration_error for block in blocks]),
        threshold=_mean([block.threshold for block in blocks]),
        patients=_mean_count([block.patients for block in blocks]),
        positives=_mean_count([block.positives for block in blocks]),
        negatives=_mean_count([block.negatives for block in blocks]),
        withheld=_withheld(blocks),
        figures=_mean_figures([block.figures for block in blocks]),
        labels={
            label: mean_block([block.labels[label] for block in blocks if label in block.labels])
            for label in dict.fromkeys(label for block in blocks for label in block.labels)
        },
    )


def _mean_groups(given: Sequence[GroupBlocks]) -> GroupBlocks:
    """Means over the seeds that tell of a group: another split can have too few of it."""
    found: dict[Subgroups, dict[str, dict[str, list[GroupBlock]]]] = {}
    for groups in given:
        for by, names in groups.items():
            for name, labels in names.items():
                for label, block in labels.items():
                    found.setdefault(by, {}).setdefault(name, {}).setdefault(label, []).append(block)
    return {
        by: {name: {label: _mean_group(own) for label, own in labels.items()} for name, labels in names.items()}
        for by, names in found.items()
    }


def _mean_group(blocks: Sequence[GroupBlock]) -> GroupBlock:
    return GroupBlock(**{**dict(mean_block(blocks)), "sites": max(block.sites for block in blocks)})


def _mean_figures(given: Sequence[Mapping[Metric, Figure]]) -> dict[Metric, Figure]:
    means = {metric: _mean_figure([figures.get(metric) for figures in given]) for metric in OTHER_METRICS}
    return {metric: mean for metric, mean in means.items() if mean is not None}


def _withheld(blocks: Sequence[Block]) -> str | None:
    reasons = [block.withheld for block in blocks if block.withheld]
    if not reasons:
        return None
    if len(reasons) == len(blocks):
        return reasons[0]
    return f"withheld in {len(reasons)} of {len(blocks)} seeds: {reasons[0]}"


def _mean_figure(figures: Sequence[Figure | None]) -> Figure | None:
    given = [figure for figure in figures if figure is not None]
    if not given:
        return None
    return Figure(
        value=fmean(figure.value for figure in given),
        low=fmean(figure.low for figure in given),
        high=fmean(figure.high for figure in given),
        sd=_sd([figure.value for figure in given]),
    )


def _sd(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return stdev(given) if len(given) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return fmean(given) if given else None


def _mean_count(values: Sequence[int | None]) -> int | None:
    mean = _mean(values)
    return None if mean is None else round(mean)


def _overall(runs: Sequence[SeedRun], sites: Sequence[SiteResult], headline: Metric) -> Overall:
    seeds = [run.overall for run in runs]
    pooled = [seed.pooled for seed in seeds if seed.pooled is not None]
    personal = [seed.personal for seed in seeds if seed.personal is not None]
    means, by_seed = _means(sites, headline), [_means(run.sites, headline) for run in runs]

    def block(blocks: Sequence[Block], model: ModelName) -> OverallBlock:
        sd = _sd([of_seed(model).figure(headline) for of_seed in by_seed])
        mean = means(model).model_copy(update={"sd": sd})
        return OverallBlock(**{**dict(mean_block(blocks)), "mean": mean})

    return Overall(
        local=block([seed.local for seed in seeds], "local"),
        federated=block([seed.federated for seed in seeds], "federated"),
        personal=block(personal, "personal") if personal else None,
        pooled=block(pooled, "pooled") if pooled else None,
    )


def _means(sites: Sequence[SiteResult], headline: Metric) -> Callable[[ModelName], Means]:
    """Means over the hospitals that have the figure for every model, so that the models face the same patients."""
    models: list[ModelName] = [model for model in MODELS if any(site.block(model) for site in sites)]

    def complete(metric: Metric) -> list[SiteResult]:
        return [site for site in sites if all(_value(site, model, metric) is not None for model in models)]

    def means(model: ModelName) -> Means:
        def mean(metric: Metric) -> float | None:
            return _mean([_value(site, model, metric) for site in complete(metric)])

        others = {metric: value for metric in OTHER_METRICS if (value := mean(metric)) is not None}
        return Means(sites=len(complete(headline)), figures=others, **{metric: mean(metric) for metric in METRICS})

    return means


def _value(site: SiteResult, model: ModelName, metric: Metric) -> float | None:
    block = site.block(model)
    figure = None if block is None else block.figure(metric)
    return None if figure is None else figure.value


def _participation(runs: Sequence[SeedRun], site: str) -> Participation:
    history = [point for run in runs for point in run.history]
    missed = Counter(point.missing[site] for point in history if site in point.missing)
    return Participation(
        rounds=sum(site in point.sites for point in history), of=len(history), missed=dict(sorted(missed.items()))
    )
