"""The data side of a site: reads patients, trains, and cannot reach the network.

It serves two sockets. `work.sock`, in the spool, is for the network side: train, evaluate, query, report and health,
nothing else; none of these approves. `control.sock`, in the state folder, is for the site's own people. Model, cache
and GPU stay warm between rounds. It refuses to start where the walls around it are not complete (`isolation`).
"""

import json
import logging
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedward_client import locks, spool
from fedward_client.daemon import ending
from fedward_client.desk import Desk, Reply
from fedward_client.forgetting import forget
from fedward_client.handlers import Hospital
from fedward_client.member import CONTROL_SOCKET, WORK_SOCKET, Member
from fedward_client.reporting import Reporter
from fedward_client.site import Site
from fedward_client.sockets import OPTIONS, Gate
from fedward_client.source import SiteSource
from fedward_client.steward import approve, pause, refuse, resume, withdraw
from fedward_client.stubs import site_pb2, site_pb2_grpc
from fedward_client.training.device import gpu_memory
from fedward_common.errors import FedwardError
from fedward_common.events import Event
from fedward_common.records import from_array_record
from fedward_common.study import StudySpec

log = logging.getLogger(__name__)

PRIVATE = "executor"  # in the state folder: what no other process needs, temporary files among it
_THREADS = 16  # calls at a time; one of them works, the others wait or watch
_HEARTBEAT_S = 1.0  # how soon a watcher that hung up is noticed


class Work(site_pb2_grpc.WorkServicer):
    """What the network side may ask."""

    def __init__(self, desk: Desk, inbox: Path, reporter: Reporter) -> None:
        self._desk = desk
        self._inbox = inbox
        self._reporter = reporter

    def Query(self, request: site_pb2.Question, context: grpc.ServicerContext) -> site_pb2.Answer:
        """Tell statistics; or freeze the cohort and fill the cache."""
        return self._answer(request, "query")

    def Train(self, request: site_pb2.Question, context: grpc.ServicerContext) -> site_pb2.Answer:
        """Train the model that came."""
        return self._answer(request, "train")

    def Evaluate(self, request: site_pb2.Question, context: grpc.ServicerContext) -> site_pb2.Answer:
        """Score the model that came."""
        return self._answer(request, "evaluate")

    def Report(self, request: site_pb2.Heard, context: grpc.ServicerContext) -> site_pb2.Reported:
        """Hear what the hub says around rounds, and say what it may be told."""
        try:
            return site_pb2.Reported(report=self._reporter(request.news).model_dump_json())
        except FedwardError as error:
            return site_pb2.Reported(error=str(error))

    def _answer(self, request: site_pb2.Question, kind: str) -> site_pb2.Answer:
        parcel: list[spool.Parcel] = []

        def arrays() -> Mapping[str, np.ndarray]:
            return from_array_record(spool.read(self._inbox, parcel[0])) if parcel else {}

        try:
            config: dict[str, Any] = json.loads(request.config)
            if request.parcel:
                parcel.append(spool.Parcel.model_validate_json(request.parcel))
        except ValueError:
            return site_pb2.Answer(refusal="the site's network side sent what is no question")
        reply = self._desk.answer(config, arrays, parcel[0].sha256 if parcel else "", kind=kind)
        return _answer(reply)


def _answer(reply: Reply) -> site_pb2.Answer:
    if reply.answer is None:
        return site_pb2.Answer(refusal=reply.refusal)
    return site_pb2.Answer(
        answer=reply.answer.model_dump_json(),
        parcel=reply.parcel.model_dump_json() if reply.parcel is not None else "",
    )


class Control(site_pb2_grpc.ControlServicer):
    """What the site's own people may do."""

    def __init__(self, member: Member, desk: Desk, stopping: threading.Event) -> None:
        self._member = member
        self._desk = desk
        self._outbox = desk.outbox
        self._stopping = stopping

    def Status(self, request: site_pb2.Nothing, context: grpc.ServicerContext) -> site_pb2.SiteStatus:
        """What is approved, what waits, what is done now."""
        now = [
            {"stage": e.stage, "done": e.done, "total": e.total, "note": e.note}
            for e in self._outbox.latest()
            if e.done < e.total
        ]
        told = self._outbox.reported
        daemon = {"now": now, "pid": os.getpid(), "told": None if told is None else told.model_dump(mode="json")}
        return site_pb2.SiteStatus(json=json.dumps({**self._member.status(), **daemon}))

    def Watch(self, request: site_pb2.Nothing, context: grpc.ServicerContext) -> Iterator[site_pb2.SiteEvent]:
        """Every event from now on, the last ones first."""
        with self._outbox.watching() as events:
            for event in self._outbox.latest():
                yield _event(event)
            while context.is_active() and not self._stopping.is_set():
                try:
                    yield _event(events.get(timeout=_HEARTBEAT_S))
                except queue.Empty:
                    continue

    def Approve(self, request: site_pb2.Approval, context: grpc.ServicerContext) -> site_pb2.Approved:
        """Approve exactly one study."""
        try:
            study = StudySpec.from_json(request.study)
            approve(self._member, study, date.fromisoformat(request.until))
        except (FedwardError, ValueError) as error:
            return site_pb2.Approved(error=str(error))
        return site_pb2.Approved(digest=study.digest)

    def Refuse(self, request: site_pb2.Refusal, context: grpc.ServicerContext) -> site_pb2.Done:
        """Refuse exactly one study."""
        return _done(lambda: refuse(self._member, request.digest, request.reason))

    def Withdraw(self, request: site_pb2.Withdrawal, context: grpc.ServicerContext) -> site_pb2.Done:
        """Take an approval back."""
        return _done(lambda: withdraw(self._member, request.digest))

    def Forget(self, request: site_pb2.Withdrawal, context: grpc.ServicerContext) -> site_pb2.Forgotten:
        """Remove what was made for one study."""
        try:
            with self._desk.without(request.digest):
                removed = forget(self._member, self._outbox, request.digest)
        except FedwardError as error:
            return site_pb2.Forgotten(error=str(error))
        return site_pb2.Forgotten(json=json.dumps({kind: asdict(each) for kind, each in removed.items()}))

    def Pause(self, request: site_pb2.PauseRequest, context: grpc.ServicerContext) -> site_pb2.Done:
        """Answer nothing until resumed."""
        return _done(lambda: pause(self._member, request.reason))

    def Resume(self, request: site_pb2.Nothing, context: grpc.ServicerContext) -> site_pb2.Done:
        """Answer again."""
        return _done(lambda: resume(self._member))

    def Count(self, request: site_pb2.Nothing, context: grpc.ServicerContext) -> site_pb2.Counted:
        """What it has done since it started, and whether it may go on."""
        waiting, paused = len(self._member.waiting()), self._member.ledger.paused() is not None
        now = {"paused": paused, "waiting": waiting, "gpu_memory": gpu_memory()}
        return site_pb2.Counted(json=json.dumps({**self._desk.tally.numbers(), **now}))


def _event(event: Event) -> site_pb2.SiteEvent:
    return site_pb2.SiteEvent(stage=event.stage, done=event.done, total=event.total, note=event.note, site=event.site)


def _done(work: Callable[[], None]) -> site_pb2.Done:
    try:
        work()
    except FedwardError as error:
        return site_pb2.Done(error=str(error))
    return site_pb2.Done()


# The process ----------------------------------------------------------------------------------------------------------


def serve(site: Site) -> None:
    """Serve a site until SIGTERM or SIGINT. Raises SettingsError where it cannot be served."""
    stopping = ending()
    (site.ensure_state() / PRIVATE).mkdir(mode=0o700, exist_ok=True)
    tempfile.tempdir = str(site.state / PRIVATE)  # /tmp is the network side's too
    with locks.claimed(site.state, site.name, locks.EXECUTOR):
        member = Member.open(site)
        outbox = member.outbox(spool=True)
        use_threads(site.threads)
        desk = Desk(Hospital(SiteSource(site), outbox.tell), outbox, member.ledger)
        work = Work(desk, site.spool / spool.IN, Reporter(member, desk))
        with serving(site, work, Control(member, desk, stopping)):
            log.info("site %s is ready", site.name)
            stopping.wait()
        log.info("site %s has stopped", site.name)
        member.ledger.close()
        os._exit(0)  # a training in progress is given up: its question is asked again after the next start


@contextmanager
def serving(site: Site, work: site_pb2_grpc.WorkServicer, control: site_pb2_grpc.ControlServicer) -> Iterator[None]:
    """The two sockets, each with gRPC's health service, for a `with`."""
    inner = site.state / PRIVATE
    inner.mkdir(mode=0o700, exist_ok=True)
    behind_work, behind_control = _server("work"), _server("control")
    site_pb2_grpc.add_WorkServicer_to_server(work, behind_work)
    site_pb2_grpc.add_ControlServicer_to_server(control, behind_control)
    with (
        Gate(site.spool / WORK_SOCKET, behind_work, inner=inner),
        Gate(site.state / CONTROL_SOCKET, behind_control, inner=inner),
    ):
        yield


def _server(name: str) -> grpc.Server:
    """A server that answers gRPC's health checks."""
    server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix=name), options=OPTIONS)
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return server


def use_threads(threads: int) -> None:
    """Let torch's arithmetic have so many threads; 0: as many as this process has cores."""
    import torch

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
