"""A series of samples in a CSV file, by a map of its columns (`SeriesMap`): what a site's own devices write."""

from array import array
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fedward_client.intake.delimited import rows
from fedward_client.intake.recording import Annotation, Recording, bounded, float32, gaps
from fedward_client.intake.series_map import SeriesMap
from fedward_common.errors import DataError, UnreadableFile

_LEAST_GOOD = 0.9  # of the rows; where fewer can be used, the file is not what its map says
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def read_series(path: Path, columns: SeriesMap, *, subject: str, run: str = "") -> Recording:
    """A CSV by its map. A row that cannot be used (a missing or wrong cell) is left out, counted, and a gap.

    Raises DataError for a map that does not fit the file, UnreadableFile for a file that cannot be read, has no usable
    row, or fewer than nine in ten.
    """
    header = columns.columns
    wanted = [*columns.channels, *filter(None, (columns.time, columns.annotation))]
    taken, positions, total = _Taken(), _positions(header, wanted) if header else None, 0
    for _, cells in rows(path, columns.text, wanted):
        if positions is None:
            header, positions = tuple(cells), _positions(tuple(cells), wanted)
            continue
        assert header is not None
        total += 1
        taken.add(_row(cells, positions, columns) if len(cells) == len(header) else None)
    if len(taken.annotation) < max(1.0, _LEAST_GOOD * total):
        raise UnreadableFile(f"only {len(taken.annotation)} of its {total} rows are as the map of its columns says")
    return taken.recording(columns, left_out=total - len(taken.annotation), subject=subject, run=run)


class _Taken:
    """The rows of a CSV that could be used, so far."""

    def __init__(self) -> None:
        self.values, self.times, self.annotation = array("d"), array("d"), array("b")
        self.breaks: set[int] = set()

    def add(self, row: tuple[list[float], float, int] | None) -> None:
        """The next row; None for one that cannot be used."""
        if row is None:
            self.breaks.add(len(self.annotation))
            return
        self.values.extend(row[0])
        self.times.append(row[1])
        self.annotation.append(row[2])
        bounded(len(self.values))

    def recording(self, columns: SeriesMap, *, left_out: int, subject: str, run: str) -> Recording:
        """What it comes to. Raises UnreadableFile where the times are not those of the map's rate."""
        count = len(self.annotation)
        jumps = gaps(np.array(self.times), columns.rate_hz) if columns.time is not None else ()
        annotation: Annotation = np.array(self.annotation, np.int8)
        return Recording(
            values=float32(np.frombuffer(self.values, np.float64).reshape(count, -1)),
            rate_hz=columns.rate_hz,
            channels=tuple(columns.channels.values()),
            annotation=annotation if columns.annotation is not None else None,
            words=columns.words,
            gaps=tuple(sorted({*jumps, *self.breaks} - {0, count})),
            left_out=left_out,
            subject=subject,
            run=run,
        )


def _positions(header: tuple[str, ...], wanted: list[str]) -> list[int]:
    for column in wanted:
        if header.count(column) != 1:
            raise DataError(f"the file has {header.count(column)} columns '{column}' instead of one; check the map")
    return [header.index(column) for column in wanted]


def _row(cells: list[str], positions: list[int], columns: SeriesMap) -> tuple[list[float], float, int] | None:
    """Channels, time in seconds and annotation of a row; None where a cell is missing or wrong."""
    found = [cells[position] for position in positions]
    annotation = columns.annotations.get(found.pop()) if columns.annotation is not None else 0
    try:
        time = _seconds(found.pop(), columns) if columns.time is not None else 0.0
        values = [columns.text.number(cell) for cell in found]
    except (ValueError, OverflowError):  # of a date, perhaps
        return None
    return None if annotation is None else (values, time, annotation)


def _seconds(cell: str, columns: SeriesMap) -> float:
    if columns.time_unit != "iso":
        return columns.text.number(cell) / _PER_SECOND[columns.time_unit]
    moment = datetime.fromisoformat(cell)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
