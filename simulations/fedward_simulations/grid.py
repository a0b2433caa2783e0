"""The embedded engine: a Flower `Grid` whose nodes are hospitals in worker processes of this machine.

The same ServerApp drives it and the same handlers answer as in a deployment. Arrays pass as anonymous shared memory
(memfd), so a killed run leaves no file; everything else that crosses a pipe is text and numbers. A worker that dies
costs its hospital the question in hand, and is replaced. Linux only.
"""

import logging
import multiprocessing
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import log2
from multiprocessing import connection, reduction
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedward_client.handlers import Hospital
from fedward_common.errors import RunError
from fedward_common.events import Listener, ignore
from fedward_simulations.grid_worker import WORKER_FAILED, Answerer, Opener, identify, work
from fedward_simulations.shared_arrays import NO_BLOCK, BlockPool, ReplyBlock, ReplyBlocks

log = logging.getLogger(__name__)

PULL_WAIT_S = 0.05
_UNKNOWN_S = 2.0**40  # as if it took ages
# by all workers
PRELOADED = ["fedward_client.app", "fedward_client.training.transforms", "fedward_simulations.grid_worker"]


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    replies: ReplyBlocks = field(default_factory=ReplyBlocks)
    block: ReplyBlock | None = None  # what the reply to `message` will be in
    message: Message | None = None
    started: float = 0.0


@dataclass(slots=True)
class _Desk:
    """What is waiting, running and answered; every field is guarded by the grid's condition."""

    waiting: list[Message] = field(default_factory=list)
    blocks: BlockPool = field(default_factory=BlockPool)
    answered: dict[str, Message] = field(default_factory=dict)
    durations: dict[tuple[int, str], float] = field(default_factory=dict)
    counter: int = 0
    closed: bool = False
    failure: Exception | None = None  # what ended the dispatcher


class EmbeddedGrid(Grid):
    """Hospitals by name, answered for by `workers` processes with `threads` threads each.

    Use it as a context manager: leaving it ends every worker. Node ids are 1, 2, … in the order of the names.
    """

    def __init__(
        self,
        openers: Mapping[str, Opener],
        *,
        workers: int,
        threads: int = 1,
        listener: Listener = ignore,
        log_file: Path | None = None,
        answerer: Answerer = Hospital,
    ) -> None:
        if not openers:
            raise RunError("there is no hospital to simulate")
        self.nodes = {name: node for node, name in enumerate(sorted(openers), start=1)}
        self._openers = {self.nodes[name]: opener for name, opener in openers.items()}
        self._answerer = answerer
        self._threads = threads
        self._log_file = log_file
        self._listener = listener
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._change = threading.Condition()
        self._desk = _Desk()
        self._run = Run.create_empty(run_id=1)
        identify(0)
        self._wake_read, self._wake_write = connection.Pipe(duplex=False)
        self._workers = [self._start_worker() for _ in range(max(1, workers))]
        self._dispatcher = threading.Thread(target=self._dispatch, name="embedded-grid", daemon=True)
        self._dispatcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every worker; a second call does nothing."""
        with self._change:
            if self._desk.closed:
                return
            self._desk.closed = True
            self._change.notify_all()
        self._wake()
        self._dispatcher.join()
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
            worker.replies.close()
            if worker.block is not None:
                worker.replies.give_back(worker.block)
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()
        self._wake_read.close()
        self._wake_write.close()

    def worker_pids(self) -> list[int]:
        """The process ids of the workers, for those who watch them."""
        with self._change:
            return [worker.process.pid for worker in self._workers if worker.process.pid is not None]

    # Flower's Grid ---------------------------------------------------------------------------------------------------

    @property
    def run(self) -> Run:
        """An empty Flower run: the embedded engine has no SuperLink to register one with."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Take a run as the current one."""
        self._run = run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Every hospital's node."""
        return sorted(self._openers)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand messages to the workers; gives their ids."""
        ids = []
        with self._change:
            self._check_open()
            for message in messages:
                self._desk.counter += 1
                message.metadata.__dict__["_message_id"] = f"embedded-{self._desk.counter}"
                self._desk.waiting.append(message)
                if arrays := message.content.array_records.get("arrays"):
                    self._desk.blocks.retain(arrays)
                ids.append(message.metadata.message_id)
        self._wake()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there; waits a moment for the first, so that a caller need not."""
        wanted = set(message_ids)
        with self._change:
            self._change.wait_for(lambda: wanted & self._desk.answered.keys(), timeout=PULL_WAIT_S)
            self._check_open()
            return [self._desk.answered.pop(one) for one in wanted & self._desk.answered.keys()]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull until every reply is there or `timeout` seconds have passed."""
        started = time.monotonic()
        waiting, replies = set(self.push_messages(messages)), []
        while waiting and (timeout is None or time.monotonic() - started < timeout):
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    def _check_open(self) -> None:
        if self._desk.failure is not None:
            raise RunError("the embedded engine failed; the log says where") from self._desk.failure
        if self._desk.closed:
            raise RunError("the simulation was stopped")

    # Dispatching -----------------------------------------------------------------------------------------------------

    def _start_worker(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work, args=(theirs, self._openers, self._answerer, self._threads, self._log_file), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _wake(self) -> None:
        with suppress(OSError):  # closed meanwhile
            self._wake_write.send_bytes(b"")

    def _dispatch(self) -> None:
        """The one thread that talks with the workers. Whatever ends it ends every wait too."""
        try:
            self._serve()
        except Exception as error:  # a thread's edge: those who wait raise it
            log.exception("the embedded engine failed")
            with self._change:
                self._desk.failure = error
                self._change.notify_all()
        self._desk.blocks.close()

    def _serve(self) -> None:
        while True:
            with self._change:
                if self._desk.closed:
                    return
                tasks = list(self._next_tasks())
            for worker, message in tasks:
                self._send(worker, message)
            ready = connection.wait([self._wake_read, *(worker.pipe for worker in self._workers)])
            if self._wake_read in ready:
                self._wake_read.recv_bytes()
            for place, worker in enumerate(self._workers):
                if worker.pipe in ready and not self._receive(worker):
                    self._workers[place] = self._start_worker()

    def _next_tasks(self) -> Iterator[tuple[_Worker, Message]]:
        """Pair free workers with waiting messages: one at a time for a hospital, what took far longer last time first.

        Those that take about as long keep their order, in which they are added up: none has to wait for another.
        """
        busy = {w.message.metadata.dst_node_id for w in self._workers if w.message is not None}
        self._desk.waiting.sort(key=lambda m: -round(log2(self._desk.durations.get(_cost_key(m), _UNKNOWN_S))))
        for worker in self._workers:
            if worker.message is not None:
                continue
            free = next((m for m in self._desk.waiting if m.metadata.dst_node_id not in busy), None)
            if free is None:
                return
            self._desk.waiting.remove(free)
            busy.add(free.metadata.dst_node_id)
            yield worker, free

    def _send(self, worker: _Worker, message: Message) -> None:
        worker.message, worker.started = message, time.monotonic()
        config = dict(message.content.config_records["config"])
        descriptor = NO_BLOCK
        worker.block = block = worker.replies.take()
        if arrays := message.content.array_records.get("arrays"):
            try:
                with self._change:
                    descriptor = self._desk.blocks.block(arrays)
            except RunError as error:
                self._finish(worker, Message(Error(code=WORKER_FAILED, reason=str(error)), reply_to=message))
                return
        with suppress(OSError):  # a worker that is gone shows as such when it is read
            has_arrays = descriptor != NO_BLOCK
            worker.pipe.send((message.metadata.dst_node_id, message.metadata.message_type, config, has_arrays))
            if has_arrays:
                reduction.send_handle(worker.pipe, descriptor, worker.process.pid)
            reduction.send_handle(worker.pipe, block.descriptor, worker.process.pid)

    def _receive(self, worker: _Worker) -> bool:
        """Take one thing from a worker's pipe; False when the worker is gone."""
        try:
            kind, *rest = worker.pipe.recv()
            if kind == "event":
                self._listener(rest[0])
                return True
            reply: Message | None = self._read_reply(worker, kind, rest)
            alive = True
        except (EOFError, OSError):
            worker.process.join(timeout=5)
            reply = None if worker.message is None else _obituary(worker.process.exitcode, worker.message)
            worker.pipe.close()
            worker.replies.close()
            alive = False
        if worker.message is not None and reply is not None:
            self._finish(worker, reply)
        return alive

    def _read_reply(self, worker: _Worker, kind: str, rest: list[Any]) -> Message:
        asked = worker.message
        if asked is None:
            raise RunError("a worker answered a question that was not asked")
        if kind == "error":
            code, reason = rest
            return Message(Error(code=code, reason=reason), reply_to=asked)
        configs, metrics, has_arrays = rest
        content = RecordDict({name: ConfigRecord(record) for name, record in configs.items()})
        for name, record in metrics.items():
            content[name] = MetricRecord(record)
        if has_arrays and worker.block is not None:
            block, worker.block = worker.block, None
            content["arrays"] = worker.replies.read(block)
        return Message(content, reply_to=asked)

    def _finish(self, worker: _Worker, reply: Message) -> None:
        asked, worker.message = worker.message, None
        if worker.block is not None:
            worker.replies.give_back(worker.block)
            worker.block = None
        if asked is None:
            return
        with self._change:
            if arrays := asked.content.array_records.get("arrays"):
                self._desk.blocks.release(arrays)
            self._desk.durations[_cost_key(asked)] = time.monotonic() - worker.started
            self._desk.answered[asked.metadata.message_id] = reply
            self._change.notify_all()


def _obituary(code: int | None, asked: Message) -> Message:
    """The reply to what a worker was doing when it died."""
    why = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    reason = f"its worker process died ({why}): look for 'out of memory' in the system's log, or lower --workers"
    return Message(Error(code=WORKER_FAILED, reason=reason), reply_to=asked)


def _cost_key(message: Message) -> tuple[int, str]:
    return message.metadata.dst_node_id, message.metadata.message_type
