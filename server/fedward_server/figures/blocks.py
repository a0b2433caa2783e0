"""One model on one group of patients: its figures with their intervals, in blocks that are put side by side."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedward_common.metrics import Estimate, SiteFigures
from fedward_common.streams import stream_seed
from fedward_common.study import StudySpec
from fedward_common.study_subgroups import Subgroups

ModelName = Literal["local", "federated", "personal", "pooled"]
Metric = Literal[
    "roc_auc",
    "sensitivity",
    "specificity",
    "precision",
    "dice",
    "dice_before",
    "surface_mm",
    "hausdorff_mm",
    "folding_percent",
    "c_index",
    "froc",
    "sensitivity_at_1",
]

MODELS: tuple[ModelName, ...] = ("local", "federated", "personal", "pooled")
METRICS: tuple[Metric, ...] = ("roc_auc", "sensitivity", "specificity", "precision")
"""Of classification, each a field of a block; those of other tasks are in its `figures`."""

OTHER_METRICS: tuple[Metric, ...] = (
    "dice",
    "dice_before",
    "surface_mm",
    "hausdorff_mm",
    "folding_percent",
    "c_index",
    "froc",
    "sensitivity_at_1",
)
HEADLINES: Mapping[str, Metric] = {
    "classification": "roc_auc",
    "segmentation": "dice",
    "registration": "dice",
    "detection": "froc",
    "survival": "c_index",
}
"""By task, the figure that a report is about: between 0 and 1, the higher the better."""

MODEL_TITLES: Mapping[ModelName, str] = {
    "local": "Local only",
    "federated": "Federated",
    "personal": "Personal",
    "pooled": "Pooled data",
}
PLAIN_TITLES: Mapping[str, str] = {
    "f1": "F1",
    "average_precision": "Average precision",
    "brier": "Brier",
    "calibration_error": "Calibration error",
}
"""Figures without an interval, by their names in a block."""

METRIC_TITLES: Mapping[Metric, str] = {
    "roc_auc": "ROC-AUC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "dice": "Dice",
    "dice_before": "Dice before registration",
    "surface_mm": "Mean surface distance, mm",
    "hausdorff_mm": "95 % Hausdorff distance, mm",
    "folding_percent": "Folded voxels, %",
    "c_index": "C-index",
    "froc": "FROC score",
    "sensitivity_at_1": "Sensitivity at 1 false positive an image",
}

READ_DIGITS = 2  # of a figure on a page: as many as these samples can carry

Count = Annotated[int, Field(ge=0)]


def headline(study: StudySpec) -> Metric:
    """The figure that the report of a study is about."""
    return HEADLINES[study.study.task]


def interval_seed(study: StudySpec) -> int:
    """Where the intervals of a study's figures that are drawn begin, so that they are the same wherever they stand."""
    return stream_seed(study.training.seed, "overall")


def empty(values: Mapping[str, object]) -> bool:
    """Whether a key stays out of the file: what another task has not is not there."""
    return not values


class Part(BaseModel):
    """Frozen; an unknown key, a wrong type, NaN or infinity is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Figure(Part):
    """One number with its 95 % interval, in [0, 1] unless its metric is in mm or percent; `sd` is over the seeds."""

    value: float
    low: float
    high: float
    sd: float | None = None

    @property
    def interval(self) -> str:
        """The 95 % interval to two decimals, as many as these samples can carry."""
        return f"{self.low:.2f}–{self.high:.2f}"

    @property
    def text(self) -> str:
        """The figure with its interval on one line."""
        return f"{self.value:.2f} ({self.interval})"

    @classmethod
    def of(cls, estimate: Estimate | None) -> Self | None:
        """An estimate as a figure."""
        return None if estimate is None else cls(value=estimate.value, low=estimate.low, high=estimate.high)


def f1(precision: "Estimate | Figure | None", recall: "Estimate | Figure | None") -> float | None:
    """The harmonic mean of precision and sensitivity (van Rijsbergen 1979); None without either, 0 where both are."""
    if precision is None or recall is None:
        return None
    total = precision.value + recall.value
    return 2 * precision.value * recall.value / total if total else 0.0


class Block(Part):
    """How well one model does on one group of test patients.

    Sensitivity, specificity and precision are at `threshold`, the operating point; None where the study has none or
    (precision) where nobody was called positive. Tasks other than classification have `figures` by metric instead.
    Where several labels (structures, kinds of finding) count, figures are means over labels, and each label's own,
    against the rest, are in `labels`. `withheld` says in words what the small-cell rule kept at home; over several
    seeds it may stand beside figures that only some seeds gave. Counts are of patients, rounded means over seeds.
    """

    roc_auc: Figure | None = None
    sensitivity: Figure | None = None
    specificity: Figure | None = None
    precision: Figure | None = None
    brier: float | None = None
    f1: float | None = None  # at the threshold
    average_precision: float | None = None  # with `calibration_error` of all hospitals together alone
    calibration_error: float | None = None
    threshold: float | None = None
    patients: Count | None = None
    positives: Count | None = None
    negatives: Count | None = None
    withheld: str | None = None
    figures: dict[Metric, Figure] = Field(default_factory=dict, exclude_if=empty)
    labels: dict[str, "Block"] = Field(default_factory=dict, exclude_if=empty)

    @model_validator(mode="after")
    def _missing_needs_reason(self) -> Self:
        if self.roc_auc is None and not self.figures and not self.withheld:
            raise ValueError("a block without roc_auc or other figures must say in `withheld` why")
        return self

    @classmethod
    def of(cls, figures: SiteFigures) -> Self:
        """A hospital's figures as a block."""
        return cls(
            roc_auc=Figure.of(figures.roc_auc),
            sensitivity=Figure.of(figures.sensitivity),
            specificity=Figure.of(figures.specificity),
            precision=Figure.of(figures.precision),
            brier=figures.brier,
            f1=f1(figures.precision, figures.sensitivity),
            threshold=figures.threshold,
            patients=figures.patients,
            positives=figures.positives,
            negatives=figures.negatives,
        )

    def figure(self, metric: Metric) -> Figure | None:
        """The figure of that name."""
        value: Figure | None = getattr(self, metric) if metric in METRICS else self.figures.get(metric)
        return value

    def of_label(self, label: str) -> "Block | None":
        """The block of one of several labels, None where it stays home; this block where there is one label only."""
        return self.labels.get(label) if self.labels else self


AnyBlock = TypeVar("AnyBlock", bound=Block)


class GroupBlock(Block):
    """A model on one group of patients, of the `sites` hospitals that may tell of so many."""

    sites: Count


def uncounted(block: AnyBlock) -> AnyBlock:
    """A block that does not tell how many patients it is of: without counts, and with no more digits than are read.

    All digits of a share and of its interval tell how many it is of: the interval's width is of that.
    """
    changed: dict[str, Any] = dict.fromkeys(("patients", "positives", "negatives"))
    changed |= {metric: _coarse(getattr(block, metric)) for metric in METRICS}
    changed |= {name: coarse(getattr(block, name)) for name in PLAIN_TITLES}
    changed["figures"] = {metric: _coarse(figure) for metric, figure in block.figures.items()}
    changed["labels"] = {label: uncounted(of_label) for label, of_label in block.labels.items()}
    return block.model_copy(update=changed)


def coarse(value: float | None) -> float | None:
    """A figure with as many digits as are read."""
    return None if value is None else round(value, READ_DIGITS)


def _coarse(figure: Figure | None) -> Figure | None:
    if figure is None:
        return None
    value, low, high = (round(each, READ_DIGITS) for each in (figure.value, figure.low, figure.high))
    return Figure(value=value, low=low, high=high)


GroupBlocks = dict[Subgroups, dict[str, dict[str, GroupBlock]]]
"""By what patients are grouped, group and label."""
