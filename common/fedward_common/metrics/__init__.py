"""Mergeable sketches of scores, and the clinician's numbers with their intervals.

A patient's score never leaves a site. What leaves is an `Evaluation`: per label a histogram of scores whose small cells
are merged away (`ScoreSketch`) and finished figures (`SiteFigures`). The hub spreads the histograms of all sites over
one grid and reads the overall curve, figures and bootstrap intervals off it (`MergedHistogram`). Only NumPy and
pydantic are used; every class that travels checks itself on reading.
"""

from fedward_common.metrics.cells import told, told_total
from fedward_common.metrics.evaluation import (
    Evaluation,
    evaluate_scores,
    macro_auc,
    pooled,
    pooled_at,
    primary_value,
)
from fedward_common.metrics.figures import SiteFigures, patient_scores, site_figures
from fedward_common.metrics.histogram import (
    CalibrationGroup,
    MergedHistogram,
    OperatingPoint,
    OperatingRule,
    PrecisionRecallCurve,
    RocCurve,
    merge,
)
from fedward_common.metrics.intervals import Estimate, auc_score_interval, delong_interval, wilson_interval
from fedward_common.metrics.sketch import SCORE_EDGES, ClassSketch, ScoreSketch

__all__ = [
    "SCORE_EDGES",
    "CalibrationGroup",
    "ClassSketch",
    "Estimate",
    "Evaluation",
    "MergedHistogram",
    "OperatingPoint",
    "OperatingRule",
    "PrecisionRecallCurve",
    "RocCurve",
    "ScoreSketch",
    "SiteFigures",
    "auc_score_interval",
    "delong_interval",
    "evaluate_scores",
    "macro_auc",
    "merge",
    "patient_scores",
    "pooled",
    "pooled_at",
    "primary_value",
    "site_figures",
    "told",
    "told_total",
    "wilson_interval",
]
