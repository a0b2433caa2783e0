"""Robust strategies under attack: what each promises (f of n), and where that ends. Numbers by hand."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.multikrum import compute_distances
from scipy.optimize import minimize  # type: ignore[import-untyped]

from fedward_common.records import from_array_record, to_array_record
from fedward_common.testing import FakeGrid, tiny_study
from fedward_server.facade import RosterGrid
from fedward_server.strategies import blockwise, make_strategy
from fedward_server.strategies.geometric_median import GeometricMedian
from fedward_server.strategies.krum import Krum, MultiKrum, krum_scores
from fedward_server.strategies.norm_clipped_mean import NormClippedMean

Vector = npt.NDArray[np.float32]

SIZE = 2000
TRUTH: Vector = (np.random.default_rng(0).normal(size=SIZE) / 50).astype(np.float32)  # what training would change


def aggregated(
    strategy: Strategy, updates: Sequence[Vector], patients: Sequence[int] | None = None, before: Vector | None = None
) -> npt.NDArray[np.float64]:
    """What the model of one array becomes; `before` is what the updates came from, 0 where it is not said."""
    start = np.zeros_like(updates[0]) if before is None else before
    grid = RosterGrid([*range(1, len(updates) + 1)], FakeGrid({}))
    asked = list(strategy.configure_train(1, to_array_record({"w": start}), ConfigRecord(), grid))
    replies = []
    for index, (message, update) in enumerate(zip(asked, updates, strict=True)):
        number = 10 if patients is None else patients[index]
        frozen = update.copy()
        frozen.flags.writeable = False
        metrics = MetricRecord({"num-examples": number, "train-loss": 0.5})
        replies.append(
            Message(RecordDict({"arrays": to_array_record({"w": frozen}), "metrics": metrics}), reply_to=message)
        )
    result, _ = strategy.aggregate_train(1, replies)
    assert isinstance(result, ArrayRecord)
    return np.asarray(from_array_record(result)["w"], np.float64)


def strategy(name: str, sites: int, **options: float) -> Strategy:
    return make_strategy(tiny_study(strategy={"name": name, "min_sites": sites, "options": options}))


def honest(count: int) -> list[Vector]:
    """Updates around the truth, each with noise as large as it."""
    random = np.random.default_rng(1)
    return [(TRUTH + random.normal(size=SIZE) / 50).astype(np.float32) for _ in range(count)]


ATTACKS: Mapping[str, Callable[[Vector], Vector]] = {
    "zeros": np.zeros_like,
    "sign-flipped": lambda update: -update,
    "scaled": lambda update: (1e6 * update).astype(np.float32),
    "sign-flipped and scaled": lambda update: (-100 * update).astype(np.float32),
}


def attacked(sites: int, attackers: int, attack: str) -> list[Vector]:
    """The first sites attack, all with the same update: together is the strongest."""
    updates, lie = honest(sites), ATTACKS[attack](TRUTH)
    return [np.asarray(lie, np.float32)] * attackers + updates[attackers:]


def error(model: npt.NDArray[np.float64]) -> float:
    """How far from the truth, 1 being as far as one honest site's update."""
    return float(np.linalg.norm(model - TRUTH) / np.linalg.norm(honest(1)[0] - TRUTH))


# (name, options, n, f): what a study may ask for, at the edge of what the rule promises
TOLERANT = [
    ("krum", {"num_malicious_nodes": 2}, 7, 2),
    ("multikrum", {"num_malicious_nodes": 2, "num_nodes_to_select": 3}, 7, 2),
    ("bulyan", {"num_malicious_nodes": 1}, 7, 1),
    ("fedmedian", {}, 7, 3),
    ("fedtrimmedavg", {"beta": 0.3}, 7, 2),
    ("geometric-median", {}, 7, 3),
    ("norm-clipped-mean", {}, 7, 3),
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(("name", "options", "sites", "f"), TOLERANT, ids=[row[0] for row in TOLERANT])
def test_f_of_n_attackers_move_the_model_about_as_far_as_one_honest_site_would(
    name: str, options: dict[str, float], sites: int, f: int, attack: str
) -> None:
    model = aggregated(strategy(name, sites, **options), attacked(sites, f, attack))
    limit = 2.0 if name == "norm-clipped-mean" else 1.5  # clipping bounds what an attacker adds, it takes nobody out
    assert error(model) < limit


@pytest.mark.parametrize("attack", ["scaled", "sign-flipped and scaled"])
def test_a_mean_is_anybodys(attack: str) -> None:
    """So that the test above can fail: one of seven does what it likes with FedAvg's rule."""
    updates = attacked(7, 1, attack)
    assert error(np.mean(updates, axis=0, dtype=np.float64)) > 5


# the same rules with one attacker (of those that gain by it) more than promised
BEYOND = [
    ("krum", {"num_malicious_nodes": 2}, 7, 5, "sign-flipped"),  # a cluster of n - f nearest ones is theirs
    ("multikrum", {"num_malicious_nodes": 2, "num_nodes_to_select": 3}, 7, 4, "scaled"),
    ("bulyan", {"num_malicious_nodes": 1}, 7, 4, "scaled"),
    ("fedmedian", {}, 7, 4, "scaled"),
    ("fedtrimmedavg", {"beta": 0.3}, 7, 3, "scaled"),
    ("geometric-median", {}, 7, 4, "scaled"),
    ("norm-clipped-mean", {}, 7, 4, "scaled"),
]


@pytest.mark.parametrize(("name", "options", "sites", "f", "attack"), BEYOND, ids=[row[0] for row in BEYOND])
def test_beyond_its_tolerance_the_model_is_the_attackers(
    name: str, options: dict[str, float], sites: int, f: int, attack: str
) -> None:
    assert error(aggregated(strategy(name, sites, **options), attacked(sites, f, attack))) > 1.5


def test_patients_weigh_in_the_geometric_median_and_not_in_the_median() -> None:
    """One site of three that claims more than half of the patients has the geometric median."""
    updates = attacked(3, 1, "scaled")
    claims = [1000, 10, 10]
    assert error(aggregated(GeometricMedian(min_train_nodes=1), updates, claims)) > 5
    assert error(aggregated(strategy("fedmedian", 3), updates, claims)) < 1.5


# Numbers -------------------------------------------------------------------------------------------------------------


def vector(*numbers: float) -> Vector:
    return np.array(numbers, np.float32)


def test_krum_by_hand() -> None:
    """Points 0, 1, 3, 10 on a line, f = 0: sums of squares to the 2 nearest are 1+9, 1+4, 4+9, 49+81."""
    points = [vector(0), vector(1), vector(3), vector(10)]
    products = blockwise.gram([{"w": point} for point in points], {"w": vector(0)})
    assert krum_scores(blockwise.squared_distances(products), 0).tolist() == [10, 5, 13, 130]
    assert aggregated(Krum(), points).tolist() == [1]
    assert aggregated(MultiKrum(num_nodes_to_select=2), points, [30, 10, 1, 1]).tolist() == [0.25]  # 0 and 1, 3 to 1


def test_distances_that_flowers_krum_loses_to_rounding() -> None:
    """Weights of norm 1000, changes of norm 0.1: a squared distance of 0.09 beside norms of a million, in float32."""
    random = np.random.default_rng(3)
    before = random.normal(size=10**6).astype(np.float32)
    step = random.normal(size=10**6).astype(np.float32) / 10_000
    factors = [1 + 0.01 * k for k in range(6)] + [-2]
    updates = [(before + step * np.float32(factor)).astype(np.float32) for factor in factors]
    exact = np.array([[float(np.sum((a.astype(np.float64) - b) ** 2)) for b in updates] for a in updates])
    mine = blockwise.squared_distances(blockwise.gram([{"w": update} for update in updates], {"w": before}))
    np.testing.assert_allclose(mine, exact, rtol=1e-6, atol=1e-12)
    theirs = compute_distances([to_array_record({"w": update}) for update in updates])
    assert np.abs(theirs - exact).max() > exact.max(), "flwr has mended it: use its own"
    model = aggregated(MultiKrum(num_malicious_nodes=1, num_nodes_to_select=4), updates, before=before)
    assert np.linalg.norm(model - (before + step)) < 0.01


def test_the_median_and_the_trimmed_mean_by_hand() -> None:
    updates = [vector(0, 5), vector(1, 1), vector(2, 0), vector(9, 2), vector(100, 7)]
    assert aggregated(strategy("fedmedian", 5), updates).tolist() == [2, 2]
    assert aggregated(strategy("fedtrimmedavg", 5, beta=0.2), updates).tolist() == pytest.approx([4, 8 / 3])


def test_bulyan_by_hand() -> None:
    """f = 0 chooses all of 3, and the 3 nearest to the median are averaged; f = 1 of 7 chooses 5 and averages 3."""
    assert aggregated(strategy("bulyan", 3), [vector(0), vector(1), vector(5)]).tolist() == [2]
    points = [vector(x) for x in (0, 1, 2, 3, 4, 50, -60)]
    model = aggregated(strategy("bulyan", 7, num_malicious_nodes=1), points)
    assert model.tolist() == [2]  # 0 to 4 are chosen, 1 to 3 lie around their median


def test_the_geometric_median_by_hand() -> None:
    """Of the corners of a square it is the middle; of three points on a line the middle one, however far the last."""
    square = [vector(1, 1), vector(1, -1), vector(-1, 1), vector(-1, -1)]
    assert aggregated(GeometricMedian(), square) == pytest.approx([0, 0], abs=1e-6)
    line = aggregated(GeometricMedian(), [vector(0), vector(1), vector(1000)])
    assert line == pytest.approx([1], abs=1e-3)
    assert aggregated(GeometricMedian(), [vector(3, 4)] * 3).tolist() == [3, 4]


def test_the_geometric_median_against_a_minimiser() -> None:
    random = np.random.default_rng(5)
    updates = [random.normal(size=6).astype(np.float32) for _ in range(5)]
    patients = [3, 1, 4, 1, 5]

    def total(point: npt.NDArray[np.float64]) -> float:
        return float(sum(p * np.linalg.norm(point - u) for p, u in zip(patients, updates, strict=True)))

    found = minimize(
        total, np.zeros(6), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 10**5}
    )
    mine = aggregated(GeometricMedian(), updates, patients, before=updates[0] + 1)
    assert mine == pytest.approx(found.x, abs=1e-4)
    assert total(mine) <= found.fun * (1 + 1e-7)


def test_the_norm_clipped_mean_by_hand() -> None:
    updates = [vector(3, 4), vector(0, 1), vector(0.6, 0.8)]  # norms 5, 1, 1
    assert aggregated(NormClippedMean(max_norm=2.0), updates) == pytest.approx([(1.2 + 0.6) / 3, (1.6 + 1.8) / 3])
    assert aggregated(NormClippedMean(), updates) == pytest.approx([(0.6 + 0.6) / 3, (0.8 + 1.8) / 3])  # median 1
    weighed = aggregated(NormClippedMean(max_norm=10.0), updates, [2, 1, 1])
    assert weighed == pytest.approx([(6 + 0.6) / 4, (8 + 1.8) / 4])


def test_sums_by_blocks_are_those_of_whole_arrays() -> None:
    random = np.random.default_rng(7)
    size = 2 * blockwise._BLOCK + 17
    base: dict[str, npt.NDArray[Any]] = {
        "w": random.normal(size=(size,)).astype(np.float32),
        "s": np.asarray(1.5, np.float32),
    }
    updates = [
        {name: (a + random.normal(size=a.shape)).astype(np.float32) for name, a in base.items()} for _ in range(3)
    ]
    flat = np.stack(
        [np.concatenate([u[n].reshape(-1).astype(np.float64) - base[n].reshape(-1) for n in base]) for u in updates]
    )
    np.testing.assert_allclose(blockwise.gram(updates, base), flat @ flat.T, rtol=1e-12)
    shares = [0.5, 0.0, 0.25]
    mixed = blockwise.combined(updates, base, shares)
    for name, array in base.items():
        wanted = array + sum(s * (u[name].astype(np.float64) - array) for s, u in zip(shares, updates, strict=True))
        np.testing.assert_allclose(mixed[name], wanted, rtol=1e-6, atol=1e-6)
        assert mixed[name].dtype == array.dtype
        assert mixed[name].shape == array.shape
    alone = blockwise.combined(updates, base, [0.0, 1.0, 0.0])
    assert all(np.array_equal(alone[name], updates[1][name]) for name in base), "the one that is taken is not rounded"
