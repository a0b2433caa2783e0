"""Flower's grid to real sites: what the engine may believe of a reply is decided here.

The only module of the hub on Flower's internals; flwr is pinned, and a test runs this against the real SuperLink. It
differs from flwr's `HttpGrid` in what it trusts and in how long it waits:

- Whose reply it is, and what it answers, is what the SuperLink says, which authenticated the node; never what stands
  in the reply.
- A small message travels whole in one request, which Flower's own grid never does: see ADR 0013.
- A large reply is announced before its pieces have arrived. They are taken as they come, into a file, so that a site
  that uploads slowly, or never, holds up nobody; a round's deadline holds for it too. Of the pieces of many sites that
  upload at once, those of few are here; the others stay at the SuperLink until they are all there.
- A reply may not be larger than its question was, but for some room. Pieces that a reply repeats are counted as often
  as it repeats them, before any memory is given to them.
- What cannot be read becomes an error in the site's place, and the run goes on.
"""

import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
)
from flwr.superlink.grid import HttpGrid
from google.protobuf.message import DecodeError

from fedward_common.array_blocks import view
from fedward_common.bulk import Manifest
from fedward_common.errors import RecordError, RunError
from fedward_common.packing import (
    beside,
    block_of,
    for_whole_replies,
    is_small,
    manifest_in,
    packed,
    unpacked,
    without_block,
)
from fedward_common.records import MAX_ARRAYS, array_bytes, arrays_in, texts_in
from fedward_common.rhythm import Rhythm
from fedward_server.bulk import Bulk
from fedward_server.exchange import GONE, Node, is_gone
from fedward_server.reply_pieces import ReplyPieces

BACK_OFF_S = 0.01  # between two looks for a piece that has not arrived
PATIENCE_S = 0.05  # of one pull, for pieces that are announced
AT_ONCE = 2  # replies whose pieces are taken before all of them are there
SURVEY_S = 1.0
LOOK_SHARE, SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.05, 0.015, 0.5
ROOM_BYTES = 16 * 2**20  # of a reply beside twice the arrays that were sent: JSON, heads
MAX_OBJECTS = 2 * MAX_ARRAYS + 10_000  # an array and at least one chunk each
LOST = "lost its connection to the hub before its answer was here"

_SITES_OWN = 1000  # the error code of a site that claims one of Flower's
_UNREADABLE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(RecursionError, DecodeError),
)  # what Flower raises on reading bytes that are no message


@dataclass(slots=True)
class _Arrival:
    """A reply of which some pieces are here."""

    metadata: Metadata  # the SuperLink's
    missing: list[str]  # object ids, the next one last
    whole: ProtoMessage | None  # where it came in one piece
    pieces: ReplyPieces


class FlowerGrid(Grid):
    """A run's grid. `sites` names sites by the SHA-256 (hex) of their nodes' public keys, PEM.

    Large replies wait in files in `folder`, without names. With a `bulk` path arrays travel beside large messages.
    """

    def __init__(self, grid: HttpGrid, sites: Mapping[str, str], folder: Path, bulk: Bulk | None = None) -> None:
        self._grid = grid
        self._bulk = bulk
        self._folder = folder
        self._sites = dict(sites)
        self._whole: set[int] = set()  # nodes that send small messages in one piece, and so take them
        self._arriving: dict[str, _Arrival] = {}  # by the id of the question
        self._trips: dict[str, tuple[str, int]] = {}  # by the id of a question with arrays beside it: site and trip
        self._open: set[str] = set()  # questions without a reply, those among them that nobody waits for any more
        self._nodes: dict[str, Node] = {}
        self._surveyed = -SURVEY_S
        self._room = ROOM_BYTES
        self._first = Rhythm(LOOK_SHARE, SHORTEST_LOOK_S, LONGEST_LOOK_S)  # for the first answer to what was sent
        self._next = Rhythm(LOOK_SHARE, SHORTEST_LOOK_S, LONGEST_LOOK_S)  # for the others
        self._waits = self._first

    def connected(self) -> dict[str, Node]:
        """The sites that are connected now, and their nodes; as they were up to a second ago."""
        if time.monotonic() - self._surveyed > SURVEY_S:
            self._surveyed = time.monotonic()
            found = {hashlib.sha256(node.public_key).hexdigest(): node for node in self._grid.get_nodes()}
            self._nodes = {
                self._sites[key]: Node(node.node_id, boot=node.last_activated_at, until=node.online_until)
                for key, node in found.items()
                if key in self._sites
            }
        return self._nodes

    def get_node_ids(self) -> list[int]:
        """The nodes of the sites that are connected now."""
        return sorted(node.number for node in self.connected().values())

    @property
    def run(self) -> Any:
        """Flower's run."""
        return self._grid.run

    def set_run(self, run: Any) -> None:
        """Take a run as the current one."""
        self._grid.set_run(run)

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """A message to a node."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send; gives the messages' ids. To one that could not be sent the reply is that its site is gone."""
        messages = list(messages)
        sent = [array_bytes(arrays_in(message.content)) for message in messages]
        self._room = max(self._room, ROOM_BYTES + 2 * max(sent, default=0))
        ready, places = self._beside(_packed(messages))
        whole = [m for m in ready if self._in_one_piece(m)]
        in_pieces = [m for m in ready if not self._in_one_piece(m)]
        if whole:
            self._push_whole(whole)
        if in_pieces and len(list(self._grid.push_messages(in_pieces))) < len(in_pieces):
            raise RunError("the SuperLink does not take messages of this size: choose a smaller model")
        self._waits = self._first
        self._waits.begin(time.monotonic())
        numbers = [message.metadata.message_id for message in messages]
        self._open.update(numbers)
        self._trips.update({metadata.message_id: place for metadata, place in places})
        return numbers

    def _beside(self, messages: list[Message]) -> tuple[list[Message], list[tuple[Metadata, tuple[str, int]]]]:
        """The messages, with large arrays put beside them where there is a way for these; and whose these are."""
        if self._bulk is None or all(is_small(message.content) for message in messages):
            return messages, []
        trip = time.time_ns() // 1_000_000
        names = {node.number: site for site, node in self.connected().items()}
        offered: dict[int, Manifest] = {}  # by the block's array: several messages share one
        ready, places = [], []
        for message in messages:
            site = names.get(message.metadata.dst_node_id)
            block = block_of(message.content)
            if site is None or block is None or is_small(message.content):
                ready.append(message)
                continue
            if id(block.obj) not in offered:
                offered[id(block.obj)] = self._bulk.offer(block, trip)
            self._bulk.await_answers([site], trip)
            places.append((message.metadata, (site, trip)))
            content = beside(message.content, offered[id(block.obj)])
            ready.append(make_message(metadata=message.metadata, content=content))
        return ready, places

    def _in_one_piece(self, message: Message) -> bool:
        return message.metadata.dst_node_id in self._whole and is_small(message.content)

    def _push_whole(self, messages: list[Message]) -> None:
        """Send messages in one request, their content in it: see ADR 0013."""
        for message in messages:
            message.metadata.__dict__["_message_id"] = secrets.token_hex(32)
        self._grid._runtime_client.PushMessages(
            PushAppMessagesRequest(
                messages_list=[message_to_proto(message) for message in messages],
                message_object_trees=[ObjectTree(object_id=message.metadata.message_id) for message in messages],
            )
        )

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """A reply that is there whole; waits a moment for those that have been announced.

        One at a time: it can be added up and let go before the next one takes memory.
        """
        asked = set(message_ids)
        for number in self._arriving.keys() - asked:
            self._drop(number)
        self._announce(asked - self._arriving.keys())
        until = time.monotonic() + PATIENCE_S
        while True:
            for number, arrival in self._arriving.items():
                if self._may_take(arrival) and (reply := self._receive(arrival)):
                    self._drop(number, gone=is_gone(reply))
                    return [reply]
            if not self._arriving or time.monotonic() >= until:
                return []
            time.sleep(BACK_OFF_S)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Refused."""
        del messages, timeout
        raise RunError("the round engine sends and receives by itself")

    def _announce(self, asked: set[str]) -> None:
        """Take note of the replies that the SuperLink has, now and then; it announces each once.

        Those that came too late are asked for as well, and dropped, so that the SuperLink need not keep them.
        """
        if not asked or time.monotonic() < self._waits.next_look():
            return
        open_ = (asked | self._open) - self._arriving.keys()
        answer = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=open_))
        if not answer.messages_list:
            self._waits.in_vain(time.monotonic())
        for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            metadata = metadata_from_proto(proto.metadata)
            number = metadata.reply_to_message_id
            whole = proto if proto.content.ByteSize() or proto.HasField("error") else None
            missing = [] if whole else _object_ids(tree)
            self._arriving[number] = _Arrival(metadata, missing, whole, ReplyPieces(self._folder))
            if number not in asked:
                self._drop(number)
                continue
            if proto.content.ByteSize():
                self._whole.add(metadata.src_node_id)
            self._waits.came(time.monotonic())
            self._waits = self._next
            self._waits.begin(time.monotonic())

    def _may_take(self, arrival: _Arrival) -> bool:
        """Whether a reply is one of the few that are taken piece by piece, or all of it seems to be there."""
        if len(arrival.pieces) or len(arrival.missing) <= 1:
            return True
        if sum(1 for other in self._arriving.values() if len(other.pieces)) < AT_ONCE:
            return True
        try:
            self._take_one(arrival, 0)
        except ObjectUnavailableError:
            return False
        except (ObjectPullError, RecordError):  # told by `_receive`
            pass
        return True

    def _pull(self, name: str) -> bytes:
        """A piece. Raises ObjectUnavailableError where it is not there yet, ObjectPullError where it never will be."""
        runtime = self._grid._runtime_client
        return make_pull_object_fn_protobuf(runtime.PullObject, self._grid.node, self.run.run_id)(name)

    def _receive(self, arrival: _Arrival) -> Message | None:
        """The reply, or an error in its place, when all of it is here."""
        try:
            self._take(arrival)
            return self._with_what_is_beside(_reply(arrival, self._room))
        except ObjectUnavailableError:
            return None
        except ObjectPullError:
            error = Error(code=GONE, reason=LOST)
        except RecordError as refusal:
            error = Error(code=_SITES_OWN, reason=str(refusal))
        return make_message(metadata=arrival.metadata, error=error)

    def _with_what_is_beside(self, reply: Message) -> Message:
        """A reply with the arrays that its site put beside it."""
        manifest = manifest_in(reply.content) if reply.has_content() else None
        if manifest is None:
            return reply
        names = {node.number: site for site, node in self._nodes.items()}
        site = names.get(reply.metadata.src_node_id)
        if self._bulk is None or site is None:
            raise RecordError("its arrays travel another way than it was asked")
        block = self._bulk.take(site, manifest, self._room)
        texts = {name: ConfigRecord(without_block(text)) for name, text in texts_in(reply.content).items()}
        return make_message(metadata=reply.metadata, content=RecordDict({**texts, "arrays": view(block)}))

    def _take(self, arrival: _Arrival) -> None:
        """Take the pieces that are here; raises where one is not, or there are more than may be."""
        if len(arrival.missing) > MAX_OBJECTS:
            raise RecordError(f"its reply has more than {MAX_OBJECTS} pieces")
        while arrival.missing:  # in the order in which the site sends them, so that few are asked for in vain
            self._take_one(arrival, -1)
            if arrival.pieces.size > self._room:
                raise _too_large(self._room)

    def _take_one(self, arrival: _Arrival, place: int) -> None:
        """Take the piece that stands at a place of those that are missing."""
        name = arrival.missing[place]
        content = self._pull(name)
        try:
            arrival.pieces.put(name, content)
        except _UNREADABLE as error:
            raise _unreadable(error) from None
        del arrival.missing[place]

    def _drop(self, number: str, *, gone: bool = False) -> None:
        """Forget a question and its reply, whose pieces the SuperLink need not keep any longer.

        What a site that is gone put beside its answer is kept: it goes on when it is asked again.
        """
        self._open.discard(number)
        arrival = self._arriving.pop(number)
        arrival.pieces.close()
        if self._bulk is not None and number in self._trips:
            (self._bulk.leave if gone else self._bulk.forget)(*self._trips.pop(number))
        if arrival.whole is None or arrival.metadata.src_node_id == SUPERLINK_NODE_ID:
            name = arrival.metadata.message_id
            self._grid._runtime_client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=self._grid.node, run_id=self.run.run_id, message_object_id=name)
            )


def _packed(messages: Iterable[Message]) -> list[Message]:
    """The messages with their content packed; what several have in common is packed once."""
    common: dict[tuple[Any, ...], RecordDict] = {}
    ready = []
    for message in messages:
        text = str({name: dict(text) for name, text in texts_in(message.content).items()})
        key = (text, *map(id, arrays_in(message.content).values()))
        if key not in common:
            common[key] = for_whole_replies(packed(message.content))
        ready.append(make_message(metadata=message.metadata, content=common[key]))
    return ready


def _object_ids(tree: ObjectTree) -> list[str]:
    """The pieces of a reply, each once, one more than may be at most; the first to take stands last."""
    found = dict.fromkeys(node.object_id for node in islice(iterate_object_tree(tree), 2 * MAX_OBJECTS))
    return list(found)[::-1]


def _reply(arrival: _Arrival, room: int) -> Message:
    """The message of a reply that is here whole; RecordError where its pieces make none."""
    try:
        size = arrival.pieces.joined_size() if arrival.whole is None else arrival.whole.ByteSize()
        if size > room:
            raise _too_large(room)
        if arrival.whole is None:
            message = arrival.pieces.message(arrival.metadata.message_id)
        else:
            message = message_from_proto(arrival.whole)
        if message.has_error():
            return make_message(metadata=arrival.metadata, error=_error(arrival.metadata, message.error))
        if not isinstance(message.content, RecordDict):
            raise TypeError("no records")
        return make_message(metadata=arrival.metadata, content=unpacked(message.content))
    except _UNREADABLE as error:
        raise _unreadable(error) from None


def _error(metadata: Metadata, error: Error) -> Error:
    """What the SuperLink says in a site's place means that the site is gone; a site cannot say so of itself."""
    if metadata.src_node_id == SUPERLINK_NODE_ID:
        return Error(code=GONE, reason=LOST)
    return Error(code=_SITES_OWN if error.code == GONE else error.code, reason=error.reason)


def _unreadable(error: Exception) -> RecordError:
    return RecordError(f"its reply cannot be read ({type(error).__name__})")


def _too_large(room: int) -> RecordError:
    return RecordError(f"its reply is larger than {room / 2**20:.0f} MiB, the most that fits what it was asked")
