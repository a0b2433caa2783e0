"""The update gate: one update for every reason to refuse, each named with its array and site."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_server.checks import Gate

Arrays = dict[str, np.ndarray[Any, Any]]


def model() -> Arrays:
    return {
        "conv.weight": np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4),
        "conv.bias": np.zeros(2),
        "bn.seen": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }


def refusal(change: Arrays, *, bound: float | None = None) -> str | None:
    return Gate(model(), max_update_norm=bound).check("north", {**model(), **change})


def with_value(value: float, at: int = 0) -> Arrays:
    broken = model()["conv.weight"]
    broken.flat[at] = value
    return {"conv.weight": broken}


def test_a_good_update_passes() -> None:
    assert refusal({}) is None
    assert refusal({"conv.weight": model()["conv.weight"] + 3, "bn.seen": np.array(99, np.int64)}) is None


def test_read_only_and_strided_arrays_pass() -> None:
    received = np.frombuffer(model()["conv.weight"].tobytes(), np.float32).reshape(2, 3, 4)
    strided = np.repeat(received, 2, axis=2)[:, :, ::2]
    assert refusal({"conv.weight": received}, bound=1e-9) is None
    assert refusal({"conv.weight": strided}, bound=1e-9) is None


def test_missing_arrays_are_named() -> None:
    reason = Gate(model(), max_update_norm=None).check("north", {"conv.bias": np.zeros(2)})
    assert (
        reason == "the update of north lacks array 'bn.seen', array 'conv.weight', array 'empty', which the model has"
    )


def test_unknown_arrays_are_named_but_not_trusted() -> None:
    reason = refusal({"a\nforged log line": np.zeros(1), **{f"z{i}" + "x" * 300: np.zeros(1) for i in range(4)}})
    assert reason is not None
    assert "array 'a\\nforged log line'" in reason
    assert "and 2 more, which the model does not have" in reason
    assert "\n" not in reason
    assert len(reason) < 400


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 12), np.float32), "array 'conv.weight' of north has the shape (2, 12); the model's is (2, 3, 4)"),
        (np.zeros((2, 3, 4)), "array 'conv.weight' of north is float64; the model's is float32"),
        (np.zeros((2, 3, 4), np.int32), "array 'conv.weight' of north is int32; the model's is float32"),
        (
            np.zeros((2, 3, 4), np.dtype(np.float32).newbyteorder("S")),
            "array 'conv.weight' of north is float32 with its bytes swapped; the model's is float32",
        ),
    ],
)
def test_shape_and_type(array: np.ndarray[Any, Any], reason: str) -> None:
    assert refusal({"conv.weight": array}) == reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 11, 23])
def test_one_bad_value_anywhere(value: float, at: int) -> None:
    assert refusal(with_value(value, at)) == "array 'conv.weight' of north holds NaN or Inf"


def test_nan_in_float64() -> None:
    assert refusal({"conv.bias": np.array([1, np.nan])}) == "array 'conv.bias' of north holds NaN or Inf"


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_values_that_would_overflow_a_mean(value: float) -> None:
    assert refusal(with_value(value)) == (
        "array 'conv.weight' of north holds a value above 1.7e+38, too large to be averaged"
    )


def test_the_norm_bound() -> None:
    moved = {"conv.weight": model()["conv.weight"], "conv.bias": np.array([3.0, 4.0])}  # 5 away
    assert refusal(moved, bound=5.0) is None
    assert refusal(moved, bound=4.999) == ("the update of north is 5 from the model (L2 norm); the study allows 4.999")
    assert refusal({"bn.seen": np.array(10_000, np.int64)}, bound=0.001) is None  # counters are not part of it


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200_000), st.integers(0, 2**32 - 1))
def test_the_norm_is_numpys(size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    reference, update = (random.standard_normal(size).astype(np.float32) for _ in range(2))
    norm = float(np.linalg.norm(update.astype(np.float64) - reference.astype(np.float64)))
    for bound, passes in ((norm * (1 + 1e-9), True), (norm * (1 - 1e-9), False)):
        refused = Gate({"w": reference}, max_update_norm=bound).check("north", {"w": update})
        assert (refused is None) == passes


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e25])
def test_the_norm_of_values_whose_squares_float32_does_not_hold(scale: float) -> None:
    moved = np.full(100, scale, np.float32)  # 10 * scale from 0
    gates = [Gate({"w": np.zeros(100, np.float32)}, max_update_norm=factor * scale) for factor in (9.9, 11)]
    assert gates[0].check("north", {"w": moved}) is not None
    assert gates[1].check("north", {"w": moved}) is None


@pytest.mark.parametrize("bound", [None, 1e3])
def test_a_large_value_that_may_be_averaged_passes_where_no_norm_forbids_it(bound: float | None) -> None:
    reason = refusal(with_value(1e30), bound=bound)
    assert (reason is None) == (bound is None)
    assert reason is None or reason.startswith("the update of north is 1e+30 from the model")


@pytest.mark.parametrize("bound", [None, 1e3])
def test_a_bad_value_is_found_with_and_without_a_bound(bound: float | None) -> None:
    assert refusal(with_value(np.nan, 5), bound=bound) == "array 'conv.weight' of north holds NaN or Inf"
    assert "too large" in str(refusal(with_value(3e38), bound=bound))


def test_nothing_is_changed() -> None:
    update = model()
    before = {name: array.tobytes() for name, array in update.items()}
    Gate(model(), max_update_norm=1.0).check("north", update)
    assert {name: array.tobytes() for name, array in update.items()} == before
