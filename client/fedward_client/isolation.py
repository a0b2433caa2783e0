"""Walls around a process: paths that it does not see, and no network where it has patients' data.

As a program it is the inner one: it puts up the walls around itself and becomes the command, under the same process id.

    python -m fedward_client.isolation WALLS COMMAND ...

Linux only, no rights needed: a user namespace, in it mounts that cover what is hidden, then no rights any more. It
refuses to go on where one wall cannot be put up. What was thought of, and what holds it back:

- Unmounting, in a nested namespace too: no capabilities; the kernel locks what it copies into a nested namespace.
- `..` out of a kept folder, links in it, file handles, overlays: all end in the covers, like every other path.
- Another process's root, files and memory (/proc/PID, ptrace, pidfd_getfd, setns): its rights end at its namespace.
- What was open or current before: files above 2 are closed, without network a socket of a network as 0 to 2 is
  refused, the current folder is entered anew.
- Programs that do for others what these may not (systemd, D-Bus, Docker, the resolver, X11, tmux): /run is hidden, and
  of /tmp what is theirs. Keys typed into the terminal: it is given up. Setuid programs: no_new_privs.
- Shared memory (/dev/shm, System V) and core dumps, where a process of the same account leaves pixels: its own, none.
- Abstract sockets belong to the network: no network, none; else none but its own from Linux 6.12 on, nor signals out.
- Sockets with no namespace (vsock), on x86_64 and aarch64: a filter, without network.

What walls cannot do, and who must:

- Paths are hidden, not data: another mount, a hard link, a snapshot or a file server shows it. Hide those paths too,
  and with network let it reach only the hub.
- A hidden path that is made, moved or replaced afterwards shows, and so does a file that is saved anew: hide the folder
  around it, and who started the process asks `reopened`.
- What it can write, others of its account may run or believe: `read_only` leaves the kept folders and /tmp, but for
  Fedward's own program there. Who reads there from outside follows no link, and keeps patients out of /tmp.
- Names show, in /proc/self/mountinfo and in command lines; contents do not.
- Root owns disks and kernel settings, and groups like disk and docker come near: run under an account of its own.
- Mounts made afterwards are not seen, and nothing of a site may be in /run or /dev/shm.
"""

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import fedward_common
from fedward_client import kernel, openings
from fedward_common.errors import SettingsError

_SERVICES = (Path("/run"), Path("/tmp/.X11-unix"), Path(f"/tmp/tmux-{os.getuid()}"))  # noqa: S108 -- hidden, not used
_NO_SERVICES = (Path("/run/media"), Path("/run/opengl-driver"))  # disks with data; NixOS: the GPU's libraries
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- made private
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 -- stays as it is
_OTHERWISE = "or run the site under its systemd units"


@dataclass(frozen=True, kw_only=True, slots=True)
class Walls:
    """What stands between a process and its machine. Paths are absolute; links are followed when the walls go up."""

    network: bool  # False: no network at all
    hidden: tuple[Path, ...]  # folders and files that it must not see; one may be in another, or not exist
    kept: tuple[Path, ...] = ()  # folders, inside hidden ones or not, that stay visible and writable at the same path
    read_only: bool = False  # it writes to kept and temporary folders only (Linux 5.12 and later)


class _View(Enum):
    """How a path is seen behind the walls."""

    HIDDEN, OPEN, FIXED = range(3)  # not at all; as it is, and writable; as it is, and read-only


def behind(walls: Walls, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` behind the walls, under the process id that starting it gives.

    Raises SettingsError where a path is not absolute, both hidden and kept, or to be kept and not there, or where the
    walls would hide Python or Fedward itself.
    """
    _plan(walls)
    return [sys.executable, "-P", "-m", __name__, _to_text(walls), *command]


def missing(walls: Walls) -> list[str]:
    """What is open of the walls around this process, whoever made them, a sentence each; [] where all hold.

    It tries: under systemd this asks for PrivateUsers, PrivateNetwork, RestrictAddressFamilies, NoNewPrivileges, and
    read-only covers (TemporaryFileSystem=PATH:ro, InaccessiblePaths).
    """
    found = [] if walls.network else list(openings.in_network())
    ways = {way for path in walls.kept for way in (path.resolve(), path.parent.resolve() / path.name)}
    found += [sentence for path in walls.hidden if (sentence := openings.in_path(path, ways)) is not None]
    if walls.read_only and any(os.access(path, os.W_OK) for path in _own_code()):
        found.append("it can change Fedward's own program")
    if openings.has_rights():
        found.append("it has rights to take walls down: its capabilities or no_new_privs are not as they should be")
    if openings.shares_users():
        found.append(
            "it has no user namespace of its own, so another process of its account can look in (/proc/PID/root)"
        )
    return found


def reopened(walls: Walls, pid: int) -> list[str]:
    """What process `pid` behind the walls sees since it was made, moved or replaced outside: end it, start it anew.

    For who started it, from outside; a sentence each. [] too where its walls are not up yet, or it has ended.
    """
    if not openings.is_walled(pid):
        return []
    shown = [path for path in walls.hidden if openings.is_same(path.resolve(), pid)]
    return [f"'{path.name}' was made, moved or replaced and is not hidden any more" for path in shown]


def impossible() -> str | None:
    """Why this user cannot put up walls on this machine and what to do, None where it can: it puts some up."""
    trial = behind(Walls(network=False, hidden=(), read_only=True), [sys.executable, "-I", "-S", "-c", ""])
    done = subprocess.run(trial, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip().removeprefix("fedward: ")


# What is hidden and what is not


def _plan(walls: Walls) -> dict[Path, _View]:
    """How each path that walls concern is seen; links followed, outermost first."""
    if not all(path.is_absolute() for path in (*walls.hidden, *walls.kept)):
        raise SettingsError("walls need absolute paths; give each hidden and each kept path from / on")
    hidden, kept = ({path.resolve() for path in paths} for paths in (walls.hidden, walls.kept))
    if hidden & kept:
        raise SettingsError("the same folder is to be hidden and to be kept in view; give it once")
    if absent := [path for path in kept if not path.is_dir()]:
        raise SettingsError(f"'{absent[0].name}' is to be kept in view and is no folder that exists; make it first")
    plan = dict.fromkeys(_SERVICES, _View.HIDDEN) | dict.fromkeys(_always_kept(walls), _View.OPEN)
    plan |= dict.fromkeys(hidden, _View.HIDDEN) | dict.fromkeys(kept, _View.OPEN)
    inside = any(path.is_relative_to(package) for path in hidden for package in _packages())
    if inside or not all(_shows(path, plan) for path in _own_code()):
        raise SettingsError(
            "what is to be hidden holds Fedward's own program or its Python, so nothing could start behind the walls; "
            "install Fedward outside the folders of the hospital"
        )
    if walls.read_only:
        plan = dict.fromkeys(_on_the_way_to_own_code(plan), _View.FIXED) | plan
    return dict(sorted(plan.items(), key=lambda item: len(item[0].parts)))


def _always_kept(walls: Walls) -> Iterator[Path]:
    """What is no service in the folder of services, and what must stay writable where the rest does not."""
    resolver = Path("/etc/resolv.conf").resolve().parent  # in /run, where a program of this machine writes it
    wanted = (
        *_NO_SERVICES,
        *((resolver,) if walls.network and _SERVICES[0] in resolver.parents else ()),
        *(_TEMPORARY if walls.read_only else ()),
    )
    return (path for path in wanted if path.is_dir())


def _on_the_way_to_own_code(plan: dict[Path, _View]) -> set[Path]:
    """What in a writable folder holds Fedward's own program: something else could be put in its place."""
    places = [place for place, view in plan.items() if view is _View.OPEN]
    return {
        place / code.relative_to(place).parts[0] for code in _own_code() for place in places if place in code.parents
    }


def _shows(path: Path, plan: dict[Path, _View]) -> bool:
    return next((plan[place] for place in (path, *path.parents) if place in plan), None) is not _View.HIDDEN


def _own_code() -> set[Path]:
    """The folders without which nothing starts behind the walls."""
    return _packages() | {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}


def _packages() -> set[Path]:
    assert fedward_common.__file__ is not None
    return {Path(file).resolve().parent for file in (__file__, fedward_common.__file__)}


def _to_text(walls: Walls) -> str:
    return json.dumps(asdict(walls), default=os.fspath)


def _from_text(text: str) -> Walls:
    fields = json.loads(text)
    return Walls(**fields | {name: tuple(map(Path, fields[name])) for name in ("hidden", "kept")})


# Putting walls up


def _enter(walls: Walls) -> None:
    """Put the walls up around this process, which has one thread. Raises SettingsError in words."""
    plan = _plan(walls)
    if not walls.network:
        _refuse_network_sockets()
    links = [(path, path.resolve()) for path in walls.kept]
    current = _current_folder()
    try:
        kernel.enter_namespaces(network=walls.network)
        _cover(plan, links, read_only=walls.read_only)
        _go_to(current)
        kernel.leave_terminal()
        kernel.forbid_core_dumps()
        kernel.close_on_exec()
        kernel.drop_rights()
        kernel.keep_to_itself()
        if not walls.network:
            kernel.allow_ordinary_sockets_only()
    except OSError as error:
        raise SettingsError(_why_not(error)) from None


def _cover(plan: dict[Path, _View], links: Sequence[tuple[Path, Path]], *, read_only: bool) -> None:
    """Empty folders over hidden ones, nothing over hidden files, and the kept folders put back at their paths.

    `links` are kept folders as they were given and where they really are.
    """
    seen = [path for path, view in plan.items() if view is not _View.HIDDEN]
    kept = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in seen}
    kernel.mount("none", Path("/"), flags=kernel.RECURSIVE | kernel.PRIVATE)
    if read_only:
        kernel.make_read_only(Path("/"))
    if _SHARED_MEMORY.is_dir():
        _mount_empty(_SHARED_MEMORY, "mode=1777")
    covers = []
    for path, view in plan.items():
        if path in kept:
            path.mkdir(parents=True, exist_ok=True)  # where a cover is around it
            kernel.mount(f"/proc/self/fd/{kept[path]}", path, flags=kernel.BIND | kernel.RECURSIVE)
            if read_only and view is _View.OPEN:
                kernel.make_writable(path)
        elif (mode := _mode(path)) is None:
            continue  # a cover around it hides it, or it is not there
        elif stat.S_ISDIR(mode):
            _mount_empty(path, "mode=755,size=1m")
            covers.append(path)
        else:
            kernel.mount(os.devnull, path, flags=kernel.BIND)
    _link_back(links)
    for path in covers:
        kernel.mount("none", path, flags=kernel.REMOUNT | kernel.READ_ONLY | kernel.NO_SUID | kernel.NO_DEVICES)


def _mount_empty(folder: Path, options: str) -> None:
    kernel.mount("none", folder, kind="tmpfs", flags=kernel.NO_SUID | kernel.NO_DEVICES, options=options)


def _link_back(links: Sequence[tuple[Path, Path]]) -> None:
    """A kept folder that was given by way of a link which is now hidden can be found by way of it again."""
    for path, real in links:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(real)


def _mode(path: Path) -> int | None:
    """What a path is, None where this user finds nothing."""
    with suppress(OSError):
        return path.stat().st_mode
    return None


def _refuse_network_sockets() -> None:
    """Standard input, output and error stay open. Python itself does not start where one of them is a folder."""
    for number in range(3):
        with suppress(OSError):  # it is closed, or no socket
            with socket.socket(fileno=os.dup(number)) as end:
                family = end.family
            if family != socket.AF_UNIX:
                raise SettingsError(
                    "standard input, output or error leads into a network; give a file, a pipe or a log"
                )


def _current_folder() -> Path:
    with suppress(FileNotFoundError):
        return Path.cwd()
    return Path("/")  # it was removed


def _go_to(folder: Path) -> None:
    """Into the folder that has this path now: the current one is still what it was before it was covered."""
    try:
        os.chdir(folder)
    except OSError:
        os.chdir("/")


def _why_not(error: OSError) -> str:
    """What the machine's settings say on why the kernel refused, and what to do."""
    if error.errno == errno.ENOSPC or _setting("user/max_user_namespaces") == "0":
        why, what = "its limit of namespaces is reached", "raise user.max_user_namespaces with sysctl"
    elif _setting("kernel/unprivileged_userns_clone") == "0":
        why, what = "ordinary users may not make user namespaces", "set kernel.unprivileged_userns_clone=1 with sysctl"
    elif _setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        why = "AppArmor gives user namespaces no rights"
        what = "set kernel.apparmor_restrict_unprivileged_userns=0 with sysctl"
    elif error.errno == errno.ENOSYS:
        why, what = "its kernel is older than Linux 5.12", "use a newer kernel"
    else:
        why, what = f"the kernel refuses: {error.strerror}", "allow user namespaces and mounts, if this is a container"
    return f"this machine does not let this user put up the walls ({why}); {what}, {_OTHERWISE}"


def _setting(name: str) -> str | None:
    with suppress(OSError):
        return Path("/proc/sys", name).read_text().strip()
    return None


def _main(arguments: list[str]) -> None:
    walls, command = _from_text(arguments[0]), arguments[1:]
    try:
        _enter(walls)
    except SettingsError as error:
        sys.exit(f"fedward: {error}")
    kernel.restore_signals()
    try:
        os.execvp(command[0], command)  # noqa: S606 -- the command is our caller's
    except OSError as error:
        sys.exit(f"fedward: '{Path(command[0]).name}' cannot be started behind the walls ({error.strerror})")


if __name__ == "__main__":
    _main(sys.argv[1:])
