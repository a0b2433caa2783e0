"""Blocks: arrays come back as they went in; what is no block is refused in words, whatever its bytes say."""

import json

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedward_common.array_blocks import ALIGNMENT, block_size, pieces, view
from fedward_common.errors import RecordError
from fedward_common.npy import DTYPES
from fedward_common.packing import block_of, packed, unpacked
from fedward_common.records import from_array_record, to_array_record

arrays_of = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20),
    hnp.arrays(st.sampled_from(sorted(DTYPES)), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)),
    max_size=5,
)


def block(arrays: dict[str, np.ndarray]) -> bytes:
    return b"".join(pieces(to_array_record(arrays)))


@given(arrays=arrays_of)
def test_content_comes_back_as_it_was(arrays: dict[str, np.ndarray]) -> None:
    record = to_array_record(arrays)
    made = packed(RecordDict({"config": ConfigRecord({"fedward": "{}", "server-round": 3}), "arrays": record}))
    assert list(made) == ["config"], "one record, for each is a request"
    held = block_of(made)
    assert held is not None
    assert len(held) == block_size(record)
    assert dict(unpacked(made).config_records["config"]) == {"fedward": "{}", "server-round": 3}
    again = from_array_record(unpacked(made).array_records["arrays"])
    assert list(again) == list(arrays)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        assert again[name].shape == array.shape
        assert again[name].tobytes() == array.tobytes()


def test_buffers_are_aligned_and_not_copied() -> None:
    data = block({"a": np.ones(3, np.float32), "b": np.ones((2, 5))})
    for array in view(memoryview(data)).values():
        offset = np.frombuffer(array.data, np.uint8).ctypes.data - np.frombuffer(data, np.uint8).ctypes.data
        assert 0 < offset < len(data)
        assert offset % ALIGNMENT == 0


def test_a_large_block_is_a_record_that_flower_cuts_into_pieces() -> None:
    arrays = {"a": np.arange(2_000_000, dtype=np.float32)}
    made = packed(RecordDict({"config": ConfigRecord({"fedward": "{}"}), "arrays": to_array_record(arrays)}))
    assert set(made) == {"config", "arrays"}
    assert list(unpacked(made).array_records["arrays"]) == ["a"]
    assert np.array_equal(from_array_record(unpacked(made).array_records["arrays"])["a"], arrays["a"])


def test_what_is_not_packed_stays_as_it_is() -> None:
    content = RecordDict({"config": ConfigRecord(), "arrays": to_array_record({"a": np.ones(3)})})
    assert block_of(content) is None
    assert unpacked(content) is content
    without = RecordDict({"config": ConfigRecord()})
    assert packed(without) is without
    with pytest.raises(RecordError, match="no bytes"):
        unpacked(RecordDict({"config": ConfigRecord({"fedward.block": "text"})}))


@given(data=st.binary(max_size=200))
@example(data=block({"weight": np.ones((2, 5), np.float32)}))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        record = view(memoryview(data))
    except RecordError:
        return
    assert all(array.data.obj is data for array in record.values()), "views, of nothing else"  # type: ignore[attr-defined]


@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_damaged_head_is_read_or_refused(place: int, value: int) -> None:
    data = bytearray(block({"weight": np.arange(12, dtype=np.float32).reshape(3, 4), "n": np.array(3)}))
    data[place % len(data)] = value
    try:
        arrays = from_array_record(view(memoryview(bytes(data))))
    except RecordError:
        return
    assert all(array.nbytes <= len(data) for array in arrays.values()), "no more than what came"


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        ([["w", "float32", [2], 0, 10**9]], "array 'w' lies outside of its block"),
        ([["w", "float32", [2], -64, 8]], "does not say what lies where"),
        ([["w", "float32", [2], 0]], "does not say what lies where"),
        ([["w", "float32", [-2], 0, 8]], "does not say what lies where"),
        ({"w": 1}, "does not say what lies where"),
    ],
)
def test_a_head_that_lies_is_refused(layout: object, reason: str) -> None:
    text = json.dumps(layout).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(64)
    with pytest.raises(RecordError, match=reason):
        view(memoryview(data))


@pytest.mark.parametrize("data", [b"", b"1234567", (2**60).to_bytes(8, "little") + b"[]"])
def test_a_block_without_a_whole_head_is_refused(data: bytes) -> None:
    with pytest.raises(RecordError, match="has no whole head"):
        view(memoryview(data))
