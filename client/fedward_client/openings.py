"""Tries the walls around this process: what it can reach or see that it should not.

Nothing is sent and nothing is written. A sentence names a path by its last part only.
"""

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

_DOCUMENTATION = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))  # RFC 5737, RFC 3849
_CLOSED = (errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_FLAGS_OF_INTERFACE, _UP = 0x8913, 1  # SIOCGIFFLAGS, IFF_UP


def in_network() -> Iterator[str]:
    """A sentence for each way out."""
    for name in _interfaces():
        if name != "lo" and _is_up(name):
            yield f"the network is open: interface {name} is up"
    if _has_route():
        yield "the network is open: there is a route"
    for family, address in _DOCUMENTATION:
        if _reaches(family, address):
            yield f"the network is open: a packet to {address} would leave"
    if _opens(socket.AF_VSOCK):
        yield "the network is open: a vsock connection to the machine's host or its guests would leave"


def in_path(path: Path, ways: Set[Path]) -> str | None:
    """How a hidden path can be seen after all, but for the `ways` to what is kept; None where it cannot."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if stat.S_ISDIR(mode):
        if _lists(path.resolve(), ways):
            return f"the folder '{path.name}' is not hidden: what is in it shows"
        kind = "folder"
    elif stat.S_ISSOCK(mode):
        return f"the socket '{path.name}' is not hidden"
    elif _reads(path):
        return f"the file '{path.name}' is not hidden: it can be read"
    else:
        kind = "file"
    # an empty one that it can write to is the real one, for a cover is read-only; a device takes what is written to it
    writable = not stat.S_ISCHR(mode) and os.access(path, os.W_OK)
    return f"the {kind} '{path.name}' is not hidden: it can be written to" if writable else None


def has_rights() -> bool:
    """Whether it has a capability or could get one, with which to take walls down."""
    status = _status("self")
    return status["NoNewPrivs"] != "1" or any(int(status[name], 16) for name in ("CapEff", "CapPrm", "CapAmb"))


def shares_users() -> bool:
    """Whether it is in the machine's first user namespace, where its account's other processes may look into it."""
    with suppress(FileNotFoundError):  # a kernel without user namespaces
        return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    return True


def is_walled(pid: int) -> bool:
    """Whether the walls around another process of this user are up; False where it is gone."""
    with suppress(OSError):
        elsewhere = Path(f"/proc/{pid}/ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink()
        return elsewhere and int(_status(pid)["CapEff"], 16) == 0
    return False


def is_same(path: Path, pid: int) -> bool:
    """Whether the file or folder at `path`, free of links, is at this path for the other process too."""
    with suppress(OSError):
        return path.samefile(f"/proc/{pid}/root{path}")
    return False


def _status(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _interfaces() -> list[str]:
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    return [line.split(":", 1)[0].strip() for line in lines]


def _is_up(name: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asker:
        reply = fcntl.ioctl(asker, _FLAGS_OF_INTERFACE, struct.pack("16sH14x", name.encode(), 0))
    return bool(struct.unpack("16xH14x", reply)[0] & _UP)


def _has_route() -> bool:
    """A route over another interface than lo."""
    with suppress(FileNotFoundError):
        if Path("/proc/self/net/route").read_text().splitlines()[1:]:
            return True
    with suppress(FileNotFoundError):  # no IPv6
        return any(line.split()[-1] != "lo" for line in Path("/proc/self/net/ipv6_route").read_text().splitlines())
    return False


def _reaches(family: socket.AddressFamily, address: str) -> bool:
    """Whether a packet would find its way."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as end:
            end.connect((address, 9))
    except OSError as error:
        return error.errno not in _CLOSED
    return True


def _opens(family: socket.AddressFamily) -> bool:
    with suppress(OSError), socket.socket(family, socket.SOCK_STREAM):
        return True
    return False


def _lists(folder: Path, ways: Set[Path]) -> bool:
    """Whether the folder shows anything but kept folders and the ways to them."""
    try:
        entries = list(folder.iterdir())
    except OSError:
        return False
    return any(
        entry not in ways and (not any(entry in way.parents for way in ways) or _lists(entry, ways))
        for entry in entries
    )


def _reads(path: Path) -> bool:
    with suppress(OSError):
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return bool(os.read(number, 1))
        finally:
            os.close(number)
    return False
