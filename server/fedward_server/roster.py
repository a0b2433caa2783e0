"""Who takes part in a run: asks sites who they are and to freeze their cohorts, before round 1.

In a simulation every node of the grid is asked once. In a deployment the roster is fixed, each node is known by its
key, and sites that are not connected or wait for their steward's approval are asked again until the time is over. A
node that answers as another site than its key's is refused.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedward_common import __version__
from fedward_common.errors import RecordError, RunError
from fedward_common.records import Prepared, Question, question_record
from fedward_common.study import StudySpec
from fedward_server.exchange import LONGEST_WAIT_S, LOOK_AGAIN_S, Connected, NotYetError, Trip, read_reply, send

PREPARE_DEADLINE_S = 24 * 3600.0  # the first scan and cache of a large site take long
ABSENT = "is not connected to the hub"
PREPARING = "is preparing"


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


@dataclass(kw_only=True)
class Gathering:
    """Gathers the sites of one run."""

    grid: Grid
    study: StudySpec
    run: str
    tell: Tell
    found: dict[str, Participant] = field(default_factory=dict, init=False)
    left_out: list[str] = field(default_factory=list, init=False)  # why a site does not take part, a sentence each

    def quorum(self) -> list[Participant]:
        """The sites in the order of their names; RunError where too few of them train."""
        sites = sorted(self.found.values(), key=lambda site: site.name)
        trainers = sum(site.trains for site in sites)
        if trainers < self.study.strategy.min_sites:
            raise RunError(
                f"{trainers} sites are ready to train, the study asks for at least {self.study.strategy.min_sites}: "
                + ("; ".join(self.left_out) or "start more sites, or lower [strategy] min_sites")
            )
        return sites

    def ask_every_node(self) -> None:
        """Ask every node of the grid, once."""
        questions = {str(node): self._question(node) for node in self.grid.get_node_ids()}
        for came in Trip(carrier=self.grid, questions=questions, hard_s=PREPARE_DEADLINE_S).replies():
            try:
                prepared = read_reply(came.reply, Prepared)
                self._admit(prepared, int(came.site))
            except RecordError as error:
                self.left_out.append(str(error))
                self.tell("left-out", "", str(error))

    def ask_roster(self, connected: Connected, *, wait_s: float) -> None:
        """Ask the study's sites until each has prepared, been refused for good, or `wait_s` is over.

        A site whose question is out by then is still waited for: the first cache of a large site takes long.
        """
        absent = dict.fromkeys((site.name for site in self.study.sites), "")
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
                absent |= {site: f"has not prepared within {now / 3600:.0f} h" for site, _ in asked.values()}
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
                prepared = read_reply(reply, Prepared)
                if prepared.site != site:
                    raise RecordError(f"its node answered as {prepared.site}")  # noqa: TRY301 - one way to refuse
                self._admit(prepared, question.metadata.dst_node_id)
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
        question = Question(kind="prepare", study=self.study, run=self.run)
        return Message(question_record(question, None), node, MessageType.QUERY)

    def _admit(self, prepared: Prepared, node: int) -> None:
        """Take a site in; RecordError unless it may take part."""
        _check_version(prepared)
        if prepared.site in self.found:
            raise RecordError(f"two nodes say that they are {prepared.site}")
        if self.study.sites and prepared.site not in {site.name for site in self.study.sites}:
            raise RecordError(f"{prepared.site} is not on the study's roster")
        trains = not self.study.only_evaluates(prepared.site)
        self.found[prepared.site] = Participant(prepared.site, node, trains, prepared)
        self.tell("prepared", prepared.site, "")


def _check_version(prepared: Prepared) -> None:
    if prepared.fedward.split(".", maxsplit=1)[0] != __version__.split(".", maxsplit=1)[0]:
        raise RecordError(
            f"{prepared.site} runs Fedward {prepared.fedward}, the hub {__version__}: install the same major version"
        )
