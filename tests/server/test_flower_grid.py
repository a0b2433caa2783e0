"""What the hub believes of a reply, with a SuperLink in memory: pieces that come late, never, too many, or are none."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto, recorddict_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse, PushAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
)
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_common.errors import RunError
from fedward_common.packing import unpacked
from fedward_common.records import Prepared, Question, from_array_record, question_record, to_array_record
from fedward_common.testing import FakeSite, tiny_study
from fedward_server import flower_grid
from fedward_server.exchange import GONE, NotYetError, read_reply
from fedward_server.flower_grid import FlowerGrid

SUPERLINK = 1  # Flower's node id of itself
NORTH, VALLEY = 11, 12
FOLDER = Path(tempfile.gettempdir())  # files without names


@dataclass
class Announced:
    """A reply as the SuperLink announces it, and which of its pieces are there."""

    message: Message
    tree: ObjectTree
    pieces: dict[str, bytes]
    hidden: set[str] = field(default_factory=set)  # not there yet
    lost: bool = False  # never will be
    whole: bool = False  # its content comes with the announcement


class FakeLink:
    """The part of the Runtime API that a grid uses."""

    def __init__(self) -> None:
        self.replies: dict[str, Announced] = {}
        self.announced: dict[str, Announced] = {}
        self.confirmed: list[str] = []
        self.pulled = 0
        self.looks = 0
        self.pushed: list[ProtoMessage] = []  # in one piece
        self.given: set[str] = set()  # whose reply was announced: the SuperLink has forgotten them

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:  # noqa: N802 - Flower's name
        self.looks += 1
        found = [_unavailable(number) for number in request.message_ids if number in self.given]
        self.given |= self.replies.keys() & set(request.message_ids)
        found += [self.replies.pop(number) for number in list(request.message_ids) if number in self.replies]
        self.announced |= {name: reply for reply in found for name in reply.pieces}
        return PullAppMessagesResponse(
            messages_list=[
                message_to_proto(reply.message if reply.whole else remove_content_from_message(reply.message))
                for reply in found
            ],
            message_object_trees=[reply.tree for reply in found],
        )

    def PushMessages(self, request: PushAppMessagesRequest) -> None:  # noqa: N802 - Flower's name
        self.pushed += request.messages_list

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802 - Flower's name
        self.pulled += 1
        reply = self.announced.get(request.object_id)
        if reply is None or reply.lost:
            return PullObjectResponse(object_found=False)
        if request.object_id in reply.hidden:
            return PullObjectResponse(object_found=True, object_available=False)
        content = reply.pieces[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: ConfirmMessageReceivedRequest) -> None:  # noqa: N802 - Flower's name
        self.confirmed.append(request.message_object_id)


class FakeHttpGrid:
    """Flower's grid around a `FakeLink`: sends by giving ids."""

    def __init__(self, link: FakeLink, nodes: Iterable[NodeInfo] = (), *, refuses: bool = False) -> None:
        self._runtime_client = link
        self._nodes = list(nodes)
        self._refuses = refuses
        self.node = Node(node_id=SUPERLINK)
        self.run = SimpleNamespace(run_id=5)
        self.sent: list[Message] = []

    def get_nodes(self) -> list[NodeInfo]:
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"question-{message.metadata.dst_node_id}"
            self.sent.append(message)
        return [] if self._refuses else [message.metadata.message_id for message in self.sent]


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_grid, "SHORTEST_LOOK_S", 0.0)
    monkeypatch.setattr(flower_grid, "LOOK_SHARE", 0.0)


def made(link: FakeLink, **options: Any) -> FlowerGrid:
    TaskIdentity.task_id = TaskIdentity.run_id = 5
    TaskIdentity.node_id = SUPERLINK
    return FlowerGrid(FakeHttpGrid(link, **options), {}, FOLDER)  # type: ignore[arg-type]


def question(node: int, kind: str = "query") -> Message:
    asked = Question(kind="prepare", study=tiny_study(), run="run-1")
    arrays = to_array_record({"w": np.ones((40, 30), np.float32)}) if kind == "train" else None
    return Message(question_record(asked, arrays), node, kind)


def announced(reply: Message, **change: Any) -> Announced:
    """An honest announcement of a reply."""
    reply.metadata.__dict__["_message_id"] = reply.object_id
    pieces = {name: each.deflate() for name, each in get_all_nested_objects(reply).items()}
    return Announced(reply, get_object_tree(reply), pieces, **change)


def _unavailable(number: str) -> Announced:
    """What the SuperLink says of a question whose reply it has given away."""
    message = question(NORTH)
    message.metadata.__dict__["_message_id"] = number
    error = Message(Error(code=3, reason="Error: Message Unavailable - ..."), reply_to=message)
    error.metadata.__dict__["_src_node_id"] = SUPERLINK
    return announced(error)


def asked(grid: FlowerGrid, *nodes: int, kind: str = "query") -> dict[int, tuple[str, Message]]:
    messages = [question(node, kind) for node in nodes]
    ids = grid.push_messages(messages)
    return {node: (number, message) for node, number, message in zip(nodes, ids, messages, strict=True)}


def answer(message: Message, site: str = "north") -> Message:
    reply = FakeSite(name=site)(message)
    assert reply is not None
    return reply


def raw(asked_message: Message, pieces: Mapping[str, bytes], top: str) -> Announced:
    """An announcement of pieces made by hand, under the metadata of an honest reply."""
    reply = answer(asked_message)
    reply.metadata.__dict__["_message_id"] = top
    children = [ObjectTree(object_id=name) for name in pieces if name != top]
    return Announced(reply, ObjectTree(object_id=top, children=children), dict(pieces))


# What arrives --------------------------------------------------------------------------------------------------------


def test_a_reply_comes_back_and_is_confirmed() -> None:
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH)[NORTH]
    assert grid.pull_messages([number]) == []
    link.replies[number] = announced(answer(message))
    [reply] = grid.pull_messages([number])
    assert read_reply(reply, Prepared).site == "north"
    assert reply.metadata.reply_to_message_id == number
    assert link.confirmed == [reply.metadata.message_id]


def test_what_a_reply_says_of_itself_is_not_believed() -> None:
    link = FakeLink()
    grid = made(link)
    both = asked(grid, NORTH, VALLEY)
    number, message = both[NORTH]
    forged = answer(message)
    forged.metadata.__dict__["_src_node_id"] = VALLEY
    forged.metadata.__dict__["_reply_to_message_id"] = both[VALLEY][0]
    reply = announced(forged)
    reply.message = answer(message)  # what the SuperLink knows: it authenticated the node
    reply.message.metadata.__dict__["_message_id"] = forged.object_id
    link.replies[number] = reply
    [got] = grid.pull_messages([each for each, _ in both.values()])
    assert (got.metadata.src_node_id, got.metadata.reply_to_message_id) == (NORTH, number)


def test_a_reply_whose_pieces_come_late_holds_up_no_other() -> None:
    link = FakeLink()
    grid = made(link)
    both = asked(grid, NORTH, VALLEY)
    ids = [number for number, _ in both.values()]
    slow, quick = (announced(answer(both[node][1], site)) for node, site in ((NORTH, "north"), (VALLEY, "valley")))
    slow.hidden = set(list(slow.pieces)[1:])
    link.replies = {both[NORTH][0]: slow}
    assert grid.pull_messages(ids) == []
    link.replies = {both[VALLEY][0]: quick}
    [first] = grid.pull_messages(ids)
    assert read_reply(first, Prepared).site == "valley"
    assert grid.pull_messages([both[NORTH][0]]) == []
    slow.hidden.clear()
    [second] = grid.pull_messages([both[NORTH][0]])
    assert read_reply(second, Prepared).site == "north"


def test_of_many_replies_that_come_at_once_few_are_taken() -> None:
    link, nodes = FakeLink(), range(20, 26)
    grid = made(link)
    numbers = grid.push_messages([question(node, "train") for node in nodes])
    answers = [announced(large(message, seed)) for seed, message in enumerate(grid._grid.sent)]  # type: ignore[attr-defined]
    for number, answer in zip(numbers, answers, strict=True):
        answer.hidden = set(list(answer.pieces)[-1:]) | {answer.tree.children[-1].object_id}
        link.replies[number] = answer

    def held() -> int:
        return sum(1 for arrival in grid._arriving.values() if len(arrival.pieces))

    assert grid.pull_messages(numbers) == []
    assert held() == flower_grid.AT_ONCE
    for answer in answers[::-1]:  # the last to be announced is whole first, and is not held up
        answer.hidden.clear()
        (reply,) = grid.pull_messages(numbers)
        assert reply.metadata.reply_to_message_id == numbers[answers.index(answer)]
        assert held() <= flower_grid.AT_ONCE


def large(asked: Message, seed: int) -> Message:
    """A reply of several pieces, unlike any other."""
    values = np.random.default_rng(seed).random((3, 400_000)).astype(np.float32)
    return Message(
        RecordDict({"arrays": ArrayRecord({f"w{n}": Array(row) for n, row in enumerate(values)})}), reply_to=asked
    )


def test_a_reply_that_nobody_waits_for_any_more_is_dropped() -> None:
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH)[NORTH]
    late = announced(answer(message))
    late.hidden = set(late.pieces)
    link.replies[number] = late
    assert grid.pull_messages([number]) == []
    assert grid.pull_messages(["question-99"]) == []
    assert link.confirmed == [late.message.metadata.message_id], "the SuperLink need not keep it"


def test_a_reply_whose_pieces_never_come_means_that_its_site_is_gone() -> None:
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH)[NORTH]
    link.replies[number] = announced(answer(message), lost=True)
    [reply] = grid.pull_messages([number])
    assert reply.error.code == GONE
    with pytest.raises(NotYetError, match="lost its connection"):
        read_reply(reply, Prepared)


# Who says that a site is gone ----------------------------------------------------------------------------------------


def test_the_superlink_says_that_a_node_is_gone() -> None:
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH)[NORTH]
    unavailable = Message(Error(code=5, reason="Error: Node Unavailable - ..."), reply_to=message)
    unavailable.metadata.__dict__["_src_node_id"] = SUPERLINK
    link.replies[number] = announced(unavailable)
    [reply] = grid.pull_messages([number])
    assert (reply.error.code, reply.error.reason) == (GONE, flower_grid.LOST)


def test_a_site_cannot_say_so_of_itself() -> None:
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH)[NORTH]
    link.replies[number] = announced(Message(Error(code=GONE, reason="ask me again"), reply_to=message))
    [reply] = grid.pull_messages([number])
    assert reply.error.code != GONE
    assert reply.error.reason == "ask me again"


def test_sites_are_known_by_their_nodes_keys() -> None:
    nodes = [NodeInfo(node_id=NORTH, public_key=b"north's"), NodeInfo(node_id=VALLEY, public_key=b"a stranger's")]
    grid = FlowerGrid(
        FakeHttpGrid(FakeLink(), nodes),  # type: ignore[arg-type]
        {hashlib.sha256(b"north's").hexdigest(): "north", hashlib.sha256(b"west's").hexdigest(): "west"},
        FOLDER,
    )
    assert {site: node.number for site, node in grid.connected().items()} == {"north": NORTH}
    assert grid.get_node_ids() == [NORTH]


# Too much, and nonsense ----------------------------------------------------------------------------------------------


def refusal(link: FakeLink, grid: FlowerGrid, number: str, reply: Announced) -> str:
    link.replies[number] = reply
    [got] = grid.pull_messages([number])
    assert got.has_error()
    assert got.error.code != GONE
    return str(got.error.reason)


def test_a_reply_far_larger_than_its_question_is_refused() -> None:
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH)[NORTH]
    reply = answer(message)
    reply.content["arrays"] = to_array_record({"w": np.arange(8_000_000.0)})
    assert "larger than 16 MiB" in refusal(link, grid, number, announced(reply))
    assert link.pulled < 10


def test_the_room_grows_with_what_was_sent() -> None:
    link = FakeLink()
    grid = made(link)
    big = {"w": np.arange(4_000_000.0)}  # 32 MB
    message = Message(
        question_record(Question(kind="prepare", study=tiny_study(), run="run-1"), to_array_record(big)), NORTH, "train"
    )
    [number] = grid.push_messages([message])
    reply = Message(RecordDict({"arrays": to_array_record(big)}), reply_to=message)
    link.replies[number] = announced(reply)
    [got] = grid.pull_messages([number])
    np.testing.assert_array_equal(from_array_record(got.content.array_records["arrays"])["w"], big["w"])


def test_a_piece_that_is_repeated_a_million_times_takes_no_memory() -> None:
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH)[NORTH]
    reply = answer(message)
    reply.content["arrays"] = ArrayRecord({"w": Array("uint8", (2**20,), "numpy.ndarray", bytes(2**20))})
    bomb = announced(reply)
    [name] = [name for name, content in bomb.pieces.items() if content.startswith(b"Array ")]
    chunk = bomb.pieces[name].split(b" ")[1].decode()
    body = json.dumps({"dtype": "uint8", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": [0] * 1_000_000})
    bomb.pieces[name] = f"Array {chunk} {len(body)}\0{body}".encode()
    assert "larger than 16 MiB" in refusal(link, grid, number, bomb)


def test_pieces_that_are_no_message_are_refused() -> None:
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH)[NORTH]
    config = ConfigRecord({"a": 1})
    for top in (config.deflate(), RecordDict({"c": config}).deflate(), b"", b"no object", b"Message  9\0"):
        pieces = {get_object_id(top): top, config.object_id: config.deflate()}
        assert "cannot be read" in refusal(link, grid, number, raw(message, pieces, get_object_id(top)))


def test_a_reply_of_too_many_pieces_is_refused_before_one_is_pulled() -> None:
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH)[NORTH]
    reply = announced(answer(message))
    reply.tree.children.extend(ObjectTree(object_id=f"{n:064x}") for n in range(flower_grid.MAX_OBJECTS + 1))
    assert "pieces" in refusal(link, grid, number, reply)
    assert link.pulled == 0


@settings(max_examples=100, deadline=None)
@given(which=st.integers(0, 20), at=st.floats(0, 1), new=st.binary(max_size=12), cut=st.booleans(), kind=st.booleans())
def test_changed_bytes_never_end_a_run(which: int, at: float, new: bytes, cut: bool, kind: bool) -> None:
    """Whatever the bytes of a piece are, what comes out is a message or an error in its place."""
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH, kind="train" if kind else "query")[NORTH]
    reply = announced(
        Message(RecordDict({"arrays": to_array_record({"w": np.ones((3, 2)), "b": np.ones(0)})}), reply_to=message)
        if kind
        else answer(message)
    )
    name = sorted(reply.pieces)[which % len(reply.pieces)]
    content = reply.pieces[name]
    place = int(at * len(content))
    reply.pieces[name] = content[:place] + new + (b"" if cut else content[place + len(new) :])
    link.replies[number] = reply
    [got] = grid.pull_messages([number])
    assert got.has_error() or isinstance(got.content, RecordDict)
    assert got.metadata.reply_to_message_id == number


def test_messages_that_are_too_large_to_send_end_the_run_in_words() -> None:
    grid = made(FakeLink(), refuses=True)
    with pytest.raises(RunError, match="messages of this size"):
        grid.push_messages([question(NORTH)])
    with pytest.raises(RunError, match="by itself"):
        grid.send_and_receive([])


def test_a_question_reaches_the_site_as_one_record_and_the_caller_keeps_its_own() -> None:
    link = FakeLink()
    http = FakeHttpGrid(link)
    TaskIdentity.task_id = TaskIdentity.run_id = 5
    grid = FlowerGrid(http, {}, FOLDER)  # type: ignore[arg-type]
    message = question(NORTH, "train")
    grid.push_messages([message])
    assert list(message.content.array_records["arrays"]) == ["w"]
    assert len(http.sent[0].content) == 1
    assert list(unpacked(http.sent[0].content).array_records["arrays"]) == ["w"]


# In one piece ---------------------------------------------------------------------------------------------------------


def test_a_node_that_answers_in_one_piece_is_asked_in_one_piece_from_then_on() -> None:
    link = FakeLink()
    http = FakeHttpGrid(link)
    grid = FlowerGrid(http, {}, FOLDER)  # type: ignore[arg-type]
    TaskIdentity.task_id = TaskIdentity.run_id = 5
    both = asked(grid, NORTH, VALLEY)
    assert len(http.sent) == 2
    link.replies[both[NORTH][0]] = announced(answer(both[NORTH][1]), whole=True)
    [reply] = grid.pull_messages([number for number, _ in both.values()])
    assert read_reply(reply, Prepared).site == "north"
    assert (link.pulled, link.confirmed) == (0, [])
    again = asked(grid, NORTH, VALLEY, kind="train")
    assert len(http.sent) == 3, "the other node is still sent pieces"
    [sent] = link.pushed
    assert sent.metadata.message_id == again[NORTH][0]
    assert list(unpacked(recorddict_from_proto(sent.content)).array_records["arrays"]) == ["w"]


def test_a_whole_reply_far_larger_than_its_question_is_refused() -> None:
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH)[NORTH]
    reply = answer(message)
    reply.content["arrays"] = ArrayRecord([np.arange(8_000_000.0)])
    assert "larger than 16 MiB" in refusal(link, grid, number, announced(reply, whole=True))


def test_a_whole_reply_that_is_nonsense_is_refused() -> None:
    link = FakeLink()
    grid = made(link)
    number, message = asked(grid, NORTH)[NORTH]
    reply = Message(RecordDict({"config": ConfigRecord({"fedward.block": b"no block"})}), reply_to=message)
    assert "array" in refusal(link, grid, number, announced(reply, whole=True))


def test_replies_that_come_too_late_are_taken_from_the_superlink_and_dropped() -> None:
    link = FakeLink()
    grid = made(link)
    late, message = asked(grid, NORTH)[NORTH]
    other, question_to_other = asked(grid, VALLEY)[VALLEY]
    link.replies = {late: announced(answer(message)), other: announced(answer(question_to_other, "valley"))}
    [reply] = grid.pull_messages([other])
    assert read_reply(reply, Prepared).site == "valley"
    assert link.replies == {}
    assert len(link.confirmed) == 2
