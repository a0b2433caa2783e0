"""The parts of results.json: hospitals, curves, rounds. Values only.

`fedward_simulations.results` puts them together with the blocks of figures, and offers them all.
"""

from typing import Annotated, Literal, Self

from pydantic import Field

from fedward_common.study import StudySpec
from fedward_server.figures.blocks import Block, Count, GroupBlocks, Metric, ModelName, Part, headline
from fedward_server.figures.curves import CalibrationPoint, Curve, FrocCurve, PrecisionRecall, Spread
from fedward_simulations.result_blocks import Compared

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
