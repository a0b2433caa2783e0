"""Parcels: what is read is what was written, or is refused; the spool has a limit."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedward_client.spool import IN, OUT, Parcel, read
from fedward_client.spool_writer import KEPT_S, Growing, growing_name, remove, tidy, write
from fedward_common.bulk import CHUNK_BYTES, Manifest, parts
from fedward_common.errors import RecordError, RunError
from fedward_common.npy import DTYPES
from fedward_common.records import from_array_record, to_array_record

LIMIT = 2**20


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    for where in (IN, OUT):
        (tmp_path / where).mkdir()
    return tmp_path


arrays_of = st.dictionaries(
    st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=20),
    hnp.arrays(st.sampled_from(sorted(DTYPES)), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)),
    max_size=5,
)


@given(arrays=arrays_of)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arrays_come_back_as_they_were(spool: Path, arrays: dict[str, np.ndarray]) -> None:
    parcel = write(spool, OUT, to_array_record(arrays), limit=LIMIT)
    again = from_array_record(read(spool / OUT, Parcel.model_validate_json(parcel.model_dump_json())))
    assert list(again) == list(arrays)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        assert again[name].shape == array.shape
        assert again[name].tobytes() == array.tobytes()
    remove(spool, OUT, parcel.sha256)


def parcel_in(spool: Path) -> Parcel:
    return write(spool, IN, to_array_record({"w": np.arange(100, dtype=np.float32)}), limit=LIMIT)


def overwritten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def replaced_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replaced_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (overwritten, "was changed: its digest is another"),
        (lambda path: path.write_bytes(b""), "not of the size that was said"),
        (lambda path: path.unlink(), "is not in the spool"),
        (replaced_by_link, "is not in the spool"),
        (replaced_by_pipe, "not of the size that was said"),
    ],
)
def test_a_parcel_that_is_not_what_it_says_is_refused(spool: Path, harm: Callable[[Path], None], reason: str) -> None:
    parcel = parcel_in(spool)
    harm(spool / IN / parcel.sha256)
    with pytest.raises(RecordError, match=reason):
        read(spool / IN, parcel)


def test_a_full_spool_says_what_to_do_and_keeps_what_is_there(spool: Path) -> None:
    parcel = parcel_in(spool)
    big = to_array_record({"w": np.zeros(LIMIT, np.uint8)})
    with pytest.raises(RunError, match=r"the site's spool is full \(1 of 1 MiB\): raise \[limits\] spool_mib"):
        write(spool, OUT, big, limit=LIMIT)
    assert [path.name for path in spool.rglob("*") if path.is_file()] == [parcel.sha256]


def test_answers_that_nobody_fetched_for_long_make_room_the_oldest_first(spool: Path) -> None:
    parcels = [
        write(spool, OUT, to_array_record({"w": np.full(LIMIT // 4, n, np.uint8)}), limit=LIMIT) for n in range(3)
    ]
    asked, room = parcel_in(spool), to_array_record({"w": np.zeros(LIMIT // 2 - 10_000, np.uint8)})
    with pytest.raises(RunError, match="the site's spool is full"):
        write(spool, IN, room, limit=LIMIT)  # all are young
    for age, parcel in zip((2, 3, 0.5), parcels, strict=True):
        os.utime(spool / OUT / parcel.sha256, times=(time.time() - age * KEPT_S,) * 2)
    os.utime(spool / IN / asked.sha256, times=(0, 0))  # what a message came with is never removed for that
    write(spool, IN, room, limit=LIMIT)
    left = {path.name for path in (spool / OUT).iterdir()}
    assert left == {parcels[0].sha256, parcels[2].sha256}
    assert (spool / IN / asked.sha256).exists()


def test_what_a_killed_process_left_is_removed(spool: Path) -> None:
    kept, other = parcel_in(spool), write(spool, IN, to_array_record({"w": np.zeros(3)}), limit=LIMIT)
    (spool / IN / ".writing-1234").write_bytes(b"half")
    tidy(spool, IN, {kept.sha256})
    assert [path.name for path in (spool / IN).iterdir()] == [kept.sha256]
    assert other.sha256 != kept.sha256


# Chunk by chunk ------------------------------------------------------------------------------------------------------

GROWN = memoryview(os.urandom(2 * CHUNK_BYTES + 77))
DESCRIBED = Manifest.of(GROWN, run="r", trip=1)
ROOM = 2**26


def grow(spool: Path, limit: int = ROOM) -> tuple[list[int], Parcel]:
    """Fetch what is missing; which chunks that were, and the parcel."""
    with Growing.open(spool, IN, DESCRIBED, limit=limit) as growing:
        chunks = list(parts(GROWN))
        fetched = list(growing.missing())
        for number in fetched:
            growing.append(bytes(chunks[number]))
        return fetched, growing.finish()


def test_a_parcel_grows(spool: Path) -> None:
    fetched, parcel = grow(spool)
    assert fetched == [0, 1, 2]
    assert (spool / IN / parcel.sha256).read_bytes() == GROWN
    assert [path.name for path in (spool / IN).iterdir()] == [parcel.sha256]


@pytest.mark.parametrize("cut", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, len(GROWN)])
def test_a_parcel_goes_on_where_it_was_cut(spool: Path, cut: int) -> None:
    (spool / IN / growing_name(DESCRIBED)).write_bytes(GROWN[:cut])
    tidy(spool, IN, {growing_name(DESCRIBED)})
    fetched, parcel = grow(spool)
    assert fetched == [number for number in range(3) if cut < min((number + 1) * CHUNK_BYTES, len(GROWN))]
    assert (spool / IN / parcel.sha256).read_bytes() == GROWN


def test_what_was_changed_meanwhile_is_fetched_again(spool: Path) -> None:
    data = bytearray(GROWN)
    data[CHUNK_BYTES + 5] ^= 1
    (spool / IN / growing_name(DESCRIBED)).write_bytes(data)
    fetched, parcel = grow(spool)
    assert fetched == [1, 2]
    assert (spool / IN / parcel.sha256).read_bytes() == GROWN


def test_a_parcel_that_the_spool_does_not_hold_is_refused_before_it_comes(spool: Path) -> None:
    with pytest.raises(RunError, match="spool is full"):
        grow(spool, limit=len(GROWN) - 1)
    assert list((spool / IN).iterdir()) == []
