"""A site's metrics for Prometheus: a text file, which the hospital's node_exporter reads and a process here writes.

That process has no network, and what reads patients writes nothing that a program with a network reads but the spool:
the data side tells its numbers over control.sock, the network side leaves its own in link/. Told are times, bytes and
numbers of questions; of patients nothing, not even how many. See ADR 0030.
"""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedward_client.credentials import Credentials
from fedward_client.daemon import ending
from fedward_client.member import CONTROL_SOCKET, TRAFFIC, read_json
from fedward_client.site import Site
from fedward_client.sockets import channel
from fedward_client.stubs import site_pb2, site_pb2_grpc
from fedward_common import pki
from fedward_common.errors import SettingsError

log = logging.getLogger(__name__)

PREFIX = "fedward_site_"
WRITE_S = 15.0
ANSWER_LIMIT_S = 5.0
SILENT_S = 30.0  # without an answer of the hub, of which there is one every ten seconds: the link is down


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What there is to tell. `counted` is the data side's, None while it does not answer; `now`: seconds since 1970."""

    now: float
    disk: tuple[int, int]  # free, all
    counted: Mapping[str, Any] | None = None
    traffic: Mapping[str, Any]
    certificate_ends: datetime | None = None


@dataclass(frozen=True, slots=True, eq=False)  # a registry keeps it as a key
class SiteCollector(Collector):
    """The metrics of what was found at the site of this name."""

    site: str
    found: Found

    def collect(self) -> Iterator[Metric]:
        """All that is known."""
        yield self._gauge("up", "1 while the data side answers", int(self.found.counted is not None))
        yield from self._work(self.found.counted or {})
        yield from self._link()
        free, size = self.found.disk
        yield self._gauge("disk_free_bytes", "Free on the disk of the state folder", free)
        yield self._gauge("disk_size_bytes", "The size of that disk", size)

    def _work(self, counted: Mapping[str, Any]) -> Iterator[Metric]:
        if not counted:
            return
        seconds = counted["work_seconds"]
        yield self._gauge("paused", "1 while its steward has it paused", int(counted["paused"]))
        yield self._gauge("working", "1 while it works on a question of the hub", int(seconds is not None))
        yield self._gauge("work_seconds", "For how long it has worked on that question, else 0", seconds or 0)
        yield self._gauge("studies_waiting", "Studies that wait for the steward's approval", counted["waiting"])
        yield self._gauge("round", "The last round that it trained in since it started, else 0", counted["round"])
        yield self._gauge("last_train_seconds", "How long it trained in that round", counted["train_seconds"])
        yield self._gauge("last_round_seconds", "How long that round took here in all", counted["round_seconds"])
        answered = CounterMetricFamily(f"{PREFIX}answered_questions", "Questions answered", labels=["site", "kind"])
        for kind, count in sorted(counted["answered"].items()):
            answered.add_metric([self.site, kind], count)
        yield answered
        yield self._counter("refused_questions", "Refusals given, each time that it was asked", counted["refused"])
        if counted["gpu_memory"] is not None:
            free, size = counted["gpu_memory"]
            yield self._gauge("gpu_memory_free_bytes", "Free of the GPU's memory, once it was used", free)
            yield self._gauge("gpu_memory_size_bytes", "All of it", size)

    def _link(self) -> Iterator[Metric]:
        heard = self.found.traffic.get("heard")
        up = heard is not None and self.found.now - heard < SILENT_S
        yield self._gauge("link_up", "1 while the hub answers", int(up))
        if heard is not None:
            yield self._gauge("hub_heard_timestamp_seconds", "When the hub answered last", heard)
            yield self._counter("sent_bytes", "Sent to the hub", self.found.traffic["sent"])
            yield self._counter("received_bytes", "Received from the hub", self.found.traffic["received"])
        if self.found.certificate_ends is not None:
            end = self.found.certificate_ends.timestamp()
            yield self._gauge("certificate_end_timestamp_seconds", "When its certificate for the hub ends", end)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=["site"])
        gauge.add_metric([self.site], value)
        return gauge

    def _counter(self, name: str, text: str, value: float) -> Metric:
        counter = CounterMetricFamily(f"{PREFIX}{name}", text, labels=["site"])
        counter.add_metric([self.site], value)
        return counter


# Looking and writing -------------------------------------------------------------------------------------------------


def look(site: Site, *, ended: bool = False) -> Found:
    """How a site is now; with `ended`, as one that is down."""
    disk = shutil.disk_usage(site.state)
    try:
        own = Credentials(site.link).certificate()
    except SettingsError:  # `fedward site status` and `fedward doctor` say what is wrong with it
        own = None
    return Found(
        now=time.time(),
        disk=(disk.free, disk.total),
        counted=None if ended else _counted(site),
        traffic={} if ended else read_json(site.link / TRAFFIC),
        certificate_ends=None if own is None else own.not_valid_after_utc,
    )


def _counted(site: Site) -> dict[str, Any] | None:
    try:
        with closing(channel(site.state / CONTROL_SOCKET)) as connection:
            answer = site_pb2_grpc.ControlStub(connection).Count(site_pb2.Nothing(), timeout=ANSWER_LIMIT_S)
    except (SettingsError, grpc.RpcError):
        return None
    counted: dict[str, Any] = json.loads(answer.json)
    return counted


def write(folder: Path, site: str, found: Found) -> None:
    """Write the file, whole, for every user to read. Raises SettingsError where that fails."""
    registry = CollectorRegistry()
    registry.register(SiteCollector(site, found))
    pki.write_public(folder / f"fedward-{site}.prom", generate_latest(registry))


def keep_writing(site: Site, folder: Path) -> None:
    """Write it every `WRITE_S` until SIGTERM or SIGINT, and then once more: that the site is down."""
    stopping = ending()
    trouble = ""
    while True:
        ended = stopping.is_set()
        try:
            write(folder, site.name, look(site, ended=ended))
            trouble = ""
        except (SettingsError, OSError) as error:
            if trouble != str(error):  # said once: a full disk stays full for a while
                log.warning("the metrics are not written: %s", error)
            trouble = str(error)
        if ended:
            return
        stopping.wait(WRITE_S)
