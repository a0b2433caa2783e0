"""The parts of results.json: hospitals, curves, rounds. Values only.

`fedward_simulations.results` puts them together with the blocks of figures, and offers them all.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedward_common.metrics import CalibrationGroup, Froc, PrecisionRecallCurve, RocCurve
from fedward_common.study import StudySpec
from fedward_simulations.result_blocks import (
    Block,
    Compared,
    Count,
    Figure,
    GroupBlocks,
    Metric,
    ModelName,
    Part,
    headline,
)

Side = Literal["train", "validation", "test"]

Seconds = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SiteEffect(Part):
    """How well a plain classifier tells a patient's hospital, on patients that it did not learn from.

    `accuracy` is balanced: the mean over hospitals of the share of their patients that were told, in 0..1; `chance` is
    1 / hospitals. With the same answers for patients whose hospitals are exchanged at random, 95 % of accuracies are
    from `chance_low` to `chance_high`, and a share `p_value` reaches `accuracy` (a permutation test, with one added to
    both counts).
    """

    accuracy: Share
    chance: Share
    chance_low: Share
    chance_high: Share
    p_value: Share
    patients: Count

    @property
    def found(self) -> bool:
        """Whether hospitals can be told better than by chance, at the 5 % level."""
        return self.p_value < 0.05


class SiteEffectChange(Part):
    """The same patients before and after harmonisation."""

    before: SiteEffect
    after: SiteEffect


class SiteResult(Part):
    """One hospital: `patients` in the study, and each model on this hospital's test patients."""

    name: str
    patients: Count
    local: Block
    federated: Block
    personal: Block | None = None
    pooled: Block | None

    def block(self, model: ModelName) -> Block | None:
        """The block of that name."""
        value: Block | None = getattr(self, model)
        return value


class Curve(Part):
    """A ROC curve from (0, 0) to (1, 1)."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]

    @classmethod
    def of(cls, curve: RocCurve) -> Self:
        """The hub's curve without its thresholds."""
        return cls(fpr=tuple(curve.fpr.tolist()), tpr=tuple(curve.tpr.tolist()))

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.fpr) != len(self.tpr) or len(self.fpr) < 2:
            raise ValueError("a ROC curve needs as many tpr as fpr, at least two")
        return self


class PrecisionRecall(Part):
    """A precision-recall curve, recall rising."""

    recall: tuple[float, ...]
    precision: tuple[float, ...]

    @classmethod
    def of(cls, curve: PrecisionRecallCurve) -> Self:
        """The hub's curve without its thresholds."""
        return cls(recall=tuple(curve.recall.tolist()), precision=tuple(curve.precision.tolist()))

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.recall) != len(self.precision) or not self.recall:
            raise ValueError("a precision-recall curve needs as many precisions as recalls, at least one")
        return self


class CalibrationPoint(Part):
    """Patients of like score: the mean score, the observed share of positives, how many they are."""

    predicted: float
    observed: Figure
    patients: Annotated[float, Field(ge=0.0)]  # a merged histogram spreads counts, so not always whole

    @classmethod
    def of(cls, group: CalibrationGroup) -> Self:
        """The hub's group of patients as a point."""
        observed = Figure(value=group.observed.value, low=group.observed.low, high=group.observed.high)
        return cls(predicted=group.predicted, observed=observed, patients=group.patients)


class FrocCurve(Part):
    """A free-response ROC curve: sensitivity over false positives an image, both rising from 0."""

    false_positives: Annotated[tuple[float, ...], Field(min_length=1)]
    sensitivity: Annotated[tuple[float, ...], Field(min_length=1)]

    @classmethod
    def of(cls, froc: Froc) -> Self:
        """The hub's curve without its thresholds."""
        curve = froc.curve()
        return cls(false_positives=tuple(curve.false_positives.tolist()), sensitivity=tuple(curve.sensitivity.tolist()))


class Spread(Part):
    """How a figure is spread over patients: its percentiles 5, 25, 50, 75 and 95."""

    low: float
    first: float
    median: float
    third: float
    high: float


class RoundPoint(Part):
    """One round: the loss in training, then the model that came of it on validation patients."""

    round: Count
    seconds: Seconds | None = None
    train_loss: float | None = None
    layer: Count | None = None  # that learned alone in this round, without labels: its loss stands below, no other
    layer_loss: float | None = None
    fold: Count | None = None  # from 0, in a study with folds; None in the rounds that train on all patients
    validation_loss: float | None = None
    primary: float | None = None
    sites: tuple[str, ...] = ()  # who took part
    missing: dict[str, str] = Field(default_factory=dict)  # who did not, and why


class Traffic(Part):
    """Bytes of one site in one round: sent to the hub, received from it."""

    up: Count
    down: Count


class SeedRun(Part):
    """Everything that one seed gave."""

    seed: Count
    model_sha256: Digest
    wall_s: Seconds
    seconds_per_round: Seconds
    training_share: Share | None  # of the rounds' time, how much sites spent in training
    bytes_per_site_per_round: Traffic
    sites: tuple[SiteResult, ...]
    overall: Compared
    history: tuple[RoundPoint, ...]
    local_history: dict[str, tuple[RoundPoint, ...]]
    roc: dict[ModelName, dict[str, Curve]]  # by label, as the next two
    precision_recall: dict[ModelName, dict[str, PrecisionRecall]] = Field(default_factory=dict)
    calibration: dict[ModelName, dict[str, tuple[CalibrationPoint, ...]]]
    froc: dict[ModelName, dict[str, FrocCurve]] = Field(default_factory=dict, exclude_if=lambda held: not held)
    dice: dict[ModelName, dict[str, Spread]] = Field(default_factory=dict, exclude_if=lambda held: not held)
    subgroups: GroupBlocks = Field(default_factory=dict, exclude_if=lambda held: not held)  # the federated model


class SiteReport(Part):
    """What a hospital has and what of it the study uses. A count below the hospital's `min_cell` stays home (None)."""

    name: str
    min_cell: Annotated[int, Field(ge=1)]
    images: Count | None  # or recordings, or rows of tables, as the study takes them, that could be read
    patients: Count | None  # that have them
    labelled: Count | None  # of these patients, with a label of the study
    labels: dict[str, Count | None]  # patients a label, of those in the study
    sides: dict[Side, Count | None]  # patients in the study
    left_out: dict[str, Count | None]  # by reason
    quarantined: dict[str, Count | None]  # files, by reason
    scanners: tuple[str, ...]
    transfer_syntaxes: dict[str, Count | None]  # images
    modalities: dict[str, Count | None]  # images


class StudyInfo(Part):
    """What was asked: the study in brief, and `spec`, all of it. `digest` is what hospitals approve."""

    id: str
    title: str
    purpose: str
    digest: Digest
    task: str
    labels: tuple[str, ...]
    positive: str | None
    rounds: Count
    strategy: str
    model: str
    operating_point: str
    spec: StudySpec

    @property
    def headline(self) -> Metric:
        """The figure that the report is about."""
        return headline(self.spec)

    @classmethod
    def of(cls, spec: StudySpec) -> Self:
        """The brief of a study."""
        point = spec.evaluation.operating_point
        return cls(
            id=spec.study.id,
            title=spec.study.title or spec.study.id,
            purpose=spec.study.purpose,
            digest=spec.digest,
            task=spec.study.task,
            labels=spec.cohort.labels,
            positive=spec.cohort.positive,
            rounds=spec.rounds,
            strategy=spec.strategy.name,
            model=spec.model.name,
            operating_point=point if isinstance(point, str) else f"sensitivity {point['sensitivity']:g}",
            spec=spec,
        )


class Participation(Part):
    """Rounds that a hospital took part in, over all seeds, and why not in the others."""

    rounds: Count
    of: Count
    missed: dict[str, Count]
