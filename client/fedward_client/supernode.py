"""The network side of a site: fetches questions from the hub, brings back what the data side lets go, sees no patient.

It keeps what it has fetched on disk until the hub has the reply, and its node's id over a restart. Whatever goes wrong
with the network or its disk, it does not end: it says why, waits with growing pauses, and tries again. It refuses to
start where it could see what only the data side may (`isolation`).
"""

import json
import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from flwr.app import Error, Message, RecordDict
from pydantic import TypeAdapter

from fedward_client import spool, spool_writer
from fedward_client.bulk import Bulk
from fedward_client.correspondence import Correspondence
from fedward_client.credentials import Credentials
from fedward_client.daemon import ending
from fedward_client.fleet import HEARTBEAT_S, Envelope, Fleet, RunOverError
from fedward_client.member import HUB_CARD, LINK_STATUS, NODE, NODE_KEY, TRAFFIC, WORK_SOCKET, LinkSettings, read_json
from fedward_client.pending import Pending, PendingFolder
from fedward_client.probe import Trust, context, proxy_of
from fedward_client.sockets import channel
from fedward_client.spool import IN, OUT, Parcel
from fedward_client.spool_writer import growing_name
from fedward_client.stubs import site_pb2, site_pb2_grpc
from fedward_common import pki
from fedward_common.array_blocks import view
from fedward_common.bulk import Manifest
from fedward_common.cards import HubCard
from fedward_common.cohort_statistics import Statistics
from fedward_common.errors import FedwardError, LinkError, RecordError, SettingsError
from fedward_common.packing import MAX_INLINE_BYTES, beside, block_of, manifest_in, may_be_whole, packed, without_block
from fedward_common.records import Evaluated, Prepared, Trained, answer_record, arrays_in, printable, texts_in
from fedward_common.rhythm import Rhythm

log = logging.getLogger(__name__)

REFUSED = 1000  # as the ClientApp's
SHORTEST_POLL_S, LONGEST_POLL_S, POLL_SHARE = 0.01, 2.0, 0.1
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
RENEWAL_LOOK_S = 3600.0
NOTED_S = 1.0  # between two notes of how much is sent: each waits for the disk
EXECUTOR_PAUSE_S, STOP_NOTICED_S = 0.2, 0.5
NOT_OURS = "this site answers Fedward's questions only; it runs no code of an app"

_KINDS: dict[str, TypeAdapter[Statistics | Prepared | Trained | Evaluated]] = {
    "query": TypeAdapter(Statistics | Prepared),
    "train": TypeAdapter(Trained),
    "evaluate": TypeAdapter(Evaluated),
}


class LetInAnewError(LinkError):
    """This process shows an old certificate, and is to be started again at once."""

    exit_code = 3


@dataclass(slots=True)
class Backoff:
    """Growing pauses with jitter, so that the sites of a hub that comes back do not all call at once."""

    pause_s: float = FIRST_PAUSE_S

    def reset(self) -> None:
        """All is well again."""
        self.pause_s = FIRST_PAUSE_S

    def next(self) -> float:
        """How long to wait now, in seconds."""
        pause = self.pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret
        self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
        return pause


@dataclass(slots=True)
class Renewal:
    """Renews the site's certificate in time, and learns which authorities its hub took back.

    Connections made from then on go by it.
    """

    credentials: Credentials
    card: HubCard
    site: str
    trust: Trust
    stopping: threading.Event
    _shown: int = field(init=False)
    _next_look: float = 0.0

    def __post_init__(self) -> None:
        self._shown = self._written()

    @property
    def outdated(self) -> bool:
        """Whether `fedward site join` brought another certificate, and perhaps another node key."""
        return self._written() != self._shown

    def _written(self) -> int:
        """When the certificate was written; 0 where there is none."""
        return self.credentials.file.stat().st_mtime_ns if self.credentials.file.exists() else 0

    def __call__(self) -> None:
        """Look, at most once an hour; a hub that does not renew it now is asked again at the next look.

        Where a certificate came from elsewhere, `stopping` is set: connections that are open show the one before.
        """
        if self.outdated:
            self.stopping.set()
            return
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + RENEWAL_LOOK_S
        for step, failed in (
            (self._learn, "what the hub took back is not known anew yet"),
            (self._renew, "this site's certificate is not renewed yet"),
        ):
            try:
                step()
            except (FedwardError, OSError) as error:
                log.warning("%s: %s", failed, error)

    def _learn(self) -> None:
        self.card = self.credentials.newer(self.card)
        self.trust.distrusted = self.card.distrusted

    def _renew(self) -> None:
        if self.credentials.is_due():
            self.credentials.renew(self.card, self.site)
            self.credentials.show(self.trust)
            self._shown = self._written()
            log.info("this site's certificate is renewed")


@dataclass(slots=True)
class Link:
    """A site's link to its hub. `stopping` ends every wait."""

    folder: Path
    settings: LinkSettings
    fleet: Fleet
    stopping: threading.Event
    bulk: Bulk | None = None
    pending: PendingFolder = field(init=False)
    _status: dict[str, Any] = field(default_factory=dict)
    _work: site_pb2_grpc.WorkStub | None = None
    _channel: grpc.Channel | None = None

    def __post_init__(self) -> None:
        self.pending = PendingFolder(self.folder)
        kept = {each.parcel.sha256 for each in self.pending.all() if each.parcel is not None}
        kept |= {growing_name(each.manifest) for each in self.pending.all() if each.manifest is not None}
        spool_writer.tidy(self.settings.spool, IN, kept)

    def run(self) -> None:
        """Serve until `stopping` is set."""
        backoff = Backoff()
        while not self.stopping.is_set():
            try:
                self._activate()
                backoff.reset()
                with self._beating():
                    self._serve(backoff)
            except LinkError as error:
                self._say("waiting", str(error))
                self.stopping.wait(backoff.next())
            except OSError as error:  # what was asked is asked again: the hub is told that this node was away
                self._say("waiting", f"this site's disk cannot be written to ({error.strerror}): free space on it")
                self.stopping.wait(backoff.next())
        self._say("stopped", "")
        with suppress(LinkError):
            self.fleet.deactivate()

    def _activate(self) -> None:
        self._say("connecting", "")
        known = read_json(self.folder / NODE).get("node")
        node = self.fleet.activate(known if isinstance(known, int) else None, at_work=bool(self.pending.all()))
        _write_json(self.folder / NODE, {"node": node})
        self._say("connected", "")
        if self.fleet.skew_s:
            log.warning("the hub's clock is %+.0f s from this machine's; the hub's is used", self.fleet.skew_s)

    def _serve(self, backoff: Backoff) -> None:
        """Answer questions until something breaks or `stopping` is set."""
        rhythm = Rhythm(POLL_SHARE, SHORTEST_POLL_S, LONGEST_POLL_S)
        rhythm.begin(time.monotonic())
        while not self.stopping.is_set():
            waiting = self.pending.all()
            envelope = None if waiting else self.fleet.pull()
            if envelope is not None:
                rhythm.came(time.monotonic())
                waiting = [self._keep(envelope)]
            for pending in waiting:
                self._settle(pending)
                rhythm.begin(time.monotonic())
            if not waiting:
                rhythm.in_vain(time.monotonic())
            self._say("connected", "")
            backoff.reset()
            self.stopping.wait(rhythm.next_look() - time.monotonic())

    # One message -----------------------------------------------------------------------------------------------------

    def _keep(self, envelope: Envelope) -> Pending:
        """Write a message down, and its content where that came with it."""
        metadata = envelope.metadata
        pending = Pending.of(
            envelope.message,
            envelope.tree,
            message_id=metadata.message_id,
            run=metadata.run_id,
            kind=metadata.message_type,
        )
        if envelope.content is not None:
            pending = self._taken(pending, envelope.content)
        self.pending.put(pending)
        return pending

    def _settle(self, pending: Pending) -> None:
        """Bring one message to its end: its content here, its answer there."""
        try:
            if pending.config is None and not pending.is_answered:
                pending = self._fetch(pending)
            if pending.manifest is not None and pending.parcel is None and not pending.is_answered:
                pending = self._fetch_beside(pending, pending.manifest)
            if not pending.is_answered:
                pending = self._ask(pending)
            if pending.is_answered:
                self._deliver(pending)
                self._forget(pending)
        except RunOverError as error:
            log.warning("a message of Flower run %d is dropped: %s", pending.run, error)
            self._forget(pending)

    def _fetch(self, pending: Pending) -> Pending:
        """A message with its content, which is then confirmed: the hub keeps it no longer."""
        envelope = Envelope(*pending.raw)
        pending = self._taken(pending, self.fleet.open(envelope))
        self.pending.put(pending)
        self.fleet.confirm(envelope)
        return pending

    def _fetch_beside(self, pending: Pending, manifest: Manifest) -> Pending:
        """A message with the arrays that travel beside it in the spool, or refused."""
        try:
            if self.bulk is None:
                raise RecordError("this site has no bulk path to its hub")
            wanted = {growing_name(each.manifest) for each in self.pending.all() if each.manifest is not None}
            spool_writer.tidy_unfinished(self.settings.spool, IN, wanted)  # a run that is over may have left one
            pending = pending.model_copy(update={"parcel": self.bulk.fetch(manifest, IN, self._say)})
        except LinkError:
            raise
        except FedwardError as error:
            spool_writer.remove(self.settings.spool, IN, growing_name(manifest))  # of a disk that is full, say
            pending = pending.model_copy(update={"refusal": printable(str(error))})
        self.pending.put(pending)
        return pending

    def _taken(self, pending: Pending, content: RecordDict) -> Pending:
        """A message with its content in the spool, or refused."""
        try:
            return self._unpacked(pending, content)
        except FedwardError as error:
            return pending.model_copy(update={"refusal": printable(str(error))})

    def _unpacked(self, pending: Pending, content: RecordDict) -> Pending:
        if pending.kind not in _KINDS or "config" not in texts_in(content):
            raise RecordError(NOT_OURS)
        manifest, block = manifest_in(content), block_of(content)
        config = without_block(texts_in(content)["config"])
        if "fedward" not in config:
            raise RecordError(NOT_OURS)
        parcel = self._parcel(content, block)
        try:
            text = json.dumps(config)
        except TypeError:
            raise RecordError("the question's config holds what is neither text nor a number") from None
        how = {"packed": block is not None or manifest is not None, "whole": may_be_whole(content)}
        return pending.model_copy(update={"config": text, "parcel": parcel, "manifest": manifest, **how})

    def _parcel(self, content: RecordDict, block: memoryview | None) -> Parcel | None:
        """The arrays of a question, in the spool; a block is written as it came."""
        spool_folder, limit = self.settings.spool, self.settings.spool_bytes
        if block is not None:
            return spool_writer.write_block(spool_folder, IN, [block], len(block), limit=limit)
        record = arrays_in(content)
        return spool_writer.write(spool_folder, IN, record, limit=limit) if record else None

    def _ask(self, pending: Pending) -> Pending:
        """A message with the data side's answer; waits for a data side that is not there."""
        question = site_pb2.Question(
            config=pending.config, parcel=pending.parcel.model_dump_json() if pending.parcel else ""
        )
        self._say("working", "")
        while not self.stopping.is_set():
            try:
                answer = self._call(pending.kind, question)
            except (grpc.RpcError, SettingsError) as error:
                self._lose_executor()
                self._say("waiting", _no_executor(error))
                self.stopping.wait(EXECUTOR_PAUSE_S)
                continue
            if answer is None:
                break
            update = {
                "answer": answer.answer or None,
                "answer_parcel": Parcel.model_validate_json(answer.parcel) if answer.parcel else None,
                "refusal": None if answer.answer else answer.refusal or "the site refused without a reason",
            }
            pending = pending.model_copy(update=update)
            self.pending.put(pending)
            break
        return pending

    def _call(self, kind: str, question: site_pb2.Question) -> site_pb2.Answer | None:
        """The data side's answer, however long it takes; None when this process is to stop first."""
        work = self._executor()
        call = {"query": work.Query, "train": work.Train, "evaluate": work.Evaluate}[kind].future(question)
        while not self.stopping.is_set():
            with suppress(grpc.FutureTimeoutError):
                answer: site_pb2.Answer = call.result(timeout=STOP_NOTICED_S)
                return answer
        call.cancel()
        return None

    def _executor(self) -> site_pb2_grpc.WorkStub:
        if self._work is None:
            self._channel = channel(self.settings.spool / WORK_SOCKET)
            self._work = site_pb2_grpc.WorkStub(self._channel)
        return self._work

    def _lose_executor(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel = self._work = None

    def _deliver(self, pending: Pending) -> None:
        """Send the reply; tried until the hub has it, or the run is over."""
        beside_it = self._send_beside(pending)

        def make(asked: Message) -> Message:
            if pending.answer is None:
                return Message(Error(code=REFUSED, reason=pending.refusal), reply_to=asked)
            answer = _KINDS[pending.kind].validate_json(pending.answer)
            if pending.answer_parcel is None:
                return Message(answer_record(answer), reply_to=asked)
            if beside_it is not None:
                return Message(beside(answer_record(answer), beside_it), reply_to=asked)
            try:
                block = spool.read_block(self.settings.spool / OUT, pending.answer_parcel)
            except RecordError as error:  # the steward had the study forgotten before the answer left
                return Message(Error(code=REFUSED, reason=printable(f"the answer is gone: {error}")), reply_to=asked)
            content = packed(answer_record(answer), block) if pending.packed else answer_record(answer, view(block))
            return Message(content, reply_to=asked)

        self.fleet.push(Envelope(*pending.raw), make, whole=pending.whole)

    def _send_beside(self, pending: Pending) -> Manifest | None:
        """What was put beside the reply: its arrays, where the question's came so and they are large."""
        asked, parcel = pending.manifest, pending.answer_parcel
        if asked is None or parcel is None or self.bulk is None or parcel.size <= MAX_INLINE_BYTES:
            return None
        try:
            block, chunks = spool.read_chunks(self.settings.spool / OUT, parcel)
        except RecordError:  # told by the reply
            return None
        manifest = Manifest(run=asked.run, trip=asked.trip, size=parcel.size, chunks=chunks)
        sent, noted = pending.sent, time.monotonic()
        try:
            for sent in self.bulk.put(manifest, block, pending.sent, self._say):
                if time.monotonic() - noted >= NOTED_S:
                    self.pending.put(pending.model_copy(update={"sent": sent}))
                    noted = time.monotonic()
        except LinkError:
            self.pending.put(pending.model_copy(update={"sent": sent}))
            raise
        return manifest

    def _forget(self, pending: Pending) -> None:
        self.pending.remove(pending)
        if pending.parcel is not None:
            spool_writer.remove(self.settings.spool, IN, pending.parcel.sha256)

    # Around it -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Heartbeats from a thread while a training keeps this one, whose next call tells what the hub refuses."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(0.8 * HEARTBEAT_S * random.uniform(0.9, 1.1)):  # noqa: S311 - nothing secret
                with suppress(LinkError, OSError):  # the calls of the other thread tell, and a full disk
                    self.fleet.heartbeat()
                    _write_json(self.folder / TRAFFIC, self.fleet.traffic.numbers())

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def _say(self, state: str, reason: str) -> None:
        """Write what the link is doing for the site's own tools, and log what is new."""
        if (state, reason) == (self._status.get("state"), self._status.get("reason")):
            return
        self._status = {
            "state": state,
            "reason": reason,
            "since": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "node": self.fleet.node_id,
            "skew_s": round(self.fleet.skew_s, 1),
            "pid": os.getpid(),
        }
        with suppress(OSError):  # a full disk: the log may be elsewhere
            _write_json(self.folder / LINK_STATUS, self._status)
        if state == "working":
            log.info("at work for the hub")
        else:
            log.log(logging.WARNING if reason else logging.INFO, "%s%s", state, f": {reason}" if reason else "")


def _no_executor(error: Exception) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    code = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
    return f"the site's data side does not answer ({code}): it is being started again, or executor.log says why not"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value), "utf-8")
    temporary.replace(path)


def serve(link: Path) -> None:
    """Serve a link folder until SIGTERM or SIGINT. Raises SettingsError where it cannot be served."""
    stopping = ending()
    settings = LinkSettings.read(link)
    if not (link / HUB_CARD).exists():
        raise SettingsError("this site has no hub yet: run `fedward site join` with the code of the hub's operator")
    card = HubCard.read(link / HUB_CARD)
    proxy_of(card.address)  # LinkError in words where the proxy variables make no sense
    credentials = Credentials(link)
    if card.issuer is not None and credentials.certificate() is None:
        raise SettingsError(
            "this site is not let in by its hub yet: run `fedward site join` with the code of the hub's operator, who "
            "then approves it"
        )
    trust = context(card.ca, card.distrusted)
    renewal = Renewal(credentials, card, settings.site, trust, stopping)  # before: what is put here later is new
    credentials.show(trust)
    fleet = Fleet(card, pki.load_node_key(link / NODE_KEY), trust)
    traffic, behind_gateway = fleet.traffic, card.issuer is not None
    bulk = Bulk(card, trust, settings, stopping, traffic) if behind_gateway else None
    work = settings.spool / WORK_SOCKET
    around = Correspondence(card, trust, work, stopping, traffic, renewal) if behind_gateway else nullcontext()
    try:
        with around:
            Link(link, settings, fleet, stopping, bulk).run()
    finally:
        fleet.close()
        if bulk is not None:
            bulk.close()
    if renewal.outdated:
        raise LetInAnewError("this site was let in anew: its network side is started again, with the new certificate")
