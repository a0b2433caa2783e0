"""What a federation takes while nothing is asked of it: processor time and requests of each process, for a minute.

A real hub and two real sites, connected and without a run. Beside them, at the same time, a stock flower-supernode that
is connected to a stock SuperLink. Requests are counted in the SuperLinks' logs, which here have a line for each.
"""

import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedward_simulations.benchmarks import Figure
from fedward_simulations.benchmarks._deployments import DAEMON, STOCK_NODE, SUPERVISOR, ours, roots, stock
from fedward_simulations.benchmarks._processes import cpu_s, family

SITES = ("north", "south")
VERBOSE_HUB = "fedward_simulations.benchmarks._verbose_hub"
SETTLE_S = 30.0  # until sites ask as seldom as they ever do
WINDOW_S = 60.0
PROCESSES = (SUPERVISOR, "superlink", "superexec", DAEMON, "executor", "supernode")
CALLERS = {"supernode": "fleet", "superexec": "runtime"}  # who asks a SuperLink, and under which of its paths
REFERENCE = "a stock flower-supernode with its superexec"

_REQUEST = re.compile(r'\[uvicorn\.access\] \S+ - "POST /v1/(\w+)/')


def run() -> Iterator[Figure]:
    """Percent of a core of each process, then requests a minute of those that make any."""
    yield from measure(settle_s=SETTLE_S, window_s=WINDOW_S)


def measure(*, settle_s: float, window_s: float) -> Iterator[Figure]:
    """Figures of one process each; where several have the same role, of their mean."""
    with tempfile.TemporaryDirectory(prefix="fedward-bench-") as scratch:
        fedward, other = Path(scratch) / "fedward", Path(scratch) / "stock"
        with (
            ours(fedward, SITES, hub_up=(VERBOSE_HUB,)) as federation,
            stock(other, 1, log_level="DEBUG") as beside,
        ):
            watched, log = roots(federation), federation.hub.link.log_file
            nodes = dict.fromkeys(beside.supernodes, STOCK_NODE)
            time.sleep(settle_s)
            before, stock_before = _look(watched, log), _look(nodes, beside.link.log_file)
            time.sleep(window_s)
            after, stock_after = _look(watched, log), _look(nodes, beside.link.log_file)
    cpu, requests = after.cpu - before.cpu, after.requests - before.requests
    stock_cpu = (stock_after.cpu - stock_before.cpu).total()
    stock_requests = (stock_after.requests - stock_before.requests)["fleet"]
    setting = {"sites": len(SITES), "seconds": window_s}
    for name in PROCESSES:
        yield Figure(
            name="idle",
            setting={**setting, "process": name},
            value=100 * cpu[name] / after.processes[name] / window_s,
            unit="% of a core",
            reference=REFERENCE,
            reference_value=100 * stock_cpu / window_s,
        )
    for name, path in CALLERS.items():
        yield Figure(
            name="idle-requests",
            setting={**setting, "process": name},
            value=60 * requests[path] / after.processes[name] / window_s,
            unit="requests/min",
            reference="a stock flower-supernode",
            reference_value=60 * stock_requests / window_s,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """By role: how many processes there are, and the processor seconds they took so far; and requests by path."""

    processes: Counter[str]
    cpu: Counter[str]
    requests: Counter[str]


def _look(roots: Mapping[int, str], log: Path) -> _Seen:
    roles = {pid: role for root, its_role in roots.items() for pid, role in family(root, its_role).items()}
    cpu: Counter[str] = Counter()
    for pid, role in roles.items():
        cpu[role] += cpu_s(pid)  # type: ignore[assignment]  # a Counter takes any number
    requests = Counter(_REQUEST.findall(log.read_text("utf-8", "replace")))
    return _Seen(processes=Counter(roles.values()), cpu=cpu, requests=requests)
