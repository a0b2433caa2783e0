"""A worker of the embedded engine: a process that answers for hospitals until its pipe closes."""

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedward_client.handlers import Hospital
from fedward_client.source import Source
from fedward_common.events import Event, Listener
from fedward_common.logs import process_to, to_file
from fedward_common.records import answer_record
from fedward_simulations.shared_arrays import ReplyWriter, read_block

log = logging.getLogger(__name__)

WORKER_FAILED = 1001
EVENT_GAP_S = 0.05


class Opener(Protocol):
    """Opens a hospital's source inside a worker; must be picklable."""

    def __call__(self) -> Source:
        """The source."""


Answerer = Callable[[Source, Listener], Hospital]


def _die_with_parent() -> None:
    """Ask the kernel to end this process with the one that made it, however that ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


class _Reporter:
    """Sends events up the pipe, at most one in 50 ms a stage, the last of a stage always."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event.done >= event.total or now - self._last >= EVENT_GAP_S:
            self._last = now
            self._pipe.send(("event", event))


def work(
    pipe: Connection, openers: Mapping[int, Opener], answerer: Answerer, threads: int, log_file: Path | None
) -> None:
    """Answer questions until the pipe closes."""
    import torch

    from fedward_client.app import REFUSED, reply, simulated
    from fedward_client.desk import Desk, Reply

    _die_with_parent()
    if log_file is not None:
        process_to(to_file(log_file))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that half-written files are removed
    torch.set_num_threads(threads)
    identify(0)
    desks: dict[int, Desk] = {}
    reporter, writer = _Reporter(pipe), ReplyWriter()
    while True:
        given: Reply | None = None
        try:
            node, kind, config, has_arrays = pipe.recv()
        except (EOFError, ConnectionResetError):  # the parent is gone
            return
        arrays = read_block(reduction.recv_handle(pipe)) if has_arrays else None
        block = reduction.recv_handle(pipe)
        content = RecordDict({"config": ConfigRecord(config)})
        if arrays is not None:
            content["arrays"] = arrays
        message = Message(content, node, kind)
        try:
            if node not in desks:
                desks[node] = simulated(answerer(openers[node](), reporter))
            given = reply(message, desks[node])
            if given.answer is None:
                pipe.send(("error", REFUSED, given.refusal))
            else:
                if given.arrays:
                    writer.write(block, given.arrays)
                content = answer_record(given.answer)
                configs = {name: dict(record) for name, record in content.config_records.items()}
                metrics = {name: dict(record) for name, record in content.metric_records.items()}
                pipe.send(("answer", configs, metrics, bool(given.arrays)))
        except Exception as error:  # the process's edge: the hub hears of it, the worker goes on
            log.exception("a worker failed")
            pipe.send(("error", WORKER_FAILED, f"{type(error).__name__} at the site; its log says where"))
        os.close(block)
        del arrays, content, message, given  # so that the question's memory can go


def identify(node: int) -> None:
    """Flower makes messages only in a process that has an identity."""
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = 1
    TaskIdentity.node_id = node
