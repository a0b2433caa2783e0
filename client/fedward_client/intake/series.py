"""A series of samples in a CSV file, by a map of its columns (`SeriesMap`): what a site's own devices write."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from fedward_client.intake.delimited import TextFormat, rows
from fedward_client.intake.recording import Annotation, Channel, Recording, bounded, float32, gaps
from fedward_common.errors import DataError, SettingsError, UnreadableFile

_LEAST_GOOD = 0.9  # of the rows; where fewer can be used, the file is not what its map says
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesMap:
    """What the columns of a CSV file are, by their names in the first row, or in `columns` where that has no names.

    `time_unit` iso is ISO 8601, UTC where it names no zone. `annotations` says by the text of the annotation column
    what a sample is: 1 to 127, or 0 where it is outside the experiment. Raises SettingsError for a map that is none.
    """

    channels: Mapping[str, Channel]  # by column
    rate_hz: float
    time: str | None = None
    time_unit: Literal["s", "ms", "us", "ns", "iso"] = "s"
    annotation: str | None = None
    annotations: Mapping[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    text: TextFormat = field(default_factory=TextFormat)

    def __post_init__(self) -> None:
        if not self.channels or not self.rate_hz > 0:
            raise SettingsError("a map of a series' columns needs channels and a rate_hz above 0")
        if not all(0 <= value <= 127 for value in self.annotations.values()):
            raise SettingsError("annotations are 1 to 127, or 0 for what is outside the experiment")


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
