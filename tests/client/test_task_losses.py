"""Losses of segmentation, survival and registration: MONAI and written-out sums as oracles, and what takes no part."""

import math
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses.dice import DiceLoss
from torch.nn import functional

from fedward_client.training.registration_loss import registration_loss, roughness
from fedward_client.training.segmentation_loss import segmentation_loss
from fedward_client.training.survival_loss import cox_loss
from fedward_common import models
from fedward_common.models.warp import warp

Floats = npt.NDArray[np.float64]


def gradient(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, of)[0]


# Segmentation ---------------------------------------------------------------------------------------------------------


def segmented(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(*shape, generator=random)).requires_grad_()
    masks = (torch.rand(*shape, generator=random) > 0.7).to(torch.uint8)
    return logits, masks, torch.ones(shape[:2], dtype=torch.int64)


@pytest.mark.parametrize("shape", [(3, 2, 7, 5), (2, 1, 4, 5, 6)])
def test_where_all_is_known_it_is_monais_dice_over_the_batch_and_torchs_cross_entropy(shape: tuple[int, ...]) -> None:
    logits, masks, known = segmented(*shape)
    dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)(logits, masks.float())
    expected = dice + functional.binary_cross_entropy_with_logits(logits, masks.float())
    found = segmentation_loss(logits, masks, known)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found, logits), gradient(expected, logits))


def test_what_is_not_known_takes_no_part() -> None:
    logits, masks, known = segmented(3, 3, 6, 6)
    known[0, 0] = known[2, 0] = -1  # of the first structure one item is left
    known[:, 2] = -1  # the third is not known here at all
    found = segmentation_loss(logits, masks, known)
    parts = (logits[1:2, :1], masks[1:2, :1]), (logits[:, 1:2], masks[:, 1:2])
    dice = [DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)(one, two.float()) for one, two in parts]
    one, two = (torch.cat([part[index].flatten() for part in parts]) for index in (0, 1))
    expected = torch.stack(dice).mean() + functional.binary_cross_entropy_with_logits(one, two.float())
    torch.testing.assert_close(found, expected)
    grad = gradient(found, logits)
    assert ((grad != 0).flatten(2).all(dim=2) == (known >= 0)).all()
    assert (grad[known < 0] == 0).all()
    with torch.no_grad():
        logits[known < 0] = torch.nan
        masks[known < 0] = 77
    again = segmentation_loss(logits, masks, known)
    assert torch.equal(again, found)
    assert torch.equal(gradient(again, logits), grad)


def test_where_nothing_is_known_there_is_no_loss_and_no_gradient() -> None:
    logits, masks, known = segmented(2, 2, 4, 4)
    loss = segmentation_loss(logits, masks, torch.full_like(known, -1))
    assert loss == 0
    assert not gradient(loss, logits).any()


def test_a_structure_that_is_nowhere_costs_nothing_where_it_is_not_found() -> None:
    masks, known = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.ones(2, 1)
    assert segmentation_loss(torch.full((2, 1, 8, 8), -30.0), masks, known) < 1e-6
    found = torch.zeros(2, 1, 8, 8, requires_grad=True)
    assert (gradient(segmentation_loss(found, masks, known), found) > 0).all()


def test_it_is_finite_in_bfloat16_and_of_float32() -> None:
    logits, masks, known = segmented(2, 2, 40, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = segmentation_loss((100 * logits).to(torch.bfloat16), masks, known)
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_a_u_net_learns_structures_of_which_each_half_of_the_images_knows_one() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.build(
            "unet",
            options={"width": 8, "depth": 2},
            size=(20, 18),
            channels=1,
            classes=2,
            task="segmentation",
        )
        images = torch.rand(8, 1, 20, 18) * 0.3
    masks = torch.zeros(8, 2, 20, 18, dtype=torch.uint8)
    for index in range(8):
        masks[index, 0, 3 : 9 + index % 3, 2:9] = 1
        masks[index, 1, 11 - index % 3 : 17, 8:15] = 1
    images = images + 0.3 * masks[:, :1] + 0.7 * masks[:, 1:]
    known = torch.full((8, 2), -1)
    known[:4, 0] = known[4:, 1] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        torch.autograd.backward(segmentation_loss(model(images), masks, known))
        optimizer.step()
    found = model(images) > 0
    overlap = 2 * (found & (masks == 1)).sum((2, 3)) / (found.sum((2, 3)) + masks.sum((2, 3)))
    assert overlap.min() > 0.8  # also where the mask was not known


# Survival -------------------------------------------------------------------------------------------------------------


def test_the_partial_likelihood_written_out_with_ties_and_censored_patients() -> None:
    risks = [0.5, -1.0, 2.0, 0.0, 1.0]
    times, events = [4.0, 2.0, 2.0, 7.0, 1.0], [1, 1, 1, 0, 0]
    e = [math.exp(risk) for risk in risks]
    from_two = e[0] + e[1] + e[2] + e[3]  # Breslow: both who died at 2 among all of those under observation then
    terms = [math.log(from_two) + 1.0, math.log(from_two) - 2.0, math.log(e[0] + e[3]) - 0.5]
    found = cox_loss(torch.tensor(risks), torch.tensor(times), torch.tensor(events))
    assert float(found) == pytest.approx(sum(terms) / 5, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 5), st.booleans()), min_size=1, max_size=12),
    st.floats(-50, 50),
    st.randoms(use_true_random=False),
)
def test_it_is_the_sum_over_events_whatever_the_order_and_the_common_risk(
    patients: list[tuple[float, int, bool]], shift: float, random: Random
) -> None:
    expected = [
        math.log(sum(math.exp(other) for other, later, _ in patients if later >= time)) - risk
        for risk, time, event in patients
        if event
    ]
    random.shuffle(patients)
    risks, times, events = (torch.tensor(each) for each in zip(*patients, strict=True))
    risks = (risks + shift).requires_grad_()
    found = cox_loss(risks, times, events)
    assert float(found.detach()) == pytest.approx(sum(expected) / len(patients), abs=1e-4)
    grad = gradient(found, risks)
    assert float(grad.sum()) == pytest.approx(0, abs=1e-5)  # a common risk changes nothing
    slopes = [
        sum(math.exp(risk) / _at_risk(patients, death) for _, death, died in patients if died and death <= time) - event
        for risk, time, event in patients
    ]
    assert grad.tolist() == pytest.approx([slope / len(patients) for slope in slopes], abs=1e-4)


def _at_risk(patients: list[tuple[float, int, bool]], time: int) -> float:
    return sum(math.exp(risk) for risk, last, _ in patients if last >= time)


def test_without_an_event_there_is_no_loss_and_no_gradient() -> None:
    risks = torch.tensor([1.0, 2.0, 80.0], requires_grad=True)
    loss = cox_loss(risks, torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))
    assert loss == 0
    assert not gradient(loss, risks).any()


def newton(features: Floats, times: Floats, events: npt.NDArray[np.int64]) -> Floats:
    """The coefficients of Cox's model with Breslow's ties, from score and information written out (Cox 1972, 4)."""
    beta = np.zeros(features.shape[1])
    for _ in range(20):
        score, information = np.zeros_like(beta), np.zeros((len(beta), len(beta)))
        for index in np.flatnonzero(events):
            at_risk = features[times >= times[index]]
            weights = np.exp(at_risk @ beta)
            mean = weights @ at_risk / weights.sum()
            score += features[index] - mean
            information += (at_risk.T * weights) @ at_risk / weights.sum() - np.outer(mean, mean)
        beta += np.linalg.solve(information, score)
    return beta


def test_a_fit_finds_the_coefficients_of_newtons_method() -> None:
    random = np.random.default_rng(4)
    features = random.standard_normal((60, 3))
    hazard = np.exp(features @ [0.8, -0.5, 0.0])
    times = np.ceil(10 * random.exponential(1 / hazard))  # with ties
    events = (times <= 20).astype(np.int64)
    times = np.minimum(times, 20)
    model = models.build("cox", options={}, size=(), channels=3, classes=1, task="survival")
    rows = torch.from_numpy(features.astype(np.float32))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-6)

    def closure() -> float:
        optimizer.zero_grad()
        loss = cox_loss(model(rows).squeeze(1), torch.from_numpy(times), torch.from_numpy(events))
        torch.autograd.backward(loss)
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # of torch
    weights = model.state_dict()["weight"][0]
    np.testing.assert_allclose(weights, newton(features, times, events), atol=2e-3)
    assert weights[0] > 0.3 > -0.2 > weights[1]


# Registration ---------------------------------------------------------------------------------------------------------


def blob(*centre: float, size: tuple[int, ...], width: float = 4.0) -> torch.Tensor:
    """[1, 1, *size]: a bright spot."""
    axes = torch.meshgrid(*(torch.arange(float(length)) for length in size), indexing="ij")
    squares = sum((axis - place) ** 2 for axis, place in zip(axes, centre, strict=True))
    return torch.exp(-torch.as_tensor(squares) / (2 * width**2))[None, None]


def test_the_same_images_cost_the_least_and_the_right_displacement_less_than_none() -> None:
    moving, fixed = blob(12, 10, size=(24, 20)), blob(10, 10, size=(24, 20))
    right = torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 24, 20)

    def loss(first: torch.Tensor, displacement: torch.Tensor) -> float:
        return float(registration_loss(first, fixed, displacement, smoothness=1.0))

    none = torch.zeros_like(right)
    assert 0 <= loss(fixed, none) < loss(moving, none)
    assert loss(moving, right) < 0.1 * loss(moving, none)


def test_correlation_takes_another_contrast_for_the_same_image() -> None:
    fixed = torch.rand(1, 1, 30, 30, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(1, 2, 30, 30)
    inner = registration_loss(0.2 + 0.5 * fixed, fixed, none, smoothness=0.0)
    other = registration_loss(fixed.flip(2), fixed, none, smoothness=0.0)
    assert inner < 0.3 < 0.8 < other  # windows at the edges see zeros beyond


def test_constant_images_are_neither_like_nor_of_a_negative_loss() -> None:
    for value in (0.0, 0.3, 1.0):
        image = torch.full((1, 1, 12, 12, 12), value)
        moving = (image + 1e-4 * torch.rand(image.shape)).requires_grad_()
        loss = registration_loss(moving, image, torch.zeros(1, 3, 12, 12, 12), smoothness=1.0)
        assert 0 <= loss <= 1
        assert gradient(loss, moving).isfinite().all()


def test_roughness_is_the_mean_square_of_what_changes() -> None:
    steps = torch.zeros(1, 2, 4, 5)
    steps[:, 0] = 3 * torch.arange(4.0)[:, None]
    assert float(roughness(steps)) == pytest.approx((9 / 2 + 0) / 2)  # one of two components, one of two axes
    alternating = torch.ones(1, 2, 6, 6) * torch.tensor([1.0, -1.0]).repeat(3)
    assert float(roughness(alternating)) == pytest.approx(4 / 2)


@pytest.mark.parametrize("integration", [0, 2])
def test_voxelmorph_learns_a_shift_without_folding_in_bfloat16_too(integration: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"width": 8, "depth": 2, "integration": integration}
        model = models.build("voxelmorph", options=options, size=(20, 22), channels=1, classes=0, task="registration")
    moving, fixed = blob(11, 12, size=(20, 22)), blob(9, 10, size=(20, 22))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.004)
    losses = []
    for step in range(30):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=step % 2 == 1):
            displacement = model(torch.cat([moving, fixed], dim=1))
            loss = registration_loss(moving, fixed, displacement, smoothness=0.05)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-2] < 0.3 * losses[0]
    warped = warp(moving, model(torch.cat([moving, fixed], dim=1)).detach())
    assert (warped - fixed).abs().max() < 0.5 * (moving - fixed).abs().max()
