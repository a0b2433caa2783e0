"""Curves and spreads over patients, as plain numbers. Values only."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from fedward_common.metrics import CalibrationGroup, Froc, MergedHistogram, PrecisionRecallCurve, RocCurve
from fedward_server.figures.blocks import Figure, Part


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


def calibration_points(histogram: MergedHistogram) -> tuple[CalibrationPoint, ...]:
    """The calibration curve, a point for each group of patients of like score."""
    return tuple(map(CalibrationPoint.of, histogram.calibration()))


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
