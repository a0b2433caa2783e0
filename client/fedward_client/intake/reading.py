"""Reads files on as many processors as the site gives: one row a file, whatever is in it.

For the catalog a row is an image, a mask of one, something that is no image, or a file in quarantine with its reason;
that takes headers and digests, no pixels. Others have other rows made of files (`Judge`). The processes end with this
one, which reads for itself what one that dies had at hand.
"""

import gc
import json
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from pkgutil import resolve_name
from types import TracebackType
from typing import Any, BinaryIO, Self

from fedward_client.intake import index, recordings, segmentation, tables
from fedward_client.intake.dicom import Header
from fedward_client.intake.files import digest, mask_of, read_header
from fedward_client.intake.quiet import quiet
from fedward_client.intake.recordings import is_recording
from fedward_client.intake.tables import is_table
from fedward_client.intake.walk import Entry, file_key
from fedward_client.site import Site
from fedward_common.errors import UnreadableFile

_STEP = 0.02  # by which this process's share of the files changes from batch to batch
ROWS = "rows of the table"  # no column
FEW = 64  # files that are read before a process would have started

Found = tuple[str, Entry]  # a file, and the pseudonym of its folder
Row = dict[str, Any]  # of what JSON has
Judge = Callable[[Site, str, Found], Row]  # site, key, file; a function of a module, by which a process finds it

_OF_HEADERS = tuple(field.name for field in fields(Header))
_of_header = attrgetter(*_OF_HEADERS)
_EMPTY: Row = {**dict.fromkeys(index.FILE_COLUMNS), "duplicate": False, "opted_out": False}

log = logging.getLogger(__name__)


class Readers:
    """Processes that read files, for a `with`; none is started for a few files, or where there is one processor."""

    def __init__(self, site: Site, judge: Judge | None = None) -> None:
        self._site, self._judge = site, judge or row
        self._wanted = site.threads or len(os.sched_getaffinity(0))
        self._processes: list[_Process] = []
        self._share = 0.0  # of the files, that this process reads itself where there are others
        self._left: list[tuple[str, Found]] = []
        self._asked: list[tuple[_Process, list[tuple[str, Found]]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.end()

    def rows(self, files: Mapping[str, Found]) -> list[Row]:
        """The rows of files, by their keys."""
        self.begin(files)
        return self.end()

    def begin(self, files: Mapping[str, Found]) -> None:
        """Have the other processes read their share of files; this one may do something else until `end`."""
        if self._wanted > 1 and not self._processes and len(files) >= FEW:
            self._processes = [_Process(self._site, self._judge) for _ in range(self._wanted - 1)]
        everything = list(files.items())
        ready = [process for process in self._processes if process.ready()]
        self._asked = []
        self._left = everything[: round(self._share * len(everything))] if ready else everything
        for number, process in enumerate(ready):
            if share := everything[len(self._left) + number :: len(ready)]:
                process.ask(share)
                self._asked.append((process, share))

    def end(self) -> list[Row]:
        """The rows of what was begun, this process's own share read now."""
        with quiet():
            rows = [self._judge(self._site, key, found) for key, found in self._left]
        if self._asked:
            # whoever waits for the others should have read more
            waits = not any(process.has_answered() for process, _ in self._asked)
            self._share = min(max(self._share + (_STEP if waits else -_STEP), 0.0), 1 / (len(self._asked) + 1))
        for process, share in self._asked:
            rows += self._answer(process, share)
        return rows

    def _answer(self, process: "_Process", share: list[tuple[str, Found]]) -> list[Row]:
        try:
            return process.answer()
        except (OSError, ValueError):
            log.warning("%s: a process that reads files died; this one goes on with its files", self._site.name)
            process.end()
            self._processes.remove(process)
            return [self._judge(self._site, key, found) for key, found in share]


class _Process:
    """One other process; it is asked and answers in lines of JSON."""

    def __init__(self, site: Site, judge: Judge) -> None:
        # -P: no module of the folder that happens to be the current one
        command = [sys.executable, "-P", "-m", __name__, os.fspath(site.folder), os.fspath(site.state)]
        command.append(f"{judge.__module__}:{judge.__qualname__}")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout
        self._ready = False

    def ready(self) -> bool:
        """Whether it has started: that takes it as long as this process takes for some thousand small files."""
        if not self._ready and select.select([self._answers], [], [], 0)[0]:
            self._answers.readline()  # its greeting, or nothing where it died, which the first answer tells
            self._ready = True
        return self._ready

    def has_answered(self) -> bool:
        """Whether an answer is there, or begins to be."""
        return bool(select.select([self._answers], [], [], 0)[0])

    def ask(self, files: list[tuple[str, Found]]) -> None:
        """Send files; one that has died is found out when it should answer."""
        lines = [
            (key, folder, os.fspath(one.path), one.size, one.mtime_ns, one.link, one.refused)
            for key, (folder, one) in files
        ]
        with suppress(OSError):
            self._questions.write(json.dumps(lines).encode() + b"\n")
            self._questions.flush()

    def answer(self) -> list[Row]:
        """Their rows. Raises ValueError or OSError where the process has died."""
        rows: list[Row] = json.loads(self._answers.readline())
        return rows

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._answers.close()
        with suppress(OSError):
            self._questions.close()


def _serve(site: Site, judge: Judge, questions: BinaryIO, answers: BinaryIO) -> None:
    answers.write(b"\n")
    answers.flush()
    with quiet():
        _answer(site, judge, questions, answers)


def _answer(site: Site, judge: Judge, questions: BinaryIO, answers: BinaryIO) -> None:
    while line := questions.readline():
        files = [
            (key, (folder, Entry(path=Path(path), size=size, mtime_ns=mtime_ns, link=link, refused=refused)))
            for key, folder, path, size, mtime_ns, link, refused in json.loads(line)
        ]
        answers.write(json.dumps([judge(site, key, found) for key, found in files]).encode() + b"\n")
        answers.flush()


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; this process ends with its input
    folder, state, judge = sys.argv[1:]
    site = Site.open(Path(folder), state=Path(state))
    gc.freeze()  # what is here stays, and rows have no cycles: to look through them takes a twentieth of the time
    gc.set_threshold(50_000)
    _serve(site, resolve_name(judge), sys.stdin.buffer, sys.stdout.buffer)


def row(site: Site, key: str, found: Found) -> dict[str, Any]:
    """A file's row, every column of it; of a table, those of its rows are in a list under `ROWS`."""
    folder, entry = found
    row = {**_EMPTY, "key": key, "folder": folder, "size": entry.size, "mtime_ns": entry.mtime_ns}
    if entry.link:
        return row | {"kind": "link"}
    try:
        if not entry.refused and is_table(site, entry.path):
            return row | {"kind": "table", ROWS: [row | each for each in _rows(site, key, entry)]}
        return row | _read(site, entry)
    except UnreadableFile as error:
        row |= {"kind": "quarantine", "reason": str(error)}
        # what the file system refused may be allowed tomorrow, without a change of the file's size or time
        return row | ({"size": -1} if isinstance(error.__cause__, OSError) or entry.refused else {})


def _read(site: Site, entry: Entry) -> dict[str, Any]:
    if entry.refused:
        raise UnreadableFile(entry.refused)
    if (image := mask_of(site, entry.path)) is not None:
        return {"kind": "mask", "detail": file_key(site, image), "content": digest(entry.path)}
    if is_recording(site, entry.path):
        return _recording(site, entry)
    header, content = read_header(site, entry.path)
    if header == "segmentation":
        series = segmentation.referenced_series(entry.path)
        return {"kind": "mask", "series": site.pseudonym("series", series), "content": digest(entry.path)}
    if not isinstance(header, Header):
        return {"kind": header}
    values: dict[str, Any] = dict(zip(_OF_HEADERS, _of_header(header), strict=True))
    instance = values.pop("instance_uid") or f"{header.patient_id} {content}"  # one patient's: others' are compared
    named = {
        "patient": values.pop("patient_id"),
        "study": values.pop("study_uid"),
        "series": values.pop("series_uid"),
        "accession": values.pop("accession"),
    }
    pseudonyms = {name: site.pseudonym(name, text) if text else "" for name, text in named.items()}
    return values | pseudonyms | {"kind": "image", "instance": site.pseudonym("instance", instance), "content": content}


def _recording(site: Site, entry: Entry) -> dict[str, Any]:
    recording, content = recordings.read(site, entry.path), digest(entry.path)
    patient = site.patient_of(recording.subject)
    return {
        "kind": "recording",
        "patient": site.pseudonym("patient", patient),
        "content": content,
        "instance": site.pseudonym("instance", f"{patient} {content}"),
        "detail": recordings.facts(recording),
        **dict.fromkeys(("study", "accession"), ""),
    }


def _rows(site: Site, key: str, entry: Entry) -> Iterator[dict[str, Any]]:
    """The rows of a table, usable ones and those left out."""
    assert site.table is not None
    table = tables.read(site, entry.path)
    for each in tables.rows(table, site.table.columns):
        # a row that does not say whose it is is a patient's of its own, and the same values may be another's
        patient = site.patient_of(each.patient) if each.patient else f"{key} {each.number}"
        instance = site.pseudonym("instance", f"{patient} {each.content}") if each.patient else None
        yield {
            "key": f"{key}-{each.number}",
            "kind": "row",
            "parent": key,
            "patient": site.pseudonym("patient", patient),
            "content": each.content,
            "instance": instance,
            "detail": each.facts,
            **dict.fromkeys(("study", "accession"), ""),
        }
    for number, reason in table.left_out:
        yield {"key": f"{key}-{number}", "kind": "quarantine", "parent": key, "reason": f"{tables.ROWS}{reason}"}


if __name__ == "__main__":
    _main()
