"""The engine's side of a grid: questions out, answers in as they come, how long each site is waited for, and why.

A question goes out once, and Flower delivers it at most once: a site that was away since, was started anew or stays
silent is asked the same again, and answers it from its stored bytes. Who is waited for, and how long:

- no site longer than the hard limit;
- with a soft limit of its own, not longer than that, once enough others have answered;
- a site that is gone, not at all, once enough others have answered: Flower says so after two missed heartbeats, and
  one that said goodbye has `GONE_S` to come back.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple, Protocol, TypeVar

from flwr.app import Message

from fedward_common.cohort_statistics import Statistics
from fedward_common.errors import RecordError
from fedward_common.records import WAITS, Evaluated, Prepared, Trained, printable, read_answer

Answer = TypeVar("Answer", Statistics, Prepared, Trained, Evaluated)

SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.001, 0.05
LOOK_AGAIN_S = 2.0  # how often the sites' connections are looked at
GONE_S = 20.0  # after a goodbye; of silence it is two heartbeats, as much
TOLD_AFTER_S = 15.0  # of a wait that nothing explains yet; told again when it has doubled
GONE = 5  # Flower's error code for a node that lost its connection; only a grid says so, never a site


class NotYetError(RecordError):
    """A site cannot answer now, but may later: it is not connected, or its steward has not approved."""


class Carrier(Protocol):
    """The two calls of a Flower `Grid` that carry messages."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; gives the messages' ids."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there by now."""


class Node(NamedTuple):
    """A connected site's node. `boot` is another one whenever its network side was started or was away."""

    number: int
    boot: str = ""
    until: float = inf  # when its silence means that it is gone, seconds since 1970


Connected = Callable[[], Mapping[str, Node]]  # the sites that are connected now


class Came(NamedTuple):
    """A site's reply, and how many seconds after the first question it came."""

    site: str
    reply: Message
    seconds: float


@dataclass(slots=True)
class _Wait:
    """What is known of a site whose answer is awaited. Times are monotonic seconds."""

    question: Message
    asked: float = 0.0  # when its present start of work was; 0 before that
    boot: str | None = None  # then
    ids: set[str] = field(default_factory=set)  # of the questions that may still be answered
    reminded: bool = False
    until: float = inf  # as its node's
    gone_at: float = inf  # when it counts as gone
    notes: list[str] = field(default_factory=list)
    told: float = 0.0  # after how many seconds it was told last


@dataclass(kw_only=True)
class Trip:
    """One question to several sites, by their names, and the wait for their answers.

    `soft_s` are the sites' own limits, `enough` says whether there are enough answers to end without the rest, `closed`
    whether no more are wanted. Without `connected` nothing is known of connections: no site is gone, none asked again.
    """

    carrier: Carrier
    questions: Mapping[str, Message]
    hard_s: float
    soft_s: Mapping[str, float] = field(default_factory=dict)
    lets_go: bool = True  # of sites that are gone
    connected: Connected | None = None
    enough: Callable[[], bool] = lambda: True
    closed: Callable[[], bool] = lambda: False
    tell: Callable[[str, str], None] = lambda _site, _note: None  # why a site is waited for
    long_gone: Collection[str] = ()  # sites that were gone before: not waited for unless they are back
    meanwhile: Callable[[], None] = lambda: None  # called once, when the questions are out
    _waits: dict[str, _Wait] = field(default_factory=dict, init=False)
    _answered: dict[str, list[str]] = field(default_factory=dict, init=False)  # what was told of their waits
    _started: float = field(default=0.0, init=False)

    def replies(self) -> Iterator[Came]:
        """Send, and give each site's first reply as it comes, until all are there or the rest is waited for no more."""
        self._started = looked = time.monotonic()
        self._waits = {site: _Wait(question) for site, question in self.questions.items()}
        there = self.connected() if self.connected is not None else None
        self._ask([site for site in self._waits if there is None or site in there], there)
        self.meanwhile()
        if there is not None:
            for site in self._waits.keys() & set(self.long_gone) - there.keys():
                self._waits[site].gone_at = self._started
            self._look(there)
        pause = SHORTEST_WAIT_S
        while self._waits and not self._is_over():
            arrived = 0
            for came in self._arrivals():
                arrived += 1
                yield came
                if self.closed():
                    return
            if self.connected is not None and time.monotonic() - looked >= LOOK_AGAIN_S:
                looked = time.monotonic()
                self._look(self.connected())
            pause = SHORTEST_WAIT_S if arrived else min(2 * pause, LONGEST_WAIT_S)
            if self._waits:
                time.sleep(pause)

    def silent(self) -> dict[str, str]:
        """Why nothing of a site is there, for each that did not answer."""
        return {site: self._reason(site, wait) for site, wait in self._waits.items()}

    def gone(self) -> set[str]:
        """The sites that did not answer because they are gone."""
        return {site for site, wait in self._waits.items() if wait.gone_at <= time.monotonic()}

    def notes(self, site: str) -> str:
        """What was told of a wait that ended with an answer."""
        return "; ".join(self._answered.get(site, ()))

    # Asking ----------------------------------------------------------------------------------------------------------

    def _ask(self, sites: Iterable[str], there: Mapping[str, Node] | None) -> None:
        """Ask anew: a message goes out once only, so it is another one of the same content."""
        messages = {}
        for site in sites:
            question = self._waits[site].question
            node = question.metadata.dst_node_id if there is None else there[site].number
            messages[site] = Message(question.content, node, question.metadata.message_type)
        for site, number in zip(messages, send(self.carrier, messages.values()), strict=True):
            wait = self._waits[site]
            boot = None if there is None else there[site].boot
            if not wait.asked or wait.boot != boot:
                wait.asked, wait.boot = time.monotonic(), boot
            wait.ids.add(number)

    def _arrivals(self) -> Iterator[Came]:
        waiting = {number: site for site, wait in self._waits.items() for number in wait.ids}
        for reply in list(self.carrier.pull_messages(waiting)) if waiting else ():
            number = reply.metadata.reply_to_message_id
            site = waiting.get(number)
            if site is None or site not in self._waits:  # nobody asked this, or the site has answered already
                continue
            if self.connected is not None and is_gone(reply):
                self._waits[site].ids.discard(number)
                continue
            self._answered[site] = self._waits.pop(site).notes
            yield Came(site, reply, time.monotonic() - self._started)

    def _look(self, there: Mapping[str, Node]) -> None:
        """Ask again whom that may help, and explain what is waited for."""
        again = []
        for site, wait in self._waits.items():
            node = there.get(site)
            if node is None:
                if wait.gone_at == inf:  # it said goodbye, perhaps to be started anew, or was silent too long already
                    wait.gone_at = time.monotonic() + (GONE_S if time.time() < wait.until else 0.0)
                    self._note(site, wait, "is not connected to the hub")
                continue
            wait.gone_at, wait.until = inf, node.until
            if not wait.ids or node.boot != wait.boot:
                self._note(site, wait, "is back and is asked again" if wait.asked else "is back and is asked")
                again.append(site)
            elif self._waited(wait) > self._limit(site) / 2 and not wait.reminded:
                wait.reminded = True
                self._note(site, wait, f"has sent nothing for {self._waited(wait):.0f} s and is asked again")
                again.append(site)
            else:
                self._explain(site, wait)
        self._ask(again, there)

    # Waiting ---------------------------------------------------------------------------------------------------------

    def _limit(self, site: str) -> float:
        return min(self.soft_s.get(site, self.hard_s), self.hard_s)

    def _waited(self, wait: _Wait) -> float:
        """For how many seconds a site has been at work, or should have been."""
        return time.monotonic() - (wait.asked or self._started)

    def _is_over(self) -> bool:
        now = time.monotonic()
        if now - self._started >= self.hard_s:
            return True
        return self.enough() and all(
            self._waited(wait) >= self._limit(site) or (self.lets_go and now >= wait.gone_at)
            for site, wait in self._waits.items()
        )

    def _reason(self, site: str, wait: _Wait) -> str:
        waited = f"{time.monotonic() - self._started:.3g} s"
        if self.closed():
            return f"had not answered when the quorum of the study was reached, after {waited}"
        if wait.gone_at <= time.monotonic():
            return f"was not connected to the hub when the round ended, {waited} after it began"
        limit = self._limit(site)
        why = "the limit of this study" if limit == self.hard_s else "its limit, from what it needed before"
        return f"has sent nothing for {waited}; {limit:g} s is {why}"

    def _explain(self, site: str, wait: _Wait) -> None:
        waited = self._waited(wait)
        if waited >= max(TOLD_AFTER_S, 2 * wait.told):
            wait.told = waited
            self._note(site, wait, f"has sent nothing for {waited:.0f} s; its limit is {self._limit(site):.0f} s")

    def _note(self, site: str, wait: _Wait, note: str) -> None:
        wait.notes.append(note)
        self.tell(site, note)


def send(carrier: Carrier, messages: Iterable[Message]) -> dict[str, Message]:
    """Send; gives the messages by their ids."""
    messages = list(messages)
    return dict(zip(carrier.push_messages(messages), messages, strict=True)) if messages else {}


def is_gone(reply: Message) -> bool:
    """Whether a grid says in a site's place that its node lost the connection."""
    return reply.has_error() and reply.error.code == GONE


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
