"""The Linux calls that put walls around this process: Python has no names for them.

Each changes the calling process only, which must have one thread, and raises OSError where the kernel refuses. What is
to be hidden, and in which order, is for `isolation` to know.
"""

import ctypes
import errno
import fcntl
import os
import platform
import resource
import signal
import socket
import termios
from contextlib import suppress
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

# <sched.h>
_NEW_MOUNTS, _NEW_IPC, _NEW_USERS, _NEW_NETWORK = 0x00020000, 0x08000000, 0x10000000, 0x40000000
# <linux/mount.h>
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_AT_CWD, _AT_RECURSIVE = -100, 0x8000
# <linux/prctl.h>
_SET_SECCOMP, _BOUNDING_READ, _BOUNDING_DROP, _SET_NO_NEW_PRIVILEGES = 22, 23, 24, 38
# <linux/capability.h>
_CAPABILITY_VERSION_3 = 0x20080522
# Calls with the same number on every machine: <asm-generic/unistd.h>
_IO_URING_SETUP, _MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 425, 442, 444, 446
# <linux/landlock.h>
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2
# <linux/audit.h>: what the kernel calls a machine, and its number of socket(2)
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}


def enter_namespaces(*, network: bool) -> None:
    """User, mount and IPC namespaces of its own, and with `network` False an empty network, where not even lo is up.

    User and group stay what they are, so that files written here have their owner outside too. Other groups keep their
    rights but lose their names.
    """
    user, group = os.geteuid(), os.getegid()
    namespaces = _NEW_USERS | _NEW_MOUNTS | _NEW_IPC | (0 if network else _NEW_NETWORK)
    _checked(_libc.unshare(namespaces))
    Path("/proc/self/setgroups").write_text("deny")  # else an ordinary user may not map its group
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def mount(source: str, target: Path, *, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount `source`, whose file system is a `kind`, at `target`."""
    texts = [os.fsencode(text) for text in (source, target, kind)]
    _checked(_libc.mount(*texts, ctypes.c_ulong(flags), os.fsencode(options)))


def make_read_only(root: Path) -> None:
    """Every mount at `root` and below. Devices and sockets can be used as before. Linux 5.12 and later."""
    _set_mount(root, _AT_RECURSIVE, added=READ_ONLY, taken=0)


def make_writable(target: Path) -> None:
    """The mount at `target` alone: undoes `make_read_only`, but not what was read-only before. Linux 5.12 and later."""
    _set_mount(target, 0, added=0, taken=READ_ONLY)


def leave_terminal() -> None:
    """No controlling terminal any more, through which commands could be typed into the shell outside (TIOCSTI).

    A process that leads its session keeps it: nobody else in the session can be typed to.
    """
    if os.getsid(0) == os.getpid():
        return
    with suppress(OSError):  # there is none
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(terminal, termios.TIOCNOTTY)
        os.close(terminal)


def forbid_core_dumps() -> None:
    """A core dump holds patients' data, and the account may read what the system keeps of it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def close_on_exec() -> None:
    """No file but standard input, output and error is passed on."""
    for number in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 -- names, not paths
        if number > 2:
            with suppress(OSError):  # the listing's own
                os.set_inheritable(number, False)


def restore_signals() -> None:
    """What Python ignores, and would leave ignored in the command."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def drop_rights() -> None:
    """No capability in any of the five sets, and none to be had from a program on disk (no_new_privs)."""
    number = 0
    while _libc.prctl(_BOUNDING_READ, number, 0, 0, 0) >= 0:
        _checked(_libc.prctl(_BOUNDING_DROP, number, 0, 0, 0))
        number += 1
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()))
    _checked(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))


def keep_to_itself() -> None:
    """No signal and no abstract socket to a process that this one did not start, after `drop_rights`.

    Landlock's scopes, Linux 6.12 and later; an older kernel changes nothing.
    """
    rules = (ctypes.c_uint64 * 3)(0, 0, _ABSTRACT_SOCKETS | _SIGNALS)
    ruleset = _libc.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(ctypes.sizeof(rules)), 0)
    if ruleset >= 0:
        _checked(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
        os.close(ruleset)


class _Instruction(ctypes.Structure):
    """<linux/filter.h>: struct sock_filter."""

    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    """<linux/filter.h>: struct sock_fprog."""

    _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(_Instruction)))


def allow_ordinary_sockets_only() -> None:
    """Sockets of this machine and of IP, which have a namespace, and no others: vsock has none. After `drop_rights`.

    io_uring goes too, for its way to make sockets passes the filter. Machines other than x86_64 and aarch64 are left as
    they are.
    """
    if (machine := _MACHINES.get(platform.machine())) is None:
        return
    audit, socket_call = machine
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
    allow, refuse = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
    steps = (
        (load, 0, 0, 4),  # struct seccomp_data: arch
        (equal, 0, 10, audit),  # a 32-bit program has other numbers
        (load, 0, 0, 0),  # nr
        (at_least, 8, 0, 0x40000000),  # x32 has other numbers
        (equal, 7, 0, _IO_URING_SETUP),
        (equal, 0, 7, socket_call),
        (load, 0, 0, 16),  # args[0]
        (equal, 5, 0, socket.AF_UNIX),
        (equal, 4, 0, socket.AF_INET),
        (equal, 3, 0, socket.AF_INET6),
        (equal, 2, 0, socket.AF_NETLINK),
        (give, 0, 0, refuse | errno.EAFNOSUPPORT),
        (give, 0, 0, refuse | errno.ENOSYS),
        (give, 0, 0, allow),
    )
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), instructions)
    _checked(_libc.prctl(_SET_SECCOMP, 2, ctypes.byref(program), 0, 0))  # SECCOMP_MODE_FILTER


def _set_mount(target: Path, how: int, *, added: int, taken: int) -> None:
    """mount_setattr(2); struct mount_attr is four 64-bit numbers."""
    attributes = (ctypes.c_uint64 * 4)(added, taken, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _checked(_libc.syscall(_MOUNT_SETATTR, _AT_CWD, os.fsencode(target), how, attributes, size))


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
