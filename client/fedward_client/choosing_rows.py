"""Which windows of a site's recordings, and which rows of its tables, a study takes.

Pure: the catalog's rows in, units of training out. Whatever is left out is counted, by reason.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from textwrap import shorten
from typing import NamedTuple

from fedward_client.catalog_rows import RecordingRow, TableRow
from fedward_client.choosing import Unit
from fedward_client.intake.columns import TableMap
from fedward_client.intake.recording import places
from fedward_client.intake.series_map import Channel
from fedward_client.labelling import Label
from fedward_common.errors import DataError
from fedward_common.study import CompoundInput, SequenceInput, SeriesInput, TableInput

OTHER_SIGNALS = "recordings without all of the study's signals"
OTHER_UNIT = "recordings in units of another kind"
SHORT = "recordings without a whole window"
INCOMPLETE = "rows with a missing value"
NO_TIME = "rows without a time of follow-up"
TWO_TIMES = "patients whose rows differ in the time of follow-up or in how it ended"


class _Unit(NamedTuple):
    """A unit of measurement: of which kind, and how many of the kind's first one it is."""

    kind: str
    factor: float


_STANDARD_GRAVITY = 9.80665  # m/s2; BIPM, The International System of Units, 9th edition
_UNITS: Mapping[str, _Unit] = {
    "mg": _Unit("acceleration", 1.0),
    "g": _Unit("acceleration", 1e3),
    "m/s2": _Unit("acceleration", 1e3 / _STANDARD_GRAVITY),
    "deg/s": _Unit("rotation", 1.0),
    "rad/s": _Unit("rotation", 57.29577951308232),
    "N": _Unit("force", 1.0),
    "uV": _Unit("voltage", 1.0),
    "mV": _Unit("voltage", 1e3),
    "V": _Unit("voltage", 1e6),
    "bpm": _Unit("rate", 1.0),
    "1": _Unit("number", 1.0),
}


def factor(unit: str, into: str) -> float | None:
    """What a value in `unit` is multiplied by to be one `into` another; None where they are of different kinds."""
    own, wanted = _UNITS.get(unit), _UNITS[into]
    return None if own is None or own.kind != wanted.kind else own.factor / wanted.factor


def positions(channels: Iterable[Channel], section: SeriesInput) -> list[int] | None:
    """Where the study's signals are among the channels of a recording, by name but for case; None without one."""
    place = {channel.name.casefold(): index for index, channel in enumerate(channels)}
    found = [place.get(signal.casefold()) for signal in section.signals]
    return None if None in found else [index for index in found if index is not None]


def windows(recordings: Iterable[RecordingRow], section: SeriesInput, left_out: Counter[str]) -> list[Unit]:
    """The windows of recordings; the word of each is what an observer said of most of it, else the group it is in."""
    units: list[Unit] = []
    for row in recordings:
        signals = positions(row.recording.channels, section)
        if signals is None:
            left_out[OTHER_SIGNALS] += 1
        elif any(factor(row.recording.channels[index].unit, section.unit) is None for index in signals):
            left_out[OTHER_UNIT] += 1
        elif found := _windows(row, section):
            units += found
        else:
            left_out[SHORT] += 1
    return units


def _windows(row: RecordingRow, section: SeriesInput) -> list[Unit]:
    step = section.window_s if section.step_s is None else section.step_s
    starts, _, notes = places(row.recording, seconds=section.window_s, step_seconds=step)
    words = (
        [row.recording.group] * len(starts)
        if notes is None
        else [row.recording.words.get(int(note), "") for note in notes]
    )
    return [
        Unit(
            key=f"{row.key}-{start:010d}",  # so that those of one recording sort by time
            patient=row.patient,
            files=(row.key,),
            content=row.content,
            names=(row.names,),
            at=start,
            word=word,
        )
        for start, word in zip(starts.tolist(), words, strict=True)
    ]


def rows(
    table_rows: Iterable[TableRow],
    section: CompoundInput | SequenceInput | TableInput,
    columns: TableMap | None,
    left_out: Counter[str],
    site: str,
) -> list[Unit]:
    """The rows of tables. Raises DataError where the site's map of columns lacks a feature."""
    if columns is None:
        raise DataError(
            f"{site}: the study takes tables; name their files and the map of their columns under [table] in "
            "site.toml, then run `fedward site scan`"
        )
    wanted, known = set(section.features), set(columns.names)
    if absent := [name for name in section.features if name not in known]:
        raise DataError(
            f"{site}: the map of the table's columns has no feature '{absent[0]}' of the study's; it has "
            f"{shorten(', '.join(columns.names), 1000, placeholder=' …')}"
        )
    units: list[Unit] = []
    for row in table_rows:
        if section.missing == "leave-out" and wanted.intersection(row.missing):
            left_out[INCOMPLETE] += 1
        else:
            units.append(
                Unit(
                    key=row.key,
                    patient=row.patient,
                    files=(row.file,),
                    content=row.content,
                    names=(row.names,),
                    at=row.number,
                    word=row.target,
                    time=row.time,
                )
            )
    return units


def followed(
    units: Sequence[Unit], labels: Mapping[str, Label], columns: TableMap | None, left_out: Counter[str], site: str
) -> list[Unit]:
    """Of rows with a label, by key in `labels`, those that say how long their patient was followed until then.

    A patient whose rows differ has no one time to an event and is left out. Raises DataError where the site's map of
    columns names no column of times.
    """
    if columns is None or columns.time is None:
        raise DataError(
            f"{site}: the study looks at the time until an event, and the map of the table's columns names none: "
            'add time = "…", the column of follow-up, and run `fedward site scan` again'
        )
    timed = [unit for unit in units if unit.time is not None]
    left_out[NO_TIME] += len(units) - len(timed)
    ends: dict[str, set[tuple[float | None, Label]]] = defaultdict(set)
    for unit in timed:
        ends[unit.patient].add((unit.time, labels[unit.key]))
    left_out[TWO_TIMES] += sum(len(found) > 1 for found in ends.values())
    return [unit for unit in timed if len(ends[unit.patient]) == 1]
