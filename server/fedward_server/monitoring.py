"""A hub's metrics for Prometheus, which the API's process tells on loopback to whoever asks there.

Each is looked up when it is asked for: nothing is counted beside the database and the disk. Labels are names of sites
and ids of runs; of patients nothing is told, not even how many. It is for the operator: it names every site.
"""

import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedward_common.errors import FedwardError
from fedward_server import bulk
from fedward_server.hub import Hub
from fedward_server.hub_settings import SETTINGS, host_and_port
from fedward_server.live import LiveRun, LiveRuns
from fedward_server.presence import PresenceWatch
from fedward_server.register import Register
from fedward_server.runs import ENGINE
from fedward_server.store import RoundRow, Store

log = logging.getLogger(__name__)

PREFIX = "fedward_hub_"


@dataclass(frozen=True, slots=True, eq=False)  # a registry keeps it as a key
class HubCollector(Collector):
    """Looks up all of it. `store` is opened, `presence` watches."""

    hub: Hub
    store: Store
    presence: PresenceWatch
    live: LiveRuns
    _turn: threading.Lock = field(default_factory=threading.Lock)  # two may ask at once

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now; what cannot be read is left out, and said to be so."""
        with self._turn:
            found = list(self._now())
        yield from found

    def _now(self) -> Iterator[Metric]:
        parts: dict[str, Callable[[], Iterator[Metric]]] = {
            "database": self._sites,
            "runs": self._runs,
            "certificates": self._certificates,
            "disk": self._disk,
        }
        read = dict.fromkeys(parts, 0)
        for name, part in parts.items():
            with suppress(FedwardError, OSError):
                yield from list(part())
                read[name] = 1
        yield _gauge("readable", "1 where this part of the hub's folder can be read", read, "part")

    def _sites(self) -> Iterator[Metric]:
        register, seen = Register(self.store), self.presence.seen
        yield _gauge("superlink_up", "1 while the SuperLink answers", int(seen is not None))
        connected = {site: int(each.connection == "online") for site, each in (seen or {}).items()}
        yield _gauge("site_connected", "1 while a site is connected; not told without a SuperLink", connected, "site")
        ends = {site: end.timestamp() for site, end in register.ends().items()}
        yield _gauge("site_certificate_end_timestamp_seconds", "When a site's certificate ends", ends, "site")
        yield _gauge("sites_asking", "Sites that ask to join and wait for the operator", len(register.waiting()))
        refused = CounterMetricFamily(
            f"{PREFIX}refused_updates", "Rounds in which a site's update was refused or did not come", labels=["site"]
        )
        for site, count in self.store.refusals().items():
            refused.add_metric([site], count)
        yield refused

    def _runs(self) -> Iterator[Metric]:
        yield _gauge("runs", "Runs, by how they stand", self.store.run_counts(), "status")
        now = {row.run: self.live.of(row) for row in self.store.unfinished(ENGINE)}
        for name, (text, figure) in _OF_RUN.items():
            yield _gauge(f"run_{name}", text, {run: figure(live) for run, live in now.items()}, "run")
        rounds = {run: [each.figures for _, each in sorted(live.rounds.items())] for run, live in now.items()}
        ended = {run: [row for row in found if row is not None] for run, found in rounds.items()}
        for name, (text, of_round) in _OF_LAST_ROUND.items():
            figures = {run: of_round(found[-1]) for run, found in ended.items() if found}
            yield _gauge(f"run_last_round_{name}", text, figures, "run")
        scores = {run: [row.primary for row in found if row.primary is not None] for run, found in ended.items()}
        last = {run: found[-1] for run, found in scores.items() if found}
        yield _gauge(
            "run_primary_score", "The study's primary figure of the last scored model, over all sites", last, "run"
        )

    def _certificates(self) -> Iterator[Metric]:
        ends = {
            "superlink": self.hub.certificate_ends(),
            "gateway": self.hub.gateway_ends(),
            "authority": self.hub.issuing.current().certificate.not_valid_after_utc,
        }
        if self.hub.settings.dashboard is not None:
            ends["dashboard"] = self.hub.pages_ends()
        moments = {name: end.timestamp() for name, end in ends.items()}
        yield _gauge(
            "certificate_end_timestamp_seconds", "When a certificate of the hub's ends", moments, "certificate"
        )

    def _disk(self) -> Iterator[Metric]:
        disk, settings = shutil.disk_usage(self.hub.folder), self.hub.settings
        yield _gauge("disk_free_bytes", "Free on the disk of the hub's folder", disk.free)
        yield _gauge("disk_size_bytes", "The size of that disk", disk.total)
        held = {path.name: bulk.held(path) for path in sorted((self.hub.folder / bulk.FOLDER / "up").glob("*"))}
        yield _gauge("bulk_held_bytes", "What a site has put on the bulk path and the hub has not taken", held, "site")
        if settings.gateway is not None:
            yield _gauge("bulk_quota_bytes", "The most that a site may have there", settings.gateway.bulk_mib * 2**20)


_OF_RUN: dict[str, tuple[str, Callable[[LiveRun], float]]] = {
    "round": ("The round that a run is at", lambda run: run.standing.round),
    "rounds": ("How many rounds it will have", lambda run: run.standing.rounds),
    "paused": ("1 while it is paused, or is to be after the round in hand", lambda run: run.paused),
    "sites_waited_for": (
        "Sites that a run waits for",
        lambda run: sum(kind == "waiting" for kind, _ in run.standing.sites.values()),
    ),
}
_OF_LAST_ROUND: dict[str, tuple[str, Callable[[RoundRow], float]]] = {
    "seconds": ("How long a run's last round took", lambda row: row.seconds),
    "train_seconds": ("How long its slowest site trained", lambda row: row.train_seconds),
    "up_bytes": ("What its sites sent to the hub", lambda row: row.bytes_up),
    "down_bytes": ("What the hub sent to its sites", lambda row: row.bytes_down),
}


def _gauge(name: str, text: str, value: float | Mapping[str, float], label: str = "") -> GaugeMetricFamily:
    """A gauge; with a `label`, one for each of its values."""
    gauge = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=[label] if label else None)
    for key, number in value.items() if isinstance(value, Mapping) else [("", value)]:
        gauge.add_metric([key] if label else [], number)
    return gauge


@contextmanager
def metrics_told(hub: Hub, store: Store, presence: PresenceWatch, live: LiveRuns) -> Iterator[None]:
    """Answer Prometheus while the block runs, where the settings say so. A port that is taken is logged, no more."""
    if hub.settings.metrics is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(HubCollector(hub, store, presence, live))
    host, port = host_and_port(hub.settings.metrics.listen)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        log.error(  # noqa: TRY400 - the sentence says it all
            "no metrics are told at %s (%s): stop what listens there, or set another [metrics] listen in %s",
            hub.settings.metrics.listen,
            error.strerror,
            SETTINGS,
        )
        yield
        return
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
