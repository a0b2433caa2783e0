"""Asking sites and waiting for them: one deadline, adaptive polling, a reason in words for each missing reply.

Whose reply it is follows from the question that it answers, never from what the reply says of itself.
"""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from flwr.app import Message

from fedward_common.errors import RecordError
from fedward_common.records import WAITS, Evaluated, Prepared, Trained, printable, read_answer

Answer = TypeVar("Answer", Prepared, Trained, Evaluated)

SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.001, 0.05
LOOK_AGAIN_S = 2.0  # how often a site that cannot answer now is looked for again
GONE = 5  # Flower's error code for a node that lost its connection; only a grid says so, never a site


class NotYetError(RecordError):
    """A site cannot answer now, but may later: it is not connected, or its steward has not approved."""


class Carrier(Protocol):
    """The two calls of a Flower `Grid` that carry messages."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; gives the messages' ids."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there by now."""


def replies(
    carrier: Carrier,
    messages: Iterable[Message],
    *,
    deadline_s: float,
    connected: Callable[[], Container[int]] | None = None,
) -> Iterator[tuple[int, Message]]:
    """Send `messages` and give each reply, after its node, until all are there or `deadline_s` has passed.

    Where `connected` says which nodes are connected now, one that lost its connection is asked again when it is back.
    """
    started = time.monotonic()
    waiting = send(carrier, messages)
    lost = _Lost()
    pause = SHORTEST_WAIT_S
    while (waiting or lost) and time.monotonic() - started < deadline_s:
        arrived = list(carrier.pull_messages(waiting.keys()))
        for reply in arrived:
            asked = waiting.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:  # nobody asked this
                continue
            if connected is not None and is_gone(reply):
                lost.add(asked, reply)
            else:
                yield asked.metadata.dst_node_id, reply
        if connected is not None and lost.due():
            waiting |= send(carrier, lost.back(connected()))
        pause = SHORTEST_WAIT_S if arrived else min(2 * pause, LONGEST_WAIT_S)
        if waiting or lost:
            time.sleep(pause)
    yield from lost.replies()


def send(carrier: Carrier, messages: Iterable[Message]) -> dict[str, Message]:
    """Send; gives the messages by their ids."""
    messages = list(messages)
    return dict(zip(carrier.push_messages(messages), messages, strict=True)) if messages else {}


def is_gone(reply: Message) -> bool:
    """Whether a grid says in a site's place that its node lost the connection."""
    return reply.has_error() and reply.error.code == GONE


@dataclass(slots=True)
class _Lost:
    """Questions whose nodes lost their connection, and what the grid said of each."""

    _held: dict[int, tuple[Message, Message]] = field(default_factory=dict)
    _looked: float = 0.0

    def __bool__(self) -> bool:
        return bool(self._held)

    def add(self, asked: Message, reply: Message) -> None:
        self._held[asked.metadata.dst_node_id] = asked, reply

    def due(self) -> bool:
        if not self._held or time.monotonic() - self._looked < LOOK_AGAIN_S:
            return False
        self._looked = time.monotonic()
        return True

    def back(self, connected: Container[int]) -> list[Message]:
        """The same questions anew to the nodes that are back: a question goes out once only."""
        again = [self._held.pop(node)[0] for node in list(self._held) if node in connected]
        return [Message(m.content, m.metadata.dst_node_id, m.metadata.message_type) for m in again]

    def replies(self) -> Iterator[tuple[int, Message]]:
        for node, (_, reply) in self._held.items():
            yield node, reply


def read_reply(reply: Message, kind: type[Answer]) -> Answer:
    """The answer in a reply; a site's refusal or a reply of another shape is a `RecordError` in words.

    A site's words come in here and nowhere else: from here on they are one short line that a terminal can show.
    """
    if reply.has_error():
        reason = printable(reply.error.reason or "")
        if is_gone(reply) or reason.startswith(WAITS):
            raise NotYetError(reason)
        raise RecordError(reason or f"the site failed without a reason (code {reply.error.code})")
    return read_answer(reply.content, kind)


def missing(names: Iterable[str], answered: Mapping[str, object], deadline_s: float) -> dict[str, str]:
    """Why nothing of a site is there after a deadline."""
    return {
        name: f"has sent nothing for {deadline_s:g} s, the limit of this study"
        for name in names
        if name not in answered
    }
