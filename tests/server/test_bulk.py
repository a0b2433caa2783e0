"""What sites put at the hub beside their answers: taken when it is what it says, cleared away when it is over."""

import os
import resource
from pathlib import Path

import pytest

from fedward_common.bulk import CHUNK_BYTES, Manifest, parts
from fedward_common.errors import RecordError, RunError
from fedward_server.bulk import Bulk, held, remove_run, tidy

BLOCK = memoryview(os.urandom(CHUNK_BYTES + 1000))
TRIP, LIMIT = 1_000, 2**30


@pytest.fixture
def bulk(tmp_path: Path) -> Bulk:
    made = Bulk(tmp_path / "hub", "run-1")
    made.await_answers(["north"], TRIP)
    return made


def put(bulk: Bulk, block: memoryview = BLOCK, site: str = "north") -> Manifest:
    manifest = Manifest.of(block, run="run-1", trip=TRIP)
    for name, part in zip(manifest.chunks, parts(block), strict=True):
        (bulk.folder / "bulk" / "up" / site / "run-1" / str(TRIP) / name).write_bytes(part)
    return manifest


def test_what_a_site_put_is_its_answer(bulk: Bulk) -> None:
    manifest = put(bulk)
    assert bulk.take("north", manifest, LIMIT) == BLOCK
    bulk.forget("north", TRIP)
    assert held(bulk.folder) == 0
    with pytest.raises(RecordError, match="of another question"):
        bulk.take("north", manifest, LIMIT)


def test_what_is_not_as_it_says_is_refused(bulk: Bulk) -> None:
    manifest = put(bulk)
    folder = bulk.folder / "bulk" / "up" / "north" / "run-1" / str(TRIP)
    with pytest.raises(RecordError, match="larger than 0 MiB"):
        bulk.take("north", manifest, 1000)
    for other in ({"run": "run-2"}, {"trip": TRIP + 1}):
        with pytest.raises(RecordError, match="of another question"):
            bulk.take("north", manifest.model_copy(update=other), LIMIT)
    with pytest.raises(RecordError, match="of another question"):
        bulk.take("south", manifest, LIMIT)
    first, last = (folder / name for name in manifest.chunks)
    data = bytearray(last.read_bytes())
    data[5] ^= 1
    for damage in (bytes(data), bytes(data[:-1]), bytes(data) + b"x"):
        last.write_bytes(damage)
        with pytest.raises(RecordError, match="a chunk of its answer is"):
            bulk.take("north", manifest, LIMIT)
    last.unlink()
    with pytest.raises(RecordError, match="a chunk of its answer is not there"):
        bulk.take("north", manifest, LIMIT)
    last.symlink_to(first)
    with pytest.raises(RecordError, match="a chunk of its answer is not there"):
        bulk.take("north", manifest, LIMIT)


def test_the_hubs_own_faults_are_not_a_sites(bulk: Bulk) -> None:
    manifest = put(bulk)
    (limit, most), last = resource.getrlimit(resource.RLIMIT_NOFILE), os.open(os.devnull, os.O_RDONLY)
    os.close(last)
    resource.setrlimit(resource.RLIMIT_NOFILE, (last, most))  # the next file is one too many
    try:
        with pytest.raises(RunError, match="Too many open files"):
            bulk.take("north", manifest, LIMIT)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    assert bulk.take("north", manifest, LIMIT) == BLOCK


def names(bulk: Bulk) -> set[str]:
    return {path.name for path in (bulk.folder / "bulk" / "down" / "run-1").iterdir()}


def test_a_model_is_there_once_and_as_long_as_somebody_may_fetch_it(bulk: Bulk) -> None:
    blocks = [memoryview(os.urandom(2000)) for _ in range(3)]
    first = bulk.offer(blocks[0], TRIP)
    bulk.await_answers(["south"], TRIP)
    bulk.forget("north", TRIP)  # who has answered
    second = bulk.offer(blocks[1], TRIP + 1)
    bulk.await_answers(["north"], TRIP + 1)
    assert names(bulk) == {*first.chunks, *second.chunks}  # south is late
    bulk.forget("south", TRIP)
    bulk.forget("north", TRIP + 1)
    third = bulk.offer(blocks[2], TRIP + 2)
    assert names(bulk) == set(third.chunks)
    assert bulk.offer(blocks[2], TRIP + 3) == third.model_copy(update={"trip": TRIP + 3})
    assert (bulk.folder / "bulk" / "down" / "run-1" / third.chunks[0]).read_bytes() == blocks[2]


def test_models_that_differ_from_site_to_site_are_all_there(bulk: Bulk) -> None:
    """As SCAFFOLD sends them."""
    offered = set()
    for number in range(6):
        offered |= set(bulk.offer(memoryview(os.urandom(2000)), TRIP + 1).chunks)
        bulk.await_answers([f"site-{number}"], TRIP + 1)
    assert names(bulk) == offered


def test_of_questions_that_were_asked_again_the_last_are_open(bulk: Bulk) -> None:
    for trip in range(TRIP + 1, TRIP + 6):
        bulk.await_answers(["north"], trip)
    found = {path.name for path in (bulk.folder / "bulk" / "up" / "north" / "run-1").iterdir()}
    assert found == {str(trip) for trip in range(TRIP + 2, TRIP + 6)}


def test_as_long_as_they_are_few_all_are_open(bulk: Bulk) -> None:
    manifest = put(bulk)
    for trip in (TRIP + 1, TRIP + 2, TRIP + 3):
        bulk.await_answers(["north"], trip)
    assert bulk.take("north", manifest, LIMIT) == BLOCK


def test_what_a_site_had_put_when_it_was_gone_is_there_when_it_is_asked_again(bulk: Bulk) -> None:
    manifest = put(bulk)
    bulk.await_answers(["north"], TRIP + 9)  # reminded meanwhile
    bulk.leave("north", TRIP)
    bulk.leave("north", TRIP + 9)
    assert bulk.take("north", manifest, LIMIT) == BLOCK  # until then it may go on
    bulk.await_answers(["south"], TRIP + 1)
    bulk.await_answers(["north"], TRIP + 1)
    assert bulk.take("north", manifest.model_copy(update={"trip": TRIP + 1}), LIMIT) == BLOCK
    with pytest.raises(RecordError, match="of another question"):
        bulk.take("north", manifest, LIMIT)
    bulk.leave("north", TRIP)  # it is over
    bulk.await_answers(["north"], TRIP + 2)
    assert bulk.take("north", manifest.model_copy(update={"trip": TRIP + 1}), LIMIT) == BLOCK
    assert held(bulk.folder) == len(BLOCK)


def test_a_run_that_begins_anew_or_ends_leaves_nothing(bulk: Bulk) -> None:
    put(bulk)
    bulk.offer(BLOCK, TRIP)
    Bulk(bulk.folder, "run-2").await_answers(["north"], 5)
    again = Bulk(bulk.folder, "run-1")
    assert held(bulk.folder) == 0
    again.await_answers(["north"], 6)
    remove_run(bulk.folder, "run-1")
    assert not (bulk.folder / "bulk" / "members" / "run-1").exists()
    assert (bulk.folder / "bulk" / "members" / "run-2" / "north").exists()


def test_what_runs_left_that_are_over_is_removed_and_quotas_hold(bulk: Bulk) -> None:
    put(bulk)
    tidy(bulk.folder, ["run-1"], limit=len(BLOCK) - 1)
    assert (bulk.folder / "bulk" / "full" / "north").exists()
    tidy(bulk.folder, ["run-1"], limit=len(BLOCK))
    assert not (bulk.folder / "bulk" / "full" / "north").exists()
    tidy(bulk.folder, ["run-2"], limit=LIMIT)
    assert held(bulk.folder) == 0
    assert not (bulk.folder / "bulk" / "members" / "run-1").exists()


def test_files_that_hold_nothing_fill_a_quota_too(bulk: Bulk) -> None:
    folder, full = bulk._up("north", TRIP), bulk.folder / "bulk" / "full" / "north"
    for number in range(20):
        (folder / f"{number:064x}").touch()
    tidy(bulk.folder, ["run-1"], limit=10 * CHUNK_BYTES)
    assert not full.exists()
    (folder / f"{20:064x}").touch()
    tidy(bulk.folder, ["run-1"], limit=10 * CHUNK_BYTES)
    assert full.exists()


def test_a_disk_that_is_full_is_told(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "bulk").write_text("in the way")
    with pytest.raises(RunError, match="free space on that disk"):
        Bulk(tmp_path / "hub", "run-1").offer(BLOCK, 1)
