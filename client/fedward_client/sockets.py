"""gRPC over a site's unix sockets, open to the right users only.

gRPC for Python does not say who is calling. So each server listens in a folder that only its own process need see, and
a gate in front of it asks the kernel who the caller is (SO_PEERCRED; unix(7)) before it passes bytes on. Callers look
at a socket's owner and mode before they trust it.
"""

import asyncio
import logging
import os
import socket
import stat
import struct
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from fedward_common.errors import SettingsError

log = logging.getLogger(__name__)

_LONGEST = 100  # bytes of a path in a socket's address; sun_path has 108
_BLOCK = 65_536
MESSAGE_BYTES = 64 * 2**20  # names and shapes of 100,000 arrays
OPTIONS = (("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES))


def address(path: Path) -> str:
    """A socket's path, short enough for the kernel: through /proc, by the folder's descriptor, where it is too long."""
    if len(os.fsencode(path)) <= _LONGEST:
        return str(path)
    return f"/proc/self/fd/{_folder(path.parent)}/{path.name}"


@cache
def _folder(path: Path) -> int:
    """A folder's descriptor, open as long as the process lives."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def channel(path: Path) -> grpc.Channel:
    """A channel to the server behind a socket. Raises SettingsError where there is none or it cannot be trusted.

    It connects by itself: gRPC would share a connection with the process's other channels, and one that an earlier
    daemon refused it does not try again for a second.
    """
    check(path)
    options = (*OPTIONS, ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
    return grpc.insecure_channel(f"unix:{address(path)}", options=options)


def check(path: Path) -> None:
    """Raise SettingsError unless a socket is there, is this user's, and is closed to all others."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise SettingsError(
            f"{path.name} is not there: the site's daemon is not up; start it with `fedward site up`"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path.name} cannot be reached ({error.strerror}): run this as the site's user") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise SettingsError(f"{path.name} is no socket: remove it, then start the site's daemon again")
    if status.st_mode & 0o007:
        raise SettingsError(
            f"{path.name} can be used by every user of this machine (mode {stat.S_IMODE(status.st_mode):04o}): "
            "stop the daemon, find out who changed it, then start it again"
        )
    if status.st_uid != os.geteuid() or not os.access(path, os.W_OK):
        raise SettingsError(
            f"{path.name} belongs to the user with id {status.st_uid} (mode {stat.S_IMODE(status.st_mode):04o}): "
            f"run this as that user, e.g. sudo -u '#{status.st_uid}' …"
        )


def is_served(path: Path) -> bool:
    """Whether a process listens on a socket; one that a killed daemon left refuses. Raises as `check` does."""
    check(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address(path))
        except ConnectionRefusedError:
            return False
    return True


class Gate:
    """A gRPC server behind a unix socket at `path`, with mode 0600, for its own user alone.

    The server itself listens in the folder `inner`, which nobody may see who is not to call it. Use the gate as a
    context manager; it serves while it is open. Raises SettingsError where the socket cannot be made.
    """

    def __init__(self, path: Path, server: grpc.Server, *, inner: Path) -> None:
        self._path = path
        self._server = server
        self._inner = inner / f"{path.stem}.inner"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"gate {path.name}", daemon=True)
        self._open: set[asyncio.Task[None]] = set()
        self._gate: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._inner.unlink(missing_ok=True)  # what a killed daemon left
        self._server.add_insecure_port(f"unix:{address(self._inner)}")
        self._server.start()
        self._thread.start()
        try:
            self._gate = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        except OSError as error:
            self._stop()
            raise SettingsError(f"{self._path.name} cannot be made ({error.strerror}) in the state folder") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _stop(self) -> None:
        self._server.stop(grace=1.0).wait()
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _hang_up(self) -> None:
        if self._gate is not None:
            self._gate.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _listen(self) -> asyncio.Server:
        with suppress(FileNotFoundError):
            self._path.unlink()  # what a killed daemon left: the lock says that no other serves
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(address(self._path))
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(mask)
        return await asyncio.start_unix_server(self._let_in, sock=listener)

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if self._may_call(writer.get_extra_info("socket")):
                await self._relay(reader, writer)
            else:
                log.warning("%s: a caller of another user was turned away", self._path.name)
        except (OSError, asyncio.CancelledError):
            pass  # either side hung up
        finally:
            writer.close()
            self._open.discard(task)

    def _may_call(self, peer: socket.socket) -> bool:
        _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return bool(user == os.geteuid() != _nobody())  # behind walls every other user appears as nobody, root too

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(address(self._inner))
        pumps = [asyncio.create_task(_pump(reader, inner_writer)), asyncio.create_task(_pump(inner_reader, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            inner_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BLOCK):
        writer.write(data)
        await writer.drain()


def _nobody() -> int:
    """The id under which the kernel shows users that a user namespace does not know (user_namespaces(7))."""
    return int(Path("/proc/sys/kernel/overflowuid").read_text())
