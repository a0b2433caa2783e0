"""Two hundred rounds with kills at random moments: the run ends, and no process grows."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import pytest

from fedward_common.testing import tiny_study
from fedward_server import control, runs
from fedward_server.checkpoints import newest
from fedward_server.store import UNFINISHED
from fedward_simulations.benchmarks._deployments import DAEMON, SUPERVISOR, ours
from fedward_simulations.benchmarks._noop_rounds import NOOP_SITE
from fedward_simulations.benchmarks._processes import family, open_files, resident_mib
from fedward_simulations.faults import VICTIMS, MissedError, Victim, Watched, wait_until
from fedward_simulations.federation import Federation

SITES = ("north", "south")
ROUNDS, KILLS, SEED = 200, 15, 7
ROLES = (SUPERVISOR, DAEMON, "superlink", "superexec", "serverapp", "executor", "supernode")
MORE_MIB, MORE_FILES = 32.0, 16  # of noise: what an allocator keeps, what is open for a moment
LIMIT_S = 3000.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(LIMIT_S + 300)]


def test_two_hundred_rounds_with_random_kills(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    kills = dict(zip(draw.sample(range(10, ROUNDS - 10), KILLS), draw.choices(VICTIMS, k=KILLS), strict=True))
    study = tiny_study(training={"rounds": ROUNDS}, strategy={"min_sites": len(SITES)})
    figures: dict[str, list[tuple[int, float, int]]] = defaultdict(list)  # by role: round, MiB, open files
    with ours(tmp_path, SITES, site_up=(NOOP_SITE,)) as running:
        running.approve(study, names=SITES)
        run = runs.start(running.hub, study, names=SITES, wait_s=60.0).run
        watched = Watched(running, run, *SITES)
        seen, deadline = 0, time.monotonic() + LIMIT_S
        try:
            while watched.status().status in UNFINISHED:
                assert time.monotonic() < deadline, f"round {seen} after {LIMIT_S:g} s"
                number = newest(watched.folder)
                if number > seen:
                    seen = number
                    for role, pid in processes(running):
                        figures[role].append((number, resident_mib(pid), open_files(pid)))
                for due in [each for each in kills if each <= number]:
                    if kill(watched, kills[due], draw.choice(SITES)):
                        del kills[due]
                time.sleep(0.05)
            end = watched.status()
        finally:
            if running.hub.pid() not in (None, running.pids["hub"]):
                control.take_down(running.hub)
    assert (end.status, end.reason) == ("finished", None)
    assert not kills
    assert figures.keys() >= set(ROLES)
    for role in ROLES:
        first = [each for each in figures[role] if each[0] <= ROUNDS // 4]
        last = [each for each in figures[role] if each[0] > ROUNDS - ROUNDS // 4]
        assert max(mib for _, mib, _ in last) <= max(mib for _, mib, _ in first) + MORE_MIB, role
        assert max(files for _, _, files in last) <= max(files for _, _, files in first) + MORE_FILES, role


def processes(running: Federation) -> list[tuple[str, int]]:
    """Every process of a federation, and its role."""
    roots = {running.pids[site]: DAEMON for site in SITES}
    if (hub := running.hub.pid()) is not None:
        roots[hub] = SUPERVISOR
    return [(role, pid) for root, its_role in roots.items() for pid, role in family(root, its_role).items()]


def kill(watched: Watched, victim: Victim, site: str) -> bool:
    """Kill a process, and start a hub again as systemd would; False where it is not there now."""
    try:
        pid = watched.pid(victim, site)
    except MissedError:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    if victim == "hub":
        hub = watched.federation.hub
        wait_until(lambda: hub.pid() is None, "the end of the hub's process", look_s=0.05)
        up = [str(Path(sys.executable).with_name("fedward")), "hub", "up", str(hub.folder), "--detach"]
        assert subprocess.run(up, capture_output=True, check=False, timeout=180).returncode == 0
    return True
