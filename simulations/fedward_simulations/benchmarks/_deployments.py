"""What the benchmarks of whole deployments run: Fedward's own, and beside it stock Flower behind the same guarantees.

Both have TLS, node authentication and their state in memory. They are on free ports of loopback, and nothing of either
outlives its block.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from fedward_client.site import SETTINGS
from fedward_common import pki
from fedward_common.errors import RunError
from fedward_server.hub import Hub
from fedward_server.superlink import CONNECTION, HOST, SuperLink, free_port
from fedward_simulations.federation import HUB, HUB_UP, SITE_UP, Federation, background, federation

START_LIMIT_S = 120.0
LOOK_S = 0.1
SUPERVISOR, DAEMON = "supervisor", "daemon"  # roles of what is started here
STOCK_LINK, STOCK_NODE = "stock-superlink", "stock-supernode"

_STOCK_BUNDLE = """\
[project]
name = "stock-noop"
version = "1.0.0"

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "_stock_app:server"
clientapp = "_stock_app:client"

[tool.flwr.app.config]
{config}
"""


@contextmanager
def ours(
    folder: Path,
    sites: Sequence[str],
    *,
    hub_up: Sequence[str] = HUB_UP,
    site_up: Sequence[str] = SITE_UP,
    gateway: bool = False,
) -> Iterator[Federation]:
    """A hub and sites with empty folders, all connected; the options are `federation`'s.

    Each site has one thread for its arithmetic: all share this machine, and more would wait for each other.
    """
    hospitals = {name: folder / name for name in sites}
    for path in hospitals.values():
        path.mkdir(parents=True)
        (path / SETTINGS).write_text('[policy]\noutputs = ["counts", "update", "evaluation"]\n[limits]\nthreads = 1\n')
    with federation(
        folder / "hub", hospitals, logs=folder / "logs", hub_up=hub_up, site_up=site_up, gateway=gateway
    ) as running:
        yield running


def roots(federation: Federation) -> dict[int, str]:
    """What a federation's person started, and its role: the hub's supervisor, and each site's daemon."""
    return {pid: SUPERVISOR if name == HUB else DAEMON for name, pid in federation.pids.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stock:
    """A stock SuperLink and stock SuperNodes that are connected to it."""

    folder: Path
    link: SuperLink
    superlink: int  # process ids
    supernodes: tuple[int, ...]

    @property
    def roots(self) -> dict[int, str]:
        """What was started, and its role."""
        return {self.superlink: STOCK_LINK, **dict.fromkeys(self.supernodes, STOCK_NODE)}

    def rounds(
        self, count: int, shapes: Sequence[Sequence[int]], on_round: Callable[[int], None], *, limit_s: float
    ) -> list[float]:
        """Seconds that each of `count` rounds of a no-op app took; RunError for one of more than `limit_s`.

        `on_round` is told how many rounds have ended.
        """
        times = self.folder / "times"
        config = {"times": str(times), "nodes": len(self.supernodes), "rounds": count, "shapes": json.dumps(shapes)}
        bundle = self.folder / "bundle"
        bundle.mkdir()
        shutil.copy(Path(__file__).with_name("_stock_app.py"), bundle)
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in config.items())
        (bundle / "pyproject.toml").write_text(_STOCK_BUNDLE.format(config=lines))
        self.link.flwr("run", str(bundle), CONNECTION)

        def read() -> list[float]:
            return list(map(float, whole_lines(times)))

        return timed(read, count, on_round, limit_s=limit_s, said=[self.link.log_file])


@contextmanager
def stock(folder: Path, nodes: int, *, log_level: str = "INFO") -> Iterator[Stock]:
    """The stock programs, started as their own help says; keys and certificates are a hub's."""
    folder.mkdir(exist_ok=True)
    hub = Hub.init(folder / "hub", name="stock", port=free_port())
    link = replace(hub.link, log_level=log_level, stock=True)
    with link.running() as process, ExitStack() as stack:
        pids = [stack.enter_context(_stock_node(folder, hub, link, number)) for number in range(nodes)]
        said = [folder / f"node-{number}.out" for number in range(nodes)]
        wait_until(lambda: _online(link) == nodes, limit_s=START_LIMIT_S, what="stock SuperNodes", said=said)
        yield Stock(folder=folder, link=link, superlink=process.pid, supernodes=tuple(pids))


@contextmanager
def _stock_node(folder: Path, hub: Hub, link: SuperLink, number: int) -> Iterator[int]:
    key, public = folder / f"node-{number}.key", folder / f"node-{number}.pub"
    pki.write_private(key, pki.make_node_key())
    public.write_text(f"{pki.node_public_line(pki.load_node_key(key))}\n")
    link.flwr("supernode", "register", str(public), CONNECTION)
    home = folder / f"node-{number}"
    home.mkdir()
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        **dict([link.mark.split("=", 1)]),  # so that what it starts ends with the SuperLink, however this process ends
    }
    command = [
        *(str(Path(sys.executable).with_name("flower-supernode")), "--superlink", f"{HOST}:{hub.port}"),
        *("--root-certificates", str(hub.tls.authority), "--auth-supernode-private-key", str(key)),
        *("--host", HOST, "--port", str(free_port())),
    ]
    with background(command, folder / f"node-{number}.out", environment) as pid:
        yield pid


def _online(link: SuperLink) -> int:
    return sum(node["status"] == "online" for node in link.flwr("supernode", "list", CONNECTION)["nodes"])


def timed(
    read: Callable[[], list[float]],
    count: int,
    on_round: Callable[[int], None],
    *,
    limit_s: float,
    said: Sequence[Path],
) -> list[float]:
    """Seconds that each of `count` rounds took, from the times (`read`) at which each began and the last one ended.

    `on_round` is told how many have ended. Raises RunError, with the last words in the files `said`, for one that takes
    longer than `limit_s`.
    """
    marks: list[float] = []
    while len(marks) <= count:
        known = len(marks)
        wait_until(lambda: len(read()) > known, limit_s=limit_s, what=f"round {known}", said=said)  # noqa: B023 - here
        marks = read()
        on_round(len(marks) - 1)
    return [after - before for before, after in pairwise(marks)]


def wait_until(there: Callable[[], bool], *, limit_s: float, what: str, said: Sequence[Path]) -> None:
    """Look until it is there; RunError, with the last words in the files `said`, when it is not after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not there():
        if time.monotonic() > deadline:
            words = "; ".join(f"{path.name}: {line}" for path in said for line in whole_lines(path)[-1:])
            raise RunError(f"waited {limit_s:g} s in vain for {what} ({words or 'no word of them'})")
        time.sleep(LOOK_S)


def whole_lines(path: Path) -> list[str]:
    """The whole lines of a file that another process writes; none while it is not there."""
    return path.read_text("utf-8", "replace").split("\n")[:-1] if path.exists() else []
