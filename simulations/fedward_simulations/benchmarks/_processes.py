"""What processes take, read from /proc by the role that each plays."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

OTHER = "other"
_ROLES = {  # by a word of the command line
    "fedward_server.superlink_process": "superlink",
    "flower-superlink": "superlink",
    "flower-superexec": "superexec",
    "flwr-serverapp": "serverapp",
    "executor": "executor",
    "fedward_simulations.benchmarks._noop": "executor",
    "supernode": "supernode",
}


@dataclass(frozen=True, slots=True)
class Peaks:
    """The most memory that processes had in use, by role, in MiB. `roots`: what was started here, and its role."""

    roots: Mapping[int, str]
    mib: dict[str, float] = field(default_factory=dict)

    def look(self) -> None:
        """Look now: what has ended by then is not seen, and what lives is seen with its peak so far."""
        for pid, role in self.roots.items():
            for each, its_role in family(pid, role).items():
                self.mib[its_role] = max(self.mib.get(its_role, 0.0), peak_mib(each))


@dataclass(frozen=True, slots=True)
class Work:
    """The processor seconds that rounds take, by the role of processes. `roots`: as of `Peaks`."""

    roots: Mapping[int, str]
    _looks: list[tuple[int, dict[int, tuple[str, float]]]] = field(default_factory=list)

    def look(self, ended: int) -> None:
        """Look now, when so many rounds have ended."""
        now = {p: (r, cpu_s(p)) for pid, role in self.roots.items() for p, r in family(pid, role).items()}
        self._looks.append((ended, now))

    def by_role(self) -> dict[str, float]:
        """Seconds a round, of all processes of a role together. Without the first round, and those that have ended."""
        begun, first = next((look for look in self._looks[:-1] if look[0]), self._looks[0])
        ended, last = self._looks[-1]
        found: dict[str, float] = {}
        if ended == begun:  # all rounds went by between two looks
            return found
        for pid, (role, seconds) in last.items():
            more = (seconds - first.get(pid, (role, 0.0))[1]) / (ended - begun)
            found[role] = found.get(role, 0.0) + more
        return found


def family(pid: int, role: str) -> dict[int, str]:
    """A process in its `role`, and what it started, each in the role that its command line tells."""
    found = {pid: role}
    for child in _children(pid):
        found |= family(child, _role(child))
    return found


def peak_mib(pid: int) -> float:
    """The most memory that a process had in use so far, in MiB; 0 for one that is gone."""
    return _status_mib(pid, "VmHWM:")


def resident_mib(pid: int) -> float:
    """The memory that a process has in use, in MiB; 0 for one that is gone."""
    return _status_mib(pid, "VmRSS:")


def open_files(pid: int) -> int:
    """How many files and sockets a process has open; 0 for one that is gone."""
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names are enough
    return 0


def _status_mib(pid: int, field: str) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return 0.0


def peak_over(work: Callable[[], object]) -> float:
    """The most memory that this process takes for `work`, over what it has before, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use: proc(5)
    before = peak_mib(os.getpid())
    work()
    return peak_mib(os.getpid()) - before


def cpu_s(pid: int) -> float:
    """The processor seconds that a process has taken, to a hundredth; 0 for one that is gone."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime: proc(5)
    return 0.0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def _role(pid: int) -> str:
    with suppress(OSError):
        words = {Path(word).name for word in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")}
        return next((role for word, role in _ROLES.items() if word in words), OTHER)
    return OTHER
