"""Dice and surface distances against MONAI and by hand, and what of them leaves a site."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.surface_distance import compute_average_surface_distance
from pydantic import ValidationError
from scipy.stats import t  # type: ignore[import-untyped]

from fedward_common import study as spec
from fedward_common.errors import RunError
from fedward_common.metrics import (
    Evaluation,
    MaskScores,
    Moments,
    Overlap,
    evaluate_overlap,
    mask_scores,
    mean_dice,
    pooled_moments,
    primary_value,
    wilson_interval,
)
from fedward_common.metrics.intervals import t_quantile

Floats = npt.NDArray[np.float64]


def study(*structures: str, primary: Any = "dice") -> spec.StudySpec:
    whole = spec.StudySpec(
        study=spec.About(id="livers", task="classification"),
        cohort=spec.Cohort(labels=("a", "b", "c")),
        model=spec.Model(name="small-cnn"),
    )
    cohort = whole.cohort.model_copy(update={"labels": structures})
    evaluation = whole.evaluation.model_copy(update={"primary": primary})
    return whole.model_copy(update={"cohort": cohort, "evaluation": evaluation})


LIVER = study("liver", "tumour")


def line(start: int, stop: int) -> npt.NDArray[np.bool_]:
    """One structure on a line of ten voxels."""
    return ((np.arange(10) >= start) & (np.arange(10) < stop))[None]


def blobs(size: tuple[int, ...], seed: int) -> npt.NDArray[np.bool_]:
    """Three structures, each an ellipsoid with ragged edges, that may touch the border."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"))
    centres = rng.uniform(-0.5, 0.5, (3, len(size)))
    away = np.stack([((grid - centre.reshape(-1, *(1,) * len(size))) ** 2).sum(axis=0) for centre in centres])
    return np.asarray(away + rng.normal(0, 0.03, away.shape) < 0.3)


def of_dice(dice: npt.ArrayLike, far: npt.ArrayLike | None = None) -> MaskScores:
    """Scores of one structure, the distances being `far`, or 1 mm throughout."""
    values = np.asarray(dice, dtype=np.float64)
    distances = np.ones_like(values) if far is None else np.asarray(far, dtype=np.float64)
    return MaskScores(values, distances, 2 * distances)


# One image -----------------------------------------------------------------------------------------------------------


def test_two_lines_by_hand() -> None:
    # Voxels 2, 3, 4 against 3, 4, 5, 6: two of them shared. The surfaces are {2, 4} and {3, 6}; from the first to the
    # second it is 1 and 1 voxels, back 1 and 2, of which the 95th percentiles are 1 and 1.95. A voxel is half a mm.
    found = mask_scores(line(2, 5), line(3, 7), (0.5,))
    assert found.dice.tolist() == [pytest.approx(2 * 2 / 7)]
    assert found.surface_mm.tolist() == [pytest.approx(0.5 * 1.25)]
    assert found.hausdorff_mm.tolist() == [pytest.approx(0.5 * 1.95)]


def test_an_empty_mask_has_no_distance_and_two_are_the_same() -> None:
    empty = line(0, 0)
    truth = np.concatenate([line(2, 5), empty, empty, line(2, 5)])
    found = mask_scores(np.concatenate([empty, line(2, 5), empty, line(2, 5)]), truth, (1.0,))
    assert found.dice.tolist() == [0, 0, 1, 1]
    assert found.surface_mm.tolist() == pytest.approx([math.nan, math.nan, math.nan, 0], nan_ok=True)
    assert found.hausdorff_mm.tolist() == pytest.approx([math.nan, math.nan, math.nan, 0], nan_ok=True)
    without = mask_scores(line(2, 5), line(3, 7), None)
    assert np.isfinite(without.dice).all()
    assert np.isnan(without.surface_mm).all()
    with pytest.raises(RunError, match="cannot be held against"):
        mask_scores(line(2, 5), truth, None)


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")  # MONAI warns of itself
@pytest.mark.parametrize(
    ("size", "spacing"), [((31, 24), (1.0, 1.0)), ((31, 24), (0.7, 2.5)), ((16, 20, 11), (1.0, 0.5, 3.0))]
)
def test_scores_are_those_of_monai(size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    predicted, truth = blobs(size, 0), blobs(size, 1)
    found = mask_scores(predicted, truth, spacing)
    ours, theirs = torch.from_numpy(predicted)[None].float(), torch.from_numpy(truth)[None].float()
    surface = compute_average_surface_distance(ours, theirs, include_background=True, symmetric=True, spacing=spacing)
    far = compute_hausdorff_distance(ours, theirs, include_background=True, percentile=95, spacing=spacing)
    assert found.dice == pytest.approx(compute_dice(ours, theirs)[0].numpy(), rel=1e-6)
    assert found.surface_mm == pytest.approx(surface[0].numpy(), rel=1e-6)
    assert found.hausdorff_mm == pytest.approx(far[0].numpy(), rel=1e-6)


# Patients ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=40), st.integers(1, 6), st.data())
def test_no_figure_and_no_difference_is_of_fewer_than_k_patients(
    dice: list[float], k: int, data: st.DataObject
) -> None:
    far = np.where(data.draw(st.lists(st.booleans(), min_size=len(dice), max_size=len(dice))), 3.0, math.nan)
    values = np.asarray(dice, dtype=np.float64)
    found = Overlap.of(of_dice(values, np.where(np.isnan(values), math.nan, far)), k)
    scored = np.count_nonzero(~np.isnan(values))
    if found is None:
        assert scored < 2 * k  # of more, at most k - 1 are left out
        return
    told = found.dice.patients
    assert told == found.histogram.total
    assert min(found.histogram.counts) >= k
    assert len(dice) - told == 0 or len(dice) - told >= k
    assert scored - told < k
    if found.surface_mm is not None:
        assert found.surface_mm.patients >= k
        assert told - found.surface_mm.patients == 0 or told - found.surface_mm.patients >= k


def test_of_patients_who_all_have_a_score_the_moments_are_numpys() -> None:
    dice = np.random.default_rng(0).random(17)
    found = Overlap.of(of_dice(dice, 10 * dice), 5)
    assert found is not None
    assert found.surface_mm is not None
    assert (found.dice.mean, found.dice.sd) == pytest.approx((dice.mean(), dice.std(ddof=1)))
    assert (found.surface_mm.mean, found.surface_mm.sd) == pytest.approx((10 * dice.mean(), 10 * dice.std(ddof=1)))
    assert found.hausdorff_mm is not None
    assert found.hausdorff_mm.mean == pytest.approx(20 * dice.mean())


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=9), min_size=1, max_size=5))
def test_pooled_moments_are_those_of_all_patients(sites: list[list[float]]) -> None:
    pooled = pooled_moments(Moments.of(np.asarray(site)) for site in sites)
    together = np.concatenate(sites)
    assert pooled is not None
    assert pooled.patients == together.size
    assert pooled.mean == pytest.approx(together.mean())
    assert pooled.sd == pytest.approx(together.std(ddof=min(together.size - 1, 1)), abs=1e-7)


def test_an_interval_is_students_and_never_certain() -> None:
    dice = np.array([0.5, 0.6, 0.8, 0.9, 0.7])
    found = Moments.of(dice).interval()
    low, high = t.interval(0.95, 4, loc=dice.mean(), scale=dice.std(ddof=1) / math.sqrt(5))
    assert (found.low, found.value, found.high) == pytest.approx((low, 0.7, high), rel=1e-3)
    assert all(t_quantile(0.95, n) == pytest.approx(t.ppf(0.975, n), rel=0.01) for n in range(3, 200))
    assert Moments.of(np.zeros(7)).fraction_interval() == wilson_interval(0, 7)
    assert Moments.of(np.array([0.1, 0.99, 0.98])).fraction_interval().high == 1


# Evaluations ---------------------------------------------------------------------------------------------------------


def test_a_patient_counts_once_and_what_is_not_annotated_does_not() -> None:
    # Patient 0 has two images; nobody annotates tumours but in the images of patients 0 to 5.
    dice = np.array([[0.2, 0.5], [0.4, 0.7], *([0.9, 0.1],) * 11])
    patients = [0, 0, *range(1, 12)]
    labels = np.array([[1, 1 if patient < 6 else -1] for patient in patients])
    scores = [MaskScores(row, row, row) for row in dice]
    found = evaluate_overlap(scores, labels, np.arange(13.0), patients, study=LIVER, min_cell=5)
    assert found.patients == 12
    assert found.loss == pytest.approx((0.5 + sum(range(2, 13))) / 12)
    assert found.overlaps["liver"].dice.patients == 12
    assert found.overlaps["liver"].dice.mean == pytest.approx((0.3 + 11 * 0.9) / 12)
    assert found.overlaps["tumour"].dice.patients == 6
    assert found.overlaps["tumour"].dice.mean == pytest.approx((0.6 + 5 * 0.1) / 6)
    assert found.withheld is None


def test_too_few_patients_stay_home() -> None:
    scores = [MaskScores(*(np.array([0.5, math.nan]),) * 3)] * 8
    found = evaluate_overlap(scores, np.ones((8, 2)), np.ones(8), np.arange(8), study=LIVER, min_cell=5)
    assert list(found.overlaps) == ["liver"]
    assert found.loss is None, "it is of tumours too"
    assert found.withheld == "fewer than 5 patients with a score: figures of tumour stay home"
    few = evaluate_overlap(scores[:4], np.ones((4, 2)), np.ones(4), np.arange(4), study=LIVER, min_cell=5)
    assert few == Evaluation(patients=0, loss=None, withheld=few.withheld)
    with pytest.raises(RunError, match="do not fit"):
        evaluate_overlap(scores, np.ones((8, 2)), np.ones(8), np.arange(8), study=LIVER, min_cell=5, before=scores[:3])
    with pytest.raises(RunError, match="diverged"):
        evaluate_overlap(scores, np.ones((8, 2)), np.full(8, np.nan), np.arange(8), study=LIVER, min_cell=5)


def test_registration_tells_of_the_masks_before_and_of_folding() -> None:
    before, after = ([MaskScores(*(np.array([dice]),) * 3)] * 6 for dice in (0.4, 0.8))
    one = study("hippocampus")
    found = evaluate_overlap(
        after, np.ones((6, 1)), np.ones(6), np.arange(6), study=one, min_cell=5, before=before, folding=[0.03] * 6
    )
    assert found.overlaps["hippocampus"].dice.mean == pytest.approx(0.8)
    assert found.unregistered["hippocampus"].dice.mean == pytest.approx(0.4)
    assert found.folding is not None
    assert found.folding.patients == 6
    assert found.folding.mean == pytest.approx(0.03)
    bare = evaluate_overlap((), np.ones((6, 0)), np.ones(6), np.arange(6), study=study(), min_cell=5, folding=[0.0] * 6)
    assert (bare.overlaps, bare.folding, bare.loss, bare.withheld) == (
        {},
        Moments(patients=6, mean=0.0, sd=0.0),
        1.0,
        None,
    )


def test_the_primary_dice_is_the_mean_over_structures_of_all_patients() -> None:
    def site(n: int, *dice: float) -> Evaluation:
        scores = [MaskScores(*(np.array(dice),) * 3)] * n
        return evaluate_overlap(scores, np.ones((n, 2)), np.ones(n), np.arange(n), study=LIVER, min_cell=5)

    sites = [site(10, 0.9, 0.3), site(30, 0.5, math.nan), site(3, 0.1, 0.1)]
    assert primary_value(sites, LIVER) == pytest.approx(((10 * 0.9 + 30 * 0.5) / 40 + 0.3) / 2)
    assert mean_dice([]) is None


def test_an_evaluation_survives_the_wire_and_refuses_what_does_not_fit() -> None:
    scores = [MaskScores(*(np.array([0.5, 0.7]),) * 3)] * 8
    found = evaluate_overlap(scores, np.ones((8, 2)), np.ones(8), np.arange(8), study=LIVER, min_cell=5)
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(ValidationError, match="more than the 7 patients"):
        Evaluation(patients=7, loss=None, overlaps=found.overlaps, withheld=None)
    liver = found.overlaps["liver"]
    with pytest.raises(ValidationError, match="same patients"):
        Overlap(
            dice=Moments(patients=7, mean=0.5, sd=0.1), histogram=liver.histogram, surface_mm=None, hausdorff_mm=None
        )
    with pytest.raises(ValidationError, match="no more patients"):
        Overlap(
            dice=liver.dice,
            histogram=liver.histogram,
            surface_mm=Moments(patients=9, mean=0.5, sd=0.1),
            hausdorff_mm=None,
        )
