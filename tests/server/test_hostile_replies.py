"""Sites that mean harm, through the real round engine: the run goes on without them, and says why in few words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Error, Message

from fedward_common.records import MAX_REASON, from_array_record, record_of, to_array_record
from fedward_common.testing import FakeGrid, FakeSite, tiny_study
from fedward_server.events import RunEvent
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine

Change = Callable[[Message, Message], Message]  # what was asked and the honest answer, to what is sent

BOMB = "\x1b[2J\n[/nope]" + "A" * 5_000_000


def says(**changes: Any) -> Change:
    """An answer with other values in its JSON."""

    def change(_asked: Message, honest: Message) -> Message:
        text = honest.content.config_records["fedward"]["answer"]
        assert isinstance(text, str)
        honest.content["fedward"] = ConfigRecord({"answer": json.dumps({**json.loads(text), **changes})})
        return honest

    return change


def fails(reason: str) -> Change:
    """A Flower error in place of an answer."""
    return lambda asked, _honest: Message(Error(code=1, reason=reason), reply_to=asked)


def sends(*, name: str = "", dtype: str = "", data: bytes = b"") -> Change:
    """An update whose first array goes by another name, type or buffer."""

    def change(_asked: Message, honest: Message) -> Message:
        arrays = honest.content.array_records["arrays"]
        first = next(iter(arrays))
        array = Array(
            dtype or arrays[first].dtype, arrays[first].shape, "numpy.ndarray", data or bytes(arrays[first].data)
        )
        others = {key: value for key, value in arrays.items() if key != first}
        honest.content["arrays"] = record_of({name or first: array, **others})
        return honest

    return change


def run(folder: Path, kind: str, change: Change) -> tuple[RunResult, list[RunEvent]]:
    """A run of a hostile site and an honest one; the hostile one is so when it is asked a `kind`."""
    hostile, honest = FakeSite(name="bad", patients=20), FakeSite(name="good", patients=40)

    def answer(message: Message) -> Message | None:
        reply = hostile(message)
        assert reply is not None
        return change(message, reply) if message.metadata.message_type == kind else reply

    events: list[RunEvent] = []
    engine = RoundEngine(
        grid=FakeGrid({1: answer, 2: honest}), study=tiny_study(), run="run-1", engine="embedded", folder=folder,
        on_round=lambda _row: None, listener=events.append,
    )  # fmt: skip
    return engine(), events


HOSTILE: dict[str, tuple[Change, str]] = {
    "patients 10**400": (says(patients=10**400), "patients"),
    "patients 2**63": (says(patients=2**63), "patients"),
    "patients 10**9": (says(patients=10**9), "another number of training patients"),
    "steps": (says(steps=10**30), "steps"),
    "loss": (says(train_loss=1.7e308), "train_loss"),
    "seconds": (says(seconds=1e300), "seconds"),
    "unknown key": (says(**{BOMB[:1000]: 1}), "Extra inputs"),
    "reason": (fails(BOMB), r"\x1b[2J\n"),
    "no reason": (fails(""), "without a reason"),
    "header": (sends(data=b"\x93NUMPY\x01\x00\x01\x00("), ".npy"),
    "deep header": (sends(data=b"\x93NUMPY\x01\x00\x00\x10" + b"(" * 4096), ".npy"),
    "array name": (sends(name="\x1b[2J" + "n" * 200), "cannot be printed"),
    "array type": (sends(dtype=BOMB), r"\x1b[2J\n"),
}


@pytest.mark.parametrize(("change", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_the_run_goes_on_without_a_hostile_update(tmp_path: Path, change: Change, words: str) -> None:
    result, events = run(tmp_path, "train", change)
    assert len(result.history) == 2
    for row in result.history:
        assert set(row.sites) == {"good"}
        assert words in row.refused["bad"]
        _short(row.refused["bad"])
    assert (tmp_path / "run.json").stat().st_size < 200_000
    for event in events:
        _short(event.note)


@pytest.mark.parametrize(
    "change",
    [
        says(patients={"train": 10**400, "validation": 1, "test": 1}),
        says(labels={BOMB[:1000]: 1}),
        says(fedward="9" * 100_000),
        says(fedward=BOMB[:100]),
        fails(BOMB),
    ],
)
def test_a_hostile_site_is_left_out_before_round_one(tmp_path: Path, change: Change) -> None:
    result, events = run(tmp_path, "query", change)
    assert set(result.sites) == {"good"}
    assert len(result.left_out) == 1
    _short(result.left_out[0])
    for event in events:
        _short(event.note)


@pytest.mark.parametrize("change", [says(seconds=10**400), says(evaluation={BOMB[:1000]: 10**400}), fails(BOMB)])
def test_hostile_scores_are_left_out(tmp_path: Path, change: Change) -> None:
    result, events = run(tmp_path, "evaluate", change)
    assert result.sites["bad"].test is None
    assert result.sites["good"].test is not None
    refused = [event.note for event in events if event.kind == "refused"]
    assert len(refused) == 2
    for note in refused:
        _short(note)


def test_the_update_that_counts_is_the_honest_one(tmp_path: Path) -> None:
    """A hostile site moves nothing: the model has the bits of the honest site's run alone."""

    def far_away(asked: Message, honest: Message) -> Message:
        arrays = from_array_record(honest.content.array_records["arrays"])
        honest.content["arrays"] = to_array_record({n: a + np.ones((), a.dtype) for n, a in arrays.items()})
        return says(patients=2**63)(asked, honest)

    result, _ = run(tmp_path / "with", "train", far_away)
    alone = RoundEngine(
        grid=FakeGrid({2: FakeSite(name="good", patients=40)}),
        study=tiny_study(), run="run-1", engine="embedded", folder=tmp_path / "without",
        on_round=lambda _row: None, listener=lambda _event: None,
    )()  # fmt: skip
    assert result.model_sha256 == alone.model_sha256


def _short(text: str) -> None:
    assert len(text) <= MAX_REASON + 100
    assert text.isprintable()
