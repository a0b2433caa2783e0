"""What the network side carries between the hub and the data side around rounds, every few seconds, in a thread.

The hub's news go in as they came, and out comes what the data side lets out (`reporting`); this only carries, and has
the site's certificate renewed, which no training may hold up. Whatever goes wrong here, rounds do not notice: it is
logged once, and tried again after growing pauses.
"""

import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from pydantic import ValidationError

from fedward_client.hub_api import NOT_AGREED, Got, HubApi
from fedward_client.sockets import channel
from fedward_client.stubs import site_pb2, site_pb2_grpc
from fedward_client.traffic import Traffic
from fedward_common.cards import HubCard
from fedward_common.errors import FedwardError, LinkError, SettingsError
from fedward_common.site_messages import (
    APPROVALS,
    STATUS,
    STUDIES,
    Approval,
    ApprovalState,
    ApprovalsTold,
    HubNews,
    SiteReport,
    SiteStatus,
)

SHORTEST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_AFTER_FAILURE_S = 1.0, 5.0, 60.0
TOLD_AGAIN_S = 60.0  # a status that has not changed: the hub sees that it still holds
WORK_LIMIT_S = 10.0
END_LIMIT_S = 2.0
SILENT = "the site's data side does not answer its network side"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Correspondence:
    """Goes on while its block runs, until `stopping` is set. `work` is the data side's socket."""

    card: HubCard
    trust: ssl.SSLContext
    work: Path
    stopping: threading.Event
    traffic: Traffic = field(default_factory=Traffic)
    renewal: Callable[[], None] = lambda: None  # looks whether the site's certificate is to be renewed
    _thread: threading.Thread = field(init=False)
    _news: str = ""  # JSON of a HubNews
    _tag: str = ""  # of the news
    _known: dict[str, ApprovalState | None] = field(default_factory=dict)  # to the hub, by its news; by digest
    _told: dict[str, Approval] = field(default_factory=dict)  # to the hub, by digest
    _status: SiteStatus | None = None  # that was told last
    _told_at: float = 0.0  # monotonic seconds
    _trouble: str = ""  # that was logged last

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._go_on, name="correspondence", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._thread.join(END_LIMIT_S)  # a call that hangs ends with the process

    def _go_on(self) -> None:
        pause_s = next_at = 0.0
        with HubApi(self.card, self.trust, self.traffic) as hub:
            while not self.stopping.wait(min(max(0.0, next_at - time.monotonic()), LONGEST_PAUSE_S)):
                try:
                    self.renewal()
                    if time.monotonic() < next_at:
                        continue
                    changed = self.exchange(hub)
                except FedwardError as error:
                    self._say(str(error))
                    pause_s = min(max(2 * pause_s, SHORTEST_PAUSE_S), PAUSE_AFTER_FAILURE_S)
                except Exception:
                    log.exception("nothing goes between the hub and this site around rounds")
                    pause_s = PAUSE_AFTER_FAILURE_S
                else:
                    self._say("")
                    pause_s = SHORTEST_PAUSE_S if changed else min(2 * pause_s, LONGEST_PAUSE_S)
                next_at = time.monotonic() + pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret

    def exchange(self, hub: HubApi) -> bool:
        """Fetch what is new, hand it over, tell what is to be told; whether there was much. Raises LinkError."""
        got = hub.get(STUDIES, self._tag)
        if got is not None:
            self._take(got)
        report = self._report()
        told = [self._tell_approvals(hub, report.approvals), self._tell_status(hub, report.status)]
        return got is not None or any(told)

    def _take(self, got: Got) -> None:
        try:
            news = HubNews.model_validate_json(got.content)
        except ValidationError:
            raise LinkError(NOT_AGREED) from None
        self._news, self._tag = got.content.decode(), got.tag
        self._known = {each.digest: each.approval for each in news.studies}

    def _report(self) -> SiteReport:
        """What the data side lets out; that it is silent, where it is and let its status out before."""
        try:
            with channel(self.work) as connection:
                heard = site_pb2.Heard(news=self._news)
                said = site_pb2_grpc.WorkStub(connection).Report(heard, timeout=WORK_LIMIT_S)
        except (grpc.RpcError, SettingsError):
            silent = {"state": "silent", "work": None, "faults": (SILENT,)}
            return SiteReport(status=None if self._status is None else self._status.model_copy(update=silent))
        if said.error:
            raise LinkError(said.error)
        return SiteReport.model_validate_json(said.report)

    def _tell_approvals(self, hub: HubApi, approvals: Iterable[Approval]) -> bool:
        """Tell what the hub does not have, also where it had it once and was restored from a backup since."""
        new = [
            each
            for each in approvals
            if self._told.get(each.digest) != each or self._known.get(each.digest) != each.state
        ]
        if new:
            hub.post(APPROVALS, ApprovalsTold(approvals=tuple(new)))
            self._told |= {each.digest: each for each in new}
        return bool(new)

    def _tell_status(self, hub: HubApi, status: SiteStatus | None) -> bool:
        now, last = time.monotonic(), self._status
        if status is None or (status == last and now - self._told_at < TOLD_AGAIN_S):
            return False
        hub.post(STATUS, status)
        self._status, self._told_at = status, now
        return last is None or last.state != status.state

    def _say(self, trouble: str) -> None:
        """Log what is wrong, once."""
        if trouble not in {"", self._trouble}:
            log.warning("nothing goes between the hub and this site around rounds: %s", trouble)
        self._trouble = trouble
