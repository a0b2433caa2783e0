"""Asking sites and waiting for them: one deadline, adaptive polling, a reason in words for each missing reply."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from flwr.app import Message

from fedward_common.errors import RecordError
from fedward_common.records import Evaluated, Prepared, Trained, printable, read_answer

Answer = TypeVar("Answer", Prepared, Trained, Evaluated)

SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.001, 0.05


class Carrier(Protocol):
    """The two calls of a Flower `Grid` that carry messages."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; gives the messages' ids."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there by now."""


def replies(carrier: Carrier, messages: Iterable[Message], *, deadline_s: float) -> Iterator[Message]:
    """Send `messages` and give each reply as it comes, until all are there or `deadline_s` has passed."""
    started = time.monotonic()
    waiting = set(carrier.push_messages(messages))
    pause = SHORTEST_WAIT_S
    while waiting and time.monotonic() - started < deadline_s:
        arrived = list(carrier.pull_messages(waiting))
        for reply in arrived:
            waiting.discard(reply.metadata.reply_to_message_id)
            yield reply
        pause = SHORTEST_WAIT_S if arrived else min(2 * pause, LONGEST_WAIT_S)
        if waiting:
            time.sleep(pause)


def read_reply(reply: Message, kind: type[Answer]) -> Answer:
    """The answer in a reply; a site's refusal or a reply of another shape is a `RecordError` in words.

    A site's words come in here and nowhere else: from here on they are one short line that a terminal can show.
    """
    if reply.has_error():
        reason = printable(reply.error.reason or "")
        raise RecordError(reason or f"the site failed without a reason (code {reply.error.code})")
    return read_answer(reply.content, kind)


def missing(names: Iterable[str], answered: Mapping[str, object], deadline_s: float) -> dict[str, str]:
    """Why nothing of a site is there after a deadline."""
    return {
        name: f"has sent nothing for {deadline_s:g} s, the limit of this study"
        for name in names
        if name not in answered
    }
