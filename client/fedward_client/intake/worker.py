"""Compressed pixels, DICOM's and pictures', are decoded in a process of their own.

The decoders are C and C++; a damaged JPEG, JPEG 2000 or TIFF stream can abort or hang the process that they run in.
Here that costs one file: the worker is started anew and the file is unreadable. The worker ends with its parent, leaves
no core dump (it would hold patients' data), and what the decoders print goes nowhere.
"""

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedward_client.volume import Volume
from fedward_common.errors import UnreadableFile

LIMIT_S = 300.0  # for one file

_lock = threading.Lock()
_workers: dict[int, "_Worker"] = {}  # by process id: after a fork, the child must not talk to its parent's worker


def read_volume(path: Path, *, picture: bool = False, voi: bool | None = None, stack: bool = False) -> Volume:
    """`dicom.decode`, or `pictures.read_pixels`, in the worker.

    Raises UnreadableFile, also where the decoder crashes or takes too long.
    """
    with _lock:
        worker = _workers.get(os.getpid())
        if worker is not None and worker.died():
            close()
            worker = None
        if worker is None:
            worker = _workers[os.getpid()] = _Worker()
        try:
            return worker.ask(path, picture, voi, stack)
        except (OSError, EOFError, ValueError):  # it died before or in its reply
            close()
            raise UnreadableFile("its pixels make the decoder crash, or take it too long") from None


@atexit.register
def close() -> None:
    """End this process's worker, if there is one."""
    worker = _workers.pop(os.getpid(), None)
    if worker is not None:
        worker.end()


class _Worker:
    def __init__(self) -> None:
        # -P: no module of the folder that happens to be the current one
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout

    def ask(self, path: Path, picture: bool, voi: bool | None, stack: bool) -> Volume:
        """One file's image; EOFError, OSError or ValueError where the worker died."""
        timer = threading.Timer(LIMIT_S, self._process.kill)
        timer.start()
        try:
            self._requests.write(json.dumps([os.fspath(path), picture, voi, stack]).encode() + b"\n")
            self._requests.flush()
            reply = json.loads(self._replies.readline())
            if "reason" in reply:
                raise UnreadableFile(reply["reason"])
            pixels = np.empty(reply["shape"], np.float32)
            if self._replies.readinto(pixels.data.cast("B")) != pixels.nbytes:  # type: ignore[attr-defined]
                raise EOFError
            affine, pixel_mm = reply["affine"], reply["pixel_mm"]
            return Volume(pixels, None if affine is None else np.array(affine), pixel_mm and tuple(pixel_mm))
        finally:
            timer.cancel()

    def died(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._replies.close()
        try:
            self._requests.close()
        except BrokenPipeError:
            return  # what was not sent is not missed


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    from fedward_client.intake.dicom import decode
    from fedward_client.intake.pictures import read_pixels

    while line := requests.readline():
        path, picture, voi, stack = json.loads(line)
        try:
            image = read_pixels(Path(path)) if picture else decode(Path(path), voi=voi, stack=stack)
        except UnreadableFile as error:
            replies.write(json.dumps({"reason": str(error)}).encode() + b"\n")
        else:
            affine = None if image.affine is None else image.affine.tolist()
            reply = {"shape": image.pixels.shape, "affine": affine, "pixel_mm": image.pixel_mm}
            replies.write(json.dumps(reply).encode() + b"\n")
            replies.write(np.ascontiguousarray(image.pixels).data.cast("B"))
        replies.flush()


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; this process ends with its input
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    _serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    _main()
