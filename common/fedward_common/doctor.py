"""Whether this machine can run Fedward: a list of small checks, each a `Finding` with what to do about it."""

import importlib
import importlib.util
import os
import platform
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fedward_common.errors import FedwardError

Status = Literal["ok", "warn", "fail"]

MIB = 2**20
GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written to


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of `fedward doctor`: what was looked at, what was found, and what to do where it is not ok."""

    name: str
    status: Status
    found: str
    advice: str = ""

    @classmethod
    def refused(cls, name: str, error: FedwardError) -> "Finding":
        """A check that an error of ours ended; its sentence says what to do behind its last colon."""
        found, colon, advice = str(error).rpartition(": ")
        found, advice = (found, advice) if colon else (advice, "put that right, then ask again")
        return cls(name=name, status="fail", found=found, advice=advice)


Check = Callable[[Path], Finding]  # the folder that Fedward will write to


def examine(folder: Path) -> Iterator[Finding]:
    """Run every check, `folder` being where results would be written."""
    for check in CHECKS:
        yield check(folder)


def python_version(_folder: Path) -> Finding:
    """Whether this is a Python that Fedward supports."""
    wanted = metadata.metadata("fedward")["Requires-Python"]
    found = platform.python_version()
    if SpecifierSet(wanted).contains(found, prereleases=True):
        return Finding(name="python", status="ok", found=found)
    return Finding(name="python", status="fail", found=found, advice=f"install Fedward under a Python {wanted}")


def operating_system(_folder: Path) -> Finding:
    """Whether this is Linux."""
    found = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if sys.platform == "linux":
        return Finding(name="platform", status="ok", found=found)
    return Finding(name="platform", status="fail", found=found, advice="Fedward runs on Linux only")


EXTRAS = {"site": "a hospital", "hub": "the hub", "sim": "simulations and the demo"}


def packages(extra: str, _folder: Path) -> Finding:
    """Whether the packages of an extra are here, in versions that fit; extra "" are those that every command needs."""
    found, wrong = [], []
    for requirement in sorted(requirements(extra), key=lambda each: each.name.lower()):
        version = _installed(requirement.name)
        found.append(f"{requirement.name} {version or 'missing'}")
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name}{requirement.specifier}")
    name = f"packages [{extra}]" if extra else "packages"
    if not wrong:
        return Finding(name=name, status="ok", found=", ".join(found))
    install = f"pip install '{f'fedward[{extra}]' if extra else 'fedward'}'"
    purpose = f"to use this machine for {EXTRAS[extra]}: " if extra else ""
    advice = f"{', '.join(wrong)} needed; {purpose}{install}"
    return Finding(name=name, status="warn" if extra else "fail", found=", ".join(found), advice=advice)


def requirements(extra: str) -> set[Requirement]:
    """What an extra of Fedward asks for by itself; an extra that it names stands for that extra's own packages."""
    chosen: set[Requirement] = set()
    for requirement in map(Requirement, metadata.requires("fedward") or ()):
        if requirement.marker is None:
            wanted = extra == ""
        else:
            wanted = extra != "" and requirement.marker.evaluate({"extra": extra})
        if wanted and requirement.name != "fedward":
            chosen.add(requirement)
        elif wanted:
            chosen.update(*(requirements(other) for other in requirement.extras))
    return chosen


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def accelerator(_folder: Path) -> Finding:
    """What training would run on."""
    if importlib.util.find_spec("torch") is None:
        advice = "to train on this machine: pip install 'fedward[site]'"
        return Finding(name="training device", status="warn", found="torch is missing", advice=advice)
    import torch

    threads = f"{torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return Finding(name="training device", status="ok", found=f"{torch.cuda.get_device_name(0)}, {threads}")
    return Finding(name="training device", status="ok", found=f"CPU only, {threads}")


def disk(folder: Path, *, name: str = "disk", where: str = "the current folder") -> Finding:
    """Whether there is room for caches, checkpoints and results."""
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free in {where}"
    if free >= 5 * GIB:
        return Finding(name=name, status="ok", found=found)
    advice = "free at least 5 GiB: caches of images, checkpoints and results are written here"
    return Finding(name=name, status="warn" if free >= GIB // 2 else "fail", found=found, advice=advice)


def shared_memory(_folder: Path) -> Finding:
    """Whether worker processes can share arrays."""
    try:
        total = shutil.disk_usage(SHARED_MEMORY).total
    except OSError:
        advice = "mount a tmpfs there; worker processes share arrays through it"
        return Finding(name="shared memory", status="warn", found=f"{SHARED_MEMORY} is missing", advice=advice)
    found = f"{SHARED_MEMORY} has {total / MIB:.0f} MiB"
    if total >= 256 * MIB:
        return Finding(name="shared memory", status="ok", found=found)
    advice = "give it 256 MiB or more (a container: --shm-size=1g)"
    return Finding(name="shared memory", status="warn", found=found, advice=advice)


def writable(folder: Path) -> Finding:
    """Whether results can be written to the current folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding(name="write permission", status="ok", found="the current folder can be written to")
    except OSError as error:
        found = f"the current folder cannot be written to: {error.strerror}"
        return Finding(name="write permission", status="fail", found=found, advice="change to a folder of your own")


def telemetry(_folder: Path) -> Finding:
    """Whether Flower's telemetry is off; the `fedward` command turns it off unless told otherwise."""
    value = os.environ.get("FLWR_TELEMETRY_ENABLED")
    found = "FLWR_TELEMETRY_ENABLED is not set" if value is None else f"FLWR_TELEMETRY_ENABLED={value}"
    if value == "0":
        return Finding(name="telemetry", status="ok", found=found)
    advice = "set FLWR_TELEMETRY_ENABLED=0, or Flower reports use to its makers"
    return Finding(name="telemetry", status="warn", found=found, advice=advice)


def dicom_decoders(_folder: Path) -> Finding:
    """Whether compressed DICOM pixels can be decoded."""
    try:
        gdcm = importlib.import_module("gdcm")
    except ImportError as error:
        advice = "compressed DICOM images cannot be read; pip install 'fedward[site]'"
        return Finding(name="DICOM decoders", status="warn", found=f"python-gdcm: {error}", advice=advice)
    return Finding(name="DICOM decoders", status="ok", found=f"GDCM {gdcm.Version.GetVersion()}")


def open_files(_folder: Path) -> Finding:
    """How many files a process may hold open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return Finding(name="open files", status="ok", found="no limit")
    found = f"at most {limit} in a process"
    if limit >= 1024:
        return Finding(name="open files", status="ok", found=found)
    advice = "raise the limit, e.g. ulimit -n 4096"
    return Finding(name="open files", status="warn", found=found, advice=advice)


CHECKS: tuple[Check, ...] = (
    python_version,
    operating_system,
    *(partial(packages, extra) for extra in ("", *EXTRAS)),
    accelerator,
    disk,
    shared_memory,
    writable,
    telemetry,
    dicom_decoders,
    open_files,
)
