"""Mergeable sketches of scores, and the clinician's numbers with their intervals.

A patient's score never leaves a site. What leaves is an `Evaluation`: per label a histogram of scores whose small cells
are merged away (`ScoreSketch`) and finished figures (`SiteFigures`). The hub spreads the histograms of all sites over
one grid and reads the overall curve, figures and bootstrap intervals off it (`MergedHistogram`). Other tasks have
records of their own: `Overlap` of masks, `Concordance` of risks, `Detections`. Only NumPy and pydantic are used, and
SciPy where masks are scored; every class that travels checks itself on reading.
"""

from fedward_common.metrics.cells import told, told_groups, told_labels, told_total
from fedward_common.metrics.evaluation import (
    Evaluation,
    GroupEvaluation,
    evaluate_scores,
    macro_auc,
    main_figure,
    mean_dice,
    mean_froc,
    mean_loss,
    pooled,
    pooled_at,
    primary_value,
    site_primary,
)
from fedward_common.metrics.figures import SiteFigures, patient_scores, site_figures
from fedward_common.metrics.froc import Detections, Froc, FrocPoints, ImageHits, image_hits, merged_froc
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
from fedward_common.metrics.overlap import MaskScores, Moments, Overlap, dice_percentiles, mask_scores, pooled_moments
from fedward_common.metrics.sketch import SCORE_EDGES, ClassSketch, ScoreSketch
from fedward_common.metrics.subgroups import with_subgroups
from fedward_common.metrics.survival import Concordance, cox_loss, pooled_concordance
from fedward_common.metrics.task_evaluations import evaluate_detections, evaluate_overlap, evaluate_survival

__all__ = [
    "SCORE_EDGES",
    "CalibrationGroup",
    "ClassSketch",
    "Concordance",
    "Detections",
    "Estimate",
    "Evaluation",
    "Froc",
    "FrocPoints",
    "GroupEvaluation",
    "ImageHits",
    "MaskScores",
    "MergedHistogram",
    "Moments",
    "OperatingPoint",
    "OperatingRule",
    "Overlap",
    "PrecisionRecallCurve",
    "RocCurve",
    "ScoreSketch",
    "SiteFigures",
    "auc_score_interval",
    "cox_loss",
    "delong_interval",
    "dice_percentiles",
    "evaluate_detections",
    "evaluate_overlap",
    "evaluate_scores",
    "evaluate_survival",
    "image_hits",
    "macro_auc",
    "main_figure",
    "mask_scores",
    "mean_dice",
    "mean_froc",
    "mean_loss",
    "merge",
    "merged_froc",
    "patient_scores",
    "pooled",
    "pooled_at",
    "pooled_concordance",
    "pooled_moments",
    "primary_value",
    "site_figures",
    "site_primary",
    "told",
    "told_groups",
    "told_labels",
    "told_total",
    "wilson_interval",
    "with_subgroups",
]
