"""The pieces of a large reply: in a file as they come, an array's memory where they lie; repeated ones; a full disk."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

from fedward_common.errors import RunError
from fedward_common.mapped_files import in_file
from fedward_server.reply_pieces import ReplyPieces

MANY = 3_000_000  # of float32: three chunks


def taken(folder: Path, array: Array, order: int = 1) -> tuple[ReplyPieces, str]:
    """The pieces of a message around an array, and its name."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 5
    message = Message(RecordDict({"arrays": ArrayRecord({"w": array})}), 11, "train")
    pieces = ReplyPieces(folder)
    for name, each in list(get_all_nested_objects(message).items())[::order]:
        pieces.put(name, each.deflate())
    return pieces, message.object_id


def array_of(pieces: ReplyPieces, name: str) -> Array:
    array = pieces.message(name).content.array_records["arrays"]["w"]
    pieces.close()
    return array


@pytest.mark.parametrize(("order", "stays"), [(1, True), (-1, False)])
def test_chunks_in_order_are_the_array_where_they_lie_others_are_put_together(
    tmp_path: Path, order: int, stays: bool
) -> None:
    array = Array.from_numpy_ndarray(np.arange(MANY, dtype=np.float32))
    pieces, name = taken(tmp_path / "new", array, order)
    assert sum(map(len, pieces.contents.values())) < 2000, "chunks take no memory"
    got = array_of(pieces, name)
    assert bytes(got.data) == array.data
    assert in_file(got.data) is stays
    assert list((tmp_path / "new").iterdir()) == []


def test_a_chunk_that_an_array_repeats_is_there_as_often_and_counted_as_often(tmp_path: Path) -> None:
    array = Array.from_numpy_ndarray(np.zeros(2 * MANY, np.float32))
    pieces, name = taken(tmp_path, array)
    assert pieces.size < 0.6 * len(array.data), "Flower sends equal chunks once"
    assert pieces.joined_size() == len(array.data)
    got = array_of(pieces, name)
    assert bytes(got.data) == array.data


def test_an_empty_array_has_no_chunk_and_no_file(tmp_path: Path) -> None:
    pieces, name = taken(tmp_path / "new", Array("float32", (0,), "numpy.ndarray", b""))
    got = array_of(pieces, name)
    assert (bytes(got.data), pieces.joined_size()) == (b"", 0)
    assert not (tmp_path / "new").exists()


def test_what_is_no_piece_and_what_names_a_chunk_that_is_not_there_is_refused(tmp_path: Path) -> None:
    pieces = ReplyPieces(tmp_path)
    with pytest.raises(ValueError, match=r"not enough values|not in"):
        pieces.put("a", b"nonsense")
    array = Array.from_numpy_ndarray(np.ones(4, np.float32))
    pieces.put("b", array.deflate())
    with pytest.raises(KeyError):
        pieces.joined_size()
    pieces.close()
    assert json.loads(array.deflate().split(b"\0", 1)[1])["arraychunk_ids"] == [0]


def test_a_full_disk_is_told_in_words(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    chunk = ArrayChunk(memoryview(bytes(3 * 2**20)))
    pieces = ReplyPieces(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))  # Python ignores SIGXFSZ: writing fails with EFBIG
    try:
        with pytest.raises(RunError, match=r"cannot be put by in .*resume the run"):
            pieces.put(chunk.object_id, chunk.deflate())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        pieces.close()
