"""Logs of every process: lines of text, or of JSON for programs that collect them; neither holds an identifier.

It is done where a line is written, so it holds for whatever logs, libraries included: see `blanking`.
"""

import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

from fedward_common.blanking import blank, named, traced
from fedward_common.errors import FedwardError

Format = Literal["text", "json"]

BYTES, KEPT = 10 * 2**20, 5  # of a file that is begun anew, and how many older ones stay
FEDWARD = ("fedward_common", "fedward_client", "fedward_server", "fedward_simulations")
CHATTY = ("alembic", "flwr", "httpx", "uvicorn")  # of which only warnings are logged

log = logging.getLogger(__name__)


class Formatter(logging.Formatter):
    """One line a record, and below it where an error was raised. `hidden` are folders whose paths are blanked."""

    def __init__(self, form: Format = "text", hidden: Iterable[Path] = ()) -> None:
        super().__init__()
        self._form = form
        self._blank = blank(hidden)

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        message = self._blank(_message(record))
        error = record.exc_info[1] if record.exc_info else None
        lines = [self._blank(line) for line in traced(error)] if error is not None else []
        if self._form == "text":
            return "\n".join([f"{self.formatTime(record)} {record.levelname} {record.name}: {message}", *lines])
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": message,
        }
        return json.dumps(said | ({"error": "\n".join(lines)} if lines else {}), ensure_ascii=False)


def _message(record: logging.LogRecord) -> str:
    args = record.args
    if isinstance(args, Mapping):
        args = {name: _said(value) for name, value in args.items()}
    elif args:
        args = tuple(_said(value) for value in args)
    text = str(_said(record.msg))
    try:
        return text % args if args else text
    except (TypeError, ValueError, KeyError):
        return text  # they do not fit; logging itself would print them


def _said(value: Any) -> Any:
    """An error as its sentence, where that is Fedward's own; anything else as it is."""
    return named(value) if isinstance(value, BaseException) and not isinstance(value, FedwardError) else value


# Where they go -------------------------------------------------------------------------------------------------------


def to_file(path: Path, form: Format = "text", hidden: Iterable[Path] = (), *, turned: bool = False) -> logging.Handler:
    """Appends to a file; one that is `turned` is one process's, and begun anew when it is long."""
    bytes_ = BYTES if turned else 0
    handler = RotatingFileHandler(path, maxBytes=bytes_, backupCount=KEPT, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(Formatter(form, hidden))
    return handler


def to_terminal(form: Format = "text", hidden: Iterable[Path] = ()) -> logging.Handler:
    """Warnings, on standard error."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(Formatter(form, hidden))
    return handler


@contextmanager
def fedward_to(handler: logging.Handler) -> Iterator[None]:
    """While the block runs, what Fedward logs and Flower warns of goes to a handler, and nowhere else."""
    loggers = [logging.getLogger(name) for name in (*FEDWARD, "flwr")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.handlers = [handler]
        logger.setLevel(logging.WARNING if logger.name in CHATTY else logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()


def process_to(*handlers: logging.Handler) -> None:
    """All that this process logs goes to these from now on, and so does what Python would print, with values in it."""
    logging.basicConfig(level=logging.INFO, handlers=handlers)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).handlers.clear()  # Flower's own prints to the terminal, past the filter
    logging.raiseExceptions = False  # it would print what cannot be written, on a full disk for example
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    warnings.showwarning = _warned


def _uncaught(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    log.critical("this process ends", exc_info=error)


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    log.critical("a thread ends", exc_info=args.exc_value)


def _warned(  # noqa: PLR0917 - as Python calls it
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del message, file, line
    log.warning("%s in %s, line %d", category.__name__, Path(filename).name, lineno)
