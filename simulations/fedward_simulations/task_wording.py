"""What the report and the model card say of a task: output, measures, their intervals, what leaves a hospital."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskWords:
    """Sentences of a task, or parts of them."""

    output: str  # of the model, for "{one}" example, of "{labels}"
    of_patient: str  # how a patient's figure comes of those of "{several}" examples
    measures: str  # for people who know them
    threshold: str  # the operating point, where the study chooses none
    drawn: str  # figures of the report
    intervals: str
    leaves: str  # what leaves a hospital to the place of single patients' figures


_CLASSES = TaskWords(
    output="The probability of {labels}",
    of_patient="a patient’s score is the mean over that patient’s {several}",
    measures=(
        "ROC-AUC, sensitivity, specificity, precision, F1, average precision, Brier score, calibration curve and error"
    ),
    threshold="None: the study compares models over all thresholds only.",
    drawn="ROC curves, learning curves and calibration",
    intervals=(
        "At a hospital: DeLong’s method for the ROC-AUC, Wilson’s score interval for sensitivity, specificity and "
        "precision. Over all hospitals: bootstrap on the merged score histograms, stratified by class, for the "
        "ROC-AUC; Wilson’s interval on the summed counts for the rest. Of the mean over several labels, the mean of "
        "their intervals’ ends, which is rather too wide than too narrow."
    ),
    leaves=(
        "Scores leave as histograms, one a class, whose every bin holds at least that many patients, with the class’s "
        "mean and spread. Overall curves are drawn from these and are in part modelled; each hospital’s own figures "
        "are exact."
    ),
)
_STUDENT = (
    "Student’s interval of the mean over patients, at a hospital and over all hospitals’ patients; of the mean over "
    "several structures, the mean of their intervals’ ends."
)
_MOMENTS = (
    "Of each structure leave the mean and the standard deviation over patients, and a histogram of Dice whose every "
    "bin holds at least that many patients; where fewer lack the structure, some others are left out with them. Means "
    "over all hospitals are exact, the spread of Dice is in part modelled."
)
_MASKS = TaskWords(
    output="A mask of each of {labels}",
    of_patient=(
        "a patient’s figure is the mean over that patient’s {several}; a structure that is neither in the model’s mask "
        "nor in the true one counts as Dice 1, one that is in one of them only as Dice 0, both without a distance"
    ),
    measures="Dice, mean symmetric surface distance, 95 % Hausdorff distance",
    threshold="None is chosen: a voxel is part of a structure from a probability of 0.5 on.",
    drawn="Learning curves and the spread of Dice",
    intervals=_STUDENT,
    leaves=_MOMENTS,
)
_WARPED = TaskWords(
    output="The displacement of every voxel that brings an image onto another",
    of_patient="masks of {labels} are warped and held against those of the other image; a patient’s figure is the mean",
    measures=(
        "Dice before and after registration, mean symmetric surface distance, 95 % Hausdorff distance, share of voxels "
        "whose Jacobian determinant is not positive (folding)"
    ),
    threshold="None is chosen: a warped mask has a voxel of which it covers a half or more.",
    drawn="Learning curves and the spread of Dice",
    intervals=_STUDENT,
    leaves=_MOMENTS,
)
_BOXES = TaskWords(
    output="Boxes around {labels}, with a score for each",
    of_patient=(
        "a box hits a finding where its centre is in the ellipsoid that fills the true box, which for a round finding "
        "is the rule of LUNA16; a box that hits none is a false positive"
    ),
    measures="FROC curve, mean sensitivity at 1/8 to 8 false positives an image (LUNA16), sensitivity at 1",
    threshold="None: findings are told over all thresholds.",
    drawn="FROC curves and learning curves",
    intervals=(
        "Bootstrap on the score histograms of findings and false positives for the FROC score; Wilson’s interval for "
        "the sensitivity at 1 false positive an image. Findings of one patient count as independent."
    ),
    leaves=(
        "Scores of findings and of false positives leave as histograms whose every bin holds those of at least that "
        "many patients. Where fewer patients have a missed finding, those with the lowest scores count as missed too: "
        "the curves tell too little rather than too much, and are in part modelled."
    ),
)
_RISKS = TaskWords(
    output="The logarithm of the risk of {labels}, relative to other patients",
    of_patient="a patient’s risk is the mean over that patient’s {several}",
    measures="Harrell’s C-index over pairs of patients of one hospital",
    threshold="None: risks are compared, not cut.",
    drawn="Learning curves",
    intervals=(
        "Infinitesimal jackknife over patients, on the logit scale. Over all hospitals, C is of the pairs within each, "
        "and each weighs by how many it has."
    ),
    leaves=(
        "Of the risks leave the numbers of concordant and of comparable pairs and C’s variance, of at least that many "
        "patients with the event, and as many or none without it."
    ),
)

WORDS: Mapping[str, TaskWords] = {
    "classification": _CLASSES,
    "segmentation": _MASKS,
    "registration": _WARPED,
    "detection": _BOXES,
    "survival": _RISKS,
}
"""By task."""
