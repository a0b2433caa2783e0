"""How long a site is waited for, and when it is asked again: with a grid in memory and short limits."""

import time
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedward_common.testing import FakeGrid
from fedward_server import exchange
from fedward_server.exchange import GONE, Came, Node, Trip

THERE = {"north": Node(1, "a"), "valley": Node(2, "a"), "west": Node(3, "a")}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LOOK_AGAIN_S", 0.05)
    monkeypatch.setattr(exchange, "GONE_S", 0.4)


def says(name: str) -> Callable[[Message], Message]:
    return lambda asked: Message(RecordDict({"said": ConfigRecord({"name": name})}), reply_to=asked)


def mute(_asked: Message) -> None:
    return None


def after(times: int, then: Callable[[Message], Message | None]) -> Callable[[Message], Message | None]:
    """Silent for the first `times` questions."""
    left = times

    def answer(asked: Message) -> Message | None:
        nonlocal left
        left -= 1
        return then(asked) if left < 0 else None

    return answer


class Slow(FakeGrid):
    """Gives a node's replies only so many seconds after they were asked for."""

    def __init__(self, sites: Mapping[int, Callable[[Message], Message | None]], seconds: Mapping[int, float]) -> None:
        super().__init__(sites)
        self._seconds = seconds
        self._times: dict[str, float] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        ids = super().push_messages(messages)
        for number, message in zip(ids, messages, strict=True):
            self._times[number] = time.monotonic() + self._seconds.get(message.metadata.dst_node_id, 0.0)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return super().pull_messages([one for one in message_ids if time.monotonic() >= self._times[one]])


def trip(grid: FakeGrid, sites: Mapping[str, int], **options: Any) -> tuple[Trip, list[tuple[str, str]]]:
    content = RecordDict({"config": ConfigRecord({"a": 1})})
    told: list[tuple[str, str]] = []
    questions = {site: Message(content, node, "train") for site, node in sites.items()}
    options = {"hard_s": 5.0, "connected": lambda: THERE, **options}
    return Trip(carrier=grid, questions=questions, tell=lambda *said: told.append(said), **options), told


def names(came: Iterable[Came]) -> list[str]:
    return sorted(one.site for one in came)


def test_every_site_answers_once() -> None:
    asked, _ = trip(FakeGrid({1: says("n"), 2: says("v")}), {"north": 1, "valley": 2})
    assert names(asked.replies()) == ["north", "valley"]
    assert asked.silent() == {}
    assert asked.gone() == set()


def test_a_quorum_ends_the_trip_and_the_others_are_named() -> None:
    heard: list[str] = []
    grid = Slow({1: says("n"), 2: says("v"), 3: mute}, {2: 0.1})
    asked, _ = trip(grid, {"north": 1, "valley": 2, "west": 3}, closed=lambda: len(heard) == 2)
    started = time.monotonic()
    for came in asked.replies():
        heard += [came.site]
    assert heard == ["north", "valley"]
    assert time.monotonic() - started < 2.0
    assert "quorum" in asked.silent()["west"]


def test_a_site_far_slower_than_before_is_waited_for_no_longer_than_its_own_limit() -> None:
    asked, _ = trip(FakeGrid({1: says("n"), 2: mute}), {"north": 1, "valley": 2}, soft_s={"valley": 0.3}, hard_s=30.0)
    started = time.monotonic()
    assert names(asked.replies()) == ["north"]
    assert 0.3 <= time.monotonic() - started < 5.0
    assert "0.3 s is its limit, from what it needed before" in asked.silent()["valley"]


def test_it_is_waited_for_as_long_as_the_study_allows_where_it_is_needed() -> None:
    asked, _ = trip(
        Slow({1: says("n")}, {1: 0.6}), {"north": 1}, soft_s={"north": 0.2}, enough=lambda: False, hard_s=30.0
    )
    assert names(asked.replies()) == ["north"]


def test_a_site_that_died_is_let_go_as_soon_as_its_silence_says_so() -> None:
    died = time.time() + 0.2
    there = {**THERE, "valley": Node(2, "a", until=died)}

    def connected() -> Mapping[str, Node]:
        return there if time.time() < died else {"north": Node(1, "a")}

    asked, told = trip(FakeGrid({1: says("n"), 2: mute}), {"north": 1, "valley": 2}, connected=connected, hard_s=30.0)
    started = time.monotonic()
    assert names(asked.replies()) == ["north"]
    assert 0.15 <= time.monotonic() - started < 0.55
    assert told == [("valley", "is not connected to the hub")]
    assert asked.gone() == {"valley"}
    assert "not connected to the hub" in asked.silent()["valley"]


def test_one_that_said_goodbye_may_come_back_and_is_asked_again() -> None:
    away, back = time.monotonic() + 0.1, time.monotonic() + 0.3

    def connected() -> Mapping[str, Node]:
        now = time.monotonic()
        valley = {"valley": Node(2, "a" if now < away else "b")}
        return {"north": Node(1, "a"), **(valley if not away < now < back else {})}

    asked, told = trip(FakeGrid({1: says("n"), 2: after(1, says("v"))}), {"north": 1, "valley": 2}, connected=connected)
    came = {one.site: one for one in asked.replies()}
    assert set(came) == {"north", "valley"}
    assert told == [("valley", "is not connected to the hub"), ("valley", "is back and is asked again")]
    assert asked.notes("valley") == "is not connected to the hub; is back and is asked again"
    assert asked.notes("north") == ""


def test_with_a_fixed_deadline_a_site_that_is_gone_is_waited_for() -> None:
    asked, _ = trip(
        FakeGrid({1: says("n"), 2: mute}),
        {"north": 1, "valley": 2},
        connected=lambda: {"north": Node(1, "a")},
        lets_go=False,
        hard_s=1.0,
    )
    started = time.monotonic()
    assert names(asked.replies()) == ["north"]
    assert time.monotonic() - started >= 1.0


def test_a_site_that_was_gone_before_costs_nothing_until_it_is_back() -> None:
    asked, _ = trip(
        FakeGrid({1: says("n"), 2: mute}),
        {"north": 1, "valley": 2},
        connected=lambda: {"north": Node(1, "a")},
        long_gone={"valley"},
        hard_s=30.0,
    )
    started = time.monotonic()
    assert names(asked.replies()) == ["north"]
    assert time.monotonic() - started < 0.35
    back, _ = trip(FakeGrid({1: says("n"), 2: says("v")}), {"north": 1, "valley": 2}, long_gone={"valley"})
    assert names(back.replies()) == ["north", "valley"]


def test_a_site_with_another_boot_is_asked_the_same_again() -> None:
    seen: list[RecordDict] = []

    def answer(asked: Message) -> Message | None:
        seen.append(asked.content)
        return says("v")(asked) if len(seen) == 2 else None

    boots = iter("aab")
    asked, told = trip(FakeGrid({2: answer}), {"valley": 2}, connected=lambda: {"valley": Node(2, next(boots, "b"))})
    assert names(asked.replies()) == ["valley"]
    assert seen[0] == seen[1]
    assert told == [("valley", "is back and is asked again")]


def test_a_silent_site_is_asked_again_once_at_half_of_its_limit() -> None:
    asked, told = trip(FakeGrid({2: after(1, says("v"))}), {"valley": 2}, soft_s={"valley": 0.6})
    assert names(asked.replies()) == ["valley"]
    assert len(told) == 1
    assert "and is asked again" in told[0][1]


def test_an_answer_to_either_question_counts_and_only_the_first() -> None:
    """The site had not lost the question: it answers both, and the second is dropped."""
    grid = Slow({2: says("v")}, {2: 0.45})
    asked, _ = trip(grid, {"valley": 2}, soft_s={"valley": 0.6})
    assert len(list(asked.replies())) == 1


def test_a_lost_connection_is_no_answer() -> None:
    gone = [True]

    def answer(asked: Message) -> Message | None:
        if gone.pop() if gone else False:
            return Message(Error(code=GONE, reason="lost"), reply_to=asked)
        return says("v")(asked)

    asked, _ = trip(FakeGrid({2: answer}), {"valley": 2})
    [came] = list(asked.replies())
    assert not came.reply.has_error()


def test_where_nothing_is_known_of_connections_an_error_is_an_answer() -> None:
    asked, _ = trip(
        FakeGrid({2: lambda m: Message(Error(code=GONE, reason="lost"), reply_to=m)}),
        {"valley": 2},
        connected=None,
        hard_s=inf,
    )
    [came] = list(asked.replies())
    assert came.reply.has_error()


def test_a_long_wait_explains_itself_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "TOLD_AFTER_S", 0.1)
    asked, told = trip(FakeGrid({2: mute}), {"valley": 2}, hard_s=1.0, soft_s={"valley": 100.0})
    assert list(asked.replies()) == []
    waits = [note for _, note in told if "its limit is 1 s" in note]
    assert 2 <= len(waits) <= 4, "each at twice the time of the one before"
