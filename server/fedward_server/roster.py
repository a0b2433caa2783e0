"""Who takes part in a run: asks sites who they are and to freeze their cohorts, or for statistics, before round 1.

In a simulation every node of the grid is asked once. In a deployment the roster is fixed, each node is known by its
key, and sites that are not connected or wait for their steward's approval are asked again until the time is over. A
node that answers as another site than its key's is refused.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedward_common import __version__
from fedward_common.cohort_statistics import Statistics
from fedward_common.errors import RecordError, RunError
from fedward_common.records import Prepared, Question, question_record
from fedward_common.study import StudySpec
from fedward_server.exchange import LONGEST_WAIT_S, LOOK_AGAIN_S, Connected, NotYetError, Trip, read_reply, send

PREPARE_DEADLINE_S = 24 * 3600.0  # the first scan and cache of a large site take long
ABSENT = "is not connected to the hub"
PREPARING = "is preparing"

Said = TypeVar("Said", Statistics, Prepared)


class Tell(Protocol):
    """Takes what a person would want to see."""

    def __call__(self, kind: Literal["preparing", "waiting", "prepared", "left-out"], site: str, note: str) -> None:
        """Something happened with a site; its name is empty where it is not known."""


@dataclass(frozen=True, slots=True)
class Participant:
    """A site of this run."""

    name: str
    node_id: int
    trains: bool
    prepared: Prepared

    def learns(self) -> bool:
        """Whether it has labels to learn from."""
        return self.trains and self.prepared.learn_from() > 0


@dataclass(kw_only=True)
class Gathering(Generic[Said]):
    """Gathers the answers of a run's sites to one question, which each is to answer with an `answer`."""

    grid: Grid
    question: Question
    answer: type[Said]
    tell: Tell
    found: dict[str, tuple[int, Said]] = field(default_factory=dict, init=False)  # by site: its node, and the answer
    left_out: list[str] = field(default_factory=list, init=False)  # why a site does not take part, a sentence each

    def ask(self, connected: Connected | None, sites: Collection[str], *, wait_s: float) -> None:
        """Ask `sites` of the roster, in a deployment; else every node of the grid."""
        if connected is None:
            self.ask_every_node()
        else:
            self.ask_roster(connected, sites, wait_s=wait_s)

    def ask_every_node(self) -> None:
        """Ask every node of the grid, once."""
        questions = {str(node): self._question(node) for node in self.grid.get_node_ids()}
        for came in Trip(carrier=self.grid, questions=questions, hard_s=PREPARE_DEADLINE_S).replies():
            try:
                self._admit(read_reply(came.reply, self.answer), int(came.site))
            except RecordError as error:
                self.left_out.append(str(error))
                self.tell("left-out", "", str(error))

    def ask_roster(self, connected: Connected, sites: Collection[str], *, wait_s: float) -> None:
        """Ask sites of the study's roster until each has answered, been refused for good, or `wait_s` is over.

        A site whose question is out by then is still waited for: the first cache of a large site takes long.
        """
        absent = dict.fromkeys(sites, "")
        asked: dict[str, tuple[str, Message]] = {}  # by message: the site, and the question
        started = time.monotonic()
        looked = -LOOK_AGAIN_S
        while absent or asked:
            now = time.monotonic() - started
            if now - looked >= LOOK_AGAIN_S:
                looked = now
                self._ask_again(absent, asked, {site: node.number for site, node in connected().items()})
            self._hear(absent, asked)
            if not asked and now >= wait_s:
                break
            if now >= max(wait_s, PREPARE_DEADLINE_S):
                absent |= {site: f"has not answered within {now / 3600:.0f} h" for site, _ in asked.values()}
                break
            time.sleep(LONGEST_WAIT_S)
        for site, reason in absent.items():
            self._leave_out(site, reason)

    def _ask_again(
        self, absent: dict[str, str], asked: dict[str, tuple[str, Message]], nodes: Mapping[str, int]
    ) -> None:
        out = {site for site, _ in asked.values()}
        for site in out:
            if absent[site] != PREPARING:  # asked at the last look, and nothing refused since
                self.tell("preparing", site, "")
                absent[site] = PREPARING
        ready = [site for site in absent if site in nodes and site not in out]
        questions = {nodes[site]: self._question(nodes[site]) for site in ready}
        names = {node: site for site, node in nodes.items()}
        for number, question in send(self.grid, questions.values()).items():
            asked[number] = names[question.metadata.dst_node_id], question
        for site in absent.keys() - nodes.keys() - out:
            self._wait_for(absent, site, ABSENT)

    def _hear(self, absent: dict[str, str], asked: dict[str, tuple[str, Message]]) -> None:
        for reply in self.grid.pull_messages(asked.keys()) if asked else ():
            site, question = asked.pop(reply.metadata.reply_to_message_id, ("", None))
            if question is None:
                continue
            try:
                said = read_reply(reply, self.answer)
                if said.site != site:
                    raise RecordError(f"its node answered as {said.site}")  # noqa: TRY301 - one way to refuse
                self._admit(said, question.metadata.dst_node_id)
            except NotYetError as error:
                self._wait_for(absent, site, str(error))
                continue
            except RecordError as error:
                self._leave_out(site, str(error))
            absent.pop(site)

    def _wait_for(self, absent: dict[str, str], site: str, reason: str) -> None:
        if absent[site] != reason:  # told once
            self.tell("waiting", site, reason)
        absent[site] = reason

    def _leave_out(self, site: str, reason: str) -> None:
        self.left_out.append(f"{site}: {reason}")
        self.tell("left-out", site, reason)

    def _question(self, node: int) -> Message:
        return Message(question_record(self.question, None), node, MessageType.QUERY)

    def _admit(self, said: Said, node: int) -> None:
        """Take a site in; RecordError unless it may take part."""
        _check_version(said)
        if said.site in self.found:
            raise RecordError(f"two nodes say that they are {said.site}")
        roster = {site.name for site in self.question.study.sites}
        if roster and said.site not in roster:
            raise RecordError(f"{said.site} is not on the study's roster")
        if isinstance(said, Statistics) and said.wanted != self.question.statistics:
            raise RecordError(f"{said.site} sent other statistics than it was asked for")
        self.found[said.site] = node, said
        self.tell("prepared", said.site, "")


def quorum(study: StudySpec, gathering: Gathering[Prepared]) -> list[Participant]:
    """The sites that take part, in the order of their names; RunError where too few of them train."""
    sites = [
        Participant(name, node, not study.only_evaluates(name), prepared)
        for name, (node, prepared) in sorted(gathering.found.items())
    ]
    trainers = sum(site.learns() for site in sites)
    if trainers < study.strategy.min_sites:
        raise RunError(
            f"{trainers} sites are ready to train, the study asks for at least {study.strategy.min_sites}: "
            + ("; ".join(gathering.left_out) or "start more sites, or lower [strategy] min_sites")
        )
    return sites


def _check_version(said: Statistics | Prepared) -> None:
    if said.fedward.split(".", maxsplit=1)[0] != __version__.split(".", maxsplit=1)[0]:
        raise RecordError(
            f"{said.site} runs Fedward {said.fedward}, the hub {__version__}: install the same major version"
        )
