"""The streaming mean: against a sum by hand, against NumPy in float64, and what it refuses."""

import mmap
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_common.array_blocks import pieces, view
from fedward_common.errors import RecordError, RunError
from fedward_common.records import from_array_record, model_sha256, to_array_record
from fedward_server.aggregation import StreamingMean

Update = Mapping[str, np.ndarray[Any, Any]]


def mean_of(*updates: tuple[Update, float]) -> dict[str, np.ndarray[Any, Any]]:
    mean = StreamingMean()
    for arrays, weight in updates:
        mean.add(arrays, weight)
    return mean.result()


def weights(*values: float, dtype: type = np.float32) -> Update:
    return {"w": np.array(values, dtype)}


def test_by_hand() -> None:
    # (20 * 1 + 60 * 2 + 20 * 6) / 100 = 2.6 and (20 * -4 + 60 * 0 + 20 * 1.5) / 100 = -0.5
    result = mean_of((weights(1, -4), 20), (weights(2, 0), 60), (weights(6, 1.5), 20))
    np.testing.assert_allclose(result["w"], [2.6, -0.5], rtol=1e-7)
    assert result["w"].dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 100_000), min_size=1, max_size=24),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
)
def test_float64_reference(patients: list[int], seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    updates = [{"w": (scale * random.standard_normal((7, 5))).astype(np.float32)} for _ in patients]
    reference = np.average([u["w"].astype(np.float64) for u in updates], axis=0, weights=patients)
    largest = np.max([np.abs(u["w"]) for u in updates], axis=0)
    found = mean_of(*zip(updates, patients, strict=True))["w"]
    assert np.all(np.abs(found - reference) <= 1e-6 * largest)


def test_float64_stays_float64() -> None:
    found = mean_of((weights(0.1, dtype=np.float64), 1), (weights(0.2, dtype=np.float64), 2))["w"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [0.5 / 3], rtol=1e-15)


@pytest.mark.parametrize("sites", [1, 3, 50])
def test_equal_updates_come_back_bit_for_bit(sites: int) -> None:
    update = {"w": np.random.default_rng(1).standard_normal(1000).astype(np.float32)}
    found = mean_of(*[(update, 7 + site) for site in range(sites)])
    assert model_sha256(found) == model_sha256(update)


def test_same_order_same_bits() -> None:
    random = np.random.default_rng(2)
    updates = [({"w": random.standard_normal(999).astype(np.float32)}, w) for w in (30, 20, 70)]
    assert model_sha256(mean_of(*updates)) == model_sha256(mean_of(*updates))


def test_large_weights_and_values_do_not_overflow() -> None:
    found = mean_of((weights(1e38), 1e300), (weights(1.5e38), 1e300))
    np.testing.assert_allclose(found["w"], [1.25e38], rtol=1e-6)


def test_counters_take_the_largest() -> None:
    counts: list[Update] = [{"seen": np.array(n, np.int64), "small": np.array([n, -n], np.int32)} for n in (3, 11, 5)]
    found = mean_of(*[(count, 10) for count in counts])
    assert found["seen"] == 11
    assert found["seen"].dtype == np.int64
    assert found["small"].tolist() == [11, -3]


def test_shapes_survive() -> None:
    update = {
        "scalar": np.float32(2) * np.ones((), np.float32),
        "none": np.ones((0, 3), np.float32),
        "t": np.ones((2, 3, 4)),
    }
    found = mean_of((update, 1), (update, 1))
    assert {name: array.shape for name, array in found.items()} == {"scalar": (), "none": (0, 3), "t": (2, 3, 4)}
    assert list(found) == ["scalar", "none", "t"]


def test_updates_are_neither_changed_nor_kept() -> None:
    received = np.frombuffer(np.arange(6, dtype=np.float32).tobytes(), np.float32).reshape(2, 3)  # read-only
    transposed = np.ones((3, 2), np.float32).T
    mean = StreamingMean()
    mean.add({"w": received}, 1)
    mean.add({"w": transposed}, 1)
    found = mean.result()["w"]
    np.testing.assert_allclose(found, (received + 1) / 2)
    assert not np.shares_memory(found, received)
    assert received.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert transposed.tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_other_weights_are_refused(weight: float) -> None:
    with pytest.raises(RecordError, match="weight is"):
        StreamingMean().add(weights(1), weight)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"w": np.ones(1, np.float32), "extra": np.ones(1)}, "'extra' is in one and not"),
        ({}, "'w' is in one and not"),
        ({"w": np.ones(2, np.float32)}, "'w' is float32 \\(2,\\), the first update's is float32 \\(1,\\)"),
        ({"w": np.ones(1)}, "'w' is float64"),
        ({"w": np.ones(1, ">f4")}, "'w' is >f4"),
    ],
)
def test_other_arrays_are_refused_and_the_mean_stands(other: Update, reason: str) -> None:
    mean = StreamingMean()
    mean.add(weights(4), 1)
    with pytest.raises(RecordError, match=reason):
        mean.add(other, 1)
    mean.add(weights(8), 1)
    assert mean.result()["w"] == [6]


@pytest.mark.parametrize("dtype", [np.bool_, np.float16, np.complex64, ">f4", "U1"])
def test_types_without_a_mean_are_refused(dtype: Any) -> None:
    with pytest.raises(RecordError, match="array 'w' is"):
        StreamingMean().add({"w": np.zeros(2, dtype)}, 1)


def test_no_updates_have_no_mean() -> None:
    mean = StreamingMean()
    with pytest.raises(RunError, match="no updates"):
        mean.result()
    mean.add(weights(1), 1)
    assert mean.result()["w"] == [1]
    with pytest.raises(RunError, match="no updates"):  # handed over: the next round starts from nothing
        mean.result()


# Where updates lie ----------------------------------------------------------------------------------------------------


def random_update(random: np.random.Generator, sizes: list[int]) -> Update:
    """float32 arrays of these sizes, with a counter and a float64 array among them."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "start": np.ones((2, 3), np.float32),
        "seen": np.array(random.integers(100)),
        "double": random.standard_normal(3),
    }
    for number, size in enumerate(sizes):
        arrays[f"layer{number}"] = random.standard_normal(size).astype(np.float32)
    return arrays


def in_a_block(update: Update) -> Update:
    return from_array_record(view(memoryview(b"".join(pieces(to_array_record(update))))))


def in_one_array(update: Update) -> Update:
    """The float32 arrays as views of one flat one, backwards."""
    floats = {name: array for name, array in reversed(list(update.items())) if array.dtype == np.float32}
    flat = np.concatenate([array.reshape(-1) for array in floats.values()])
    ends = np.cumsum([array.size for array in floats.values()])
    parts = zip(floats.items(), np.split(flat, ends[:-1]), strict=True)
    return {**update, **{name: part.reshape(array.shape) for (name, array), part in parts}}


LAYOUTS = (dict, in_a_block, in_one_array)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 500), st.sampled_from(LAYOUTS)), min_size=1, max_size=5),
    st.lists(st.integers(0, 70), max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_the_bits_do_not_depend_on_where_updates_lie(sites: list[tuple[int, Any]], sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    plain = [random_update(random, sizes) for _ in sites]
    weights_ = [weight for weight, _ in sites]
    expected = mean_of(*zip(plain, weights_, strict=True))
    laid = [layout(update) for update, (_, layout) in zip(plain, sites, strict=True)]
    found = mean_of(*zip(laid, weights_, strict=True))
    assert model_sha256(found) == model_sha256(expected)
    assert list(found) == list(plain[0])
    for name in found:
        if found[name].dtype == np.float64:
            reference = np.average([update[name] for update in plain], axis=0, weights=weights_)
            np.testing.assert_allclose(found[name], reference, rtol=1e-9, atol=1e-12)


def test_updates_are_averaged_from_a_mapped_file(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    updates = [random_update(random, [300_000, 5, 40_000]) for _ in range(3)]
    mean, mapped = StreamingMean(), []
    for number, update in enumerate(updates):
        path = tmp_path / str(number)
        path.write_bytes(b"".join(pieces(to_array_record(update))))
        with path.open("rb") as file:
            mapped.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        mean.add(from_array_record(view(memoryview(mapped[-1]))), 10 + number)
    found = mean.result()
    assert model_sha256(found) == model_sha256(mean_of(*zip(updates, (10, 11, 12), strict=True)))
    assert all(copied_kib(one) == 0 for one in (tmp_path / "0", tmp_path / "2"))
    for one in mapped:
        one.close()  # a BufferError where the mean held on to the file


def copied_kib(path: Path) -> int:
    """How much of a mapped file this process holds as a copy of its own: proc(5), smaps."""
    mappings = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    (mine,) = [mapping for mapping in mappings if str(path) in mapping]
    return sum(int(kib) for kib in re.findall(r"Anonymous: +(\d+) kB", mine))


def test_a_held_mean_is_never_written_to() -> None:
    mean = StreamingMean()
    results = []
    for factor in (1, 2, 3, 4):
        for _ in range(2):
            mean.add({"w": np.full(100, factor, np.float32), "n": np.array(factor)}, 5)
        results.append(mean.result())
    assert [float(one["w"][0]) for one in results] == [1, 2, 3, 4]
    address = results[-1]["w"].__array_interface__["data"][0]
    part = results.pop()["w"][7:9]  # a view of a view is a hold too
    again = mean_of_two(mean, 5.0)
    assert part.tolist() == [4, 4]
    assert not np.shares_memory(part, again["w"])
    del part, results
    address = again["w"].__array_interface__["data"][0]
    del again
    assert mean_of_two(mean, 6.0)["w"].__array_interface__["data"][0] == address  # nobody held it: used again


def mean_of_two(mean: StreamingMean, value: float) -> dict[str, np.ndarray[Any, Any]]:
    for _ in range(2):
        mean.add({"w": np.full(100, value, np.float32), "n": np.array(1)}, 5)
    return mean.result()


def test_a_single_update_is_copied() -> None:
    update = weights(1, 2, 3)
    found = mean_of((update, 4))["w"]
    assert not np.shares_memory(found, update["w"])
    assert found.tolist() == [1, 2, 3]


MEMORY = """
import re, numpy as np
from fedward_server.aggregation import StreamingMean
# not getrusage: its peak is inherited from the process that started this one
kilobytes = lambda what: int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])
def add(parameters, sites):
    mean = StreamingMean()
    update = {str(i): np.ones(parameters // 20, np.float32) for i in range(20)}
    for _ in range(sites):
        mean.add(update, 1)
    return update, mean.result()
add(20_000, 3)
before = kilobytes("VmRSS")
kept = add(20_000_000, 8)
print((kilobytes("VmHWM") - before) * 1024 / 80e6)
"""


def test_memory_is_one_model_whatever_the_sites() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=120)
    models = float(done.stdout)
    assert 1.5 < models < 2.3  # the update itself and one buffer; a second buffer or a copy would make three
