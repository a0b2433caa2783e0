"""A table of patients in a CSV file, by a map of its columns (`TableMap`), as numbers for a model.

What is a feature, and which levels it has, the study says and not the data: every hospital gets the same columns. A row
that cannot be used is left out and told by its number and column, never by what stands in it.
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedward_client.intake.columns import BadRow, TableMap
from fedward_client.intake.delimited import rows
from fedward_common.errors import DataError, UnreadableFile

MAX_ROWS = 2**22
MAX_NUMBERS = 2**27  # rows times features: 512 MiB


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Table:
    """The usable rows of a table, in the order of the file.

    `features` [rows, names] are NaN where a value is missing; `patients` is the patient of each row, or "row 7" where
    the table has no such column; `targets` is the class of each row, or a number as text, "" where it is missing, ()
    without a target; `times` [rows] are those of follow-up, NaN where they are missing or the map names no column of
    them. `sexes` and `ages` [rows] are "" and None where they are not known, () without such a column. `missing` counts
    missing values by column; `left_out` has row number and reason.
    """

    features: npt.NDArray[np.float32] = field(repr=False)
    names: tuple[str, ...]
    numbers: tuple[int, ...]  # of each row in the file
    patients: tuple[str, ...] = field(repr=False)
    targets: tuple[str, ...] = field(repr=False)
    times: npt.NDArray[np.float64] = field(repr=False)
    sexes: tuple[str, ...] = field(repr=False)
    ages: tuple[int | None, ...] = field(repr=False)
    missing: dict[str, int]
    left_out: tuple[tuple[int, str], ...]


def read_table(path: Path, columns: TableMap) -> Table:
    """The rows of a table by its map. Rows are numbered as a spreadsheet does, from 1, the header included.

    Raises DataError for a map that does not fit the table, UnreadableFile for a file that cannot be read.
    """
    features, times, missing = array("f"), array("d"), Counter(dict.fromkeys(columns.feature_columns, 0))
    numbers: list[int] = []
    patients: list[str] = []
    targets: list[str] = []
    sexes: list[str] = []
    ages: list[int | None] = []
    left_out: list[tuple[int, str]] = []
    for number, row in _rows(path, columns):
        if row is None:
            left_out.append((number, "it has more or fewer cells than the table has columns"))
            continue
        try:
            values, absent = columns.values(row)
            target, patient = columns.target_of(row), columns.patient_of(row, number)
            time = columns.time_of(row)
        except BadRow as error:
            left_out.append((number, str(error)))
            continue
        features.extend(values)
        numbers.append(number)
        missing.update(absent)
        patients.append(patient)
        targets.extend(target)
        times.append(time)
        sexes.extend(columns.sex_of(row))
        ages.extend(columns.age_of(row))
    return Table(
        features=np.array(features, np.float32).reshape(len(patients), len(columns.names)),
        names=columns.names,
        numbers=tuple(numbers),
        patients=tuple(patients),
        targets=tuple(targets),
        times=np.array(times, np.float64),
        sexes=tuple(sexes),
        ages=tuple(ages),
        missing=dict(missing),
        left_out=tuple(left_out),
    )


def _rows(path: Path, columns: TableMap) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Number and cells by column of every row; None for a row whose cells are not those of the columns."""
    header = columns.columns
    if header is not None:
        _check(header, columns)
    count = 0
    for number, cells in rows(path, columns.text, columns.wanted):
        if header is None:
            header = tuple(cells)
            _check(header, columns)
            continue
        count += 1
        if count > MAX_ROWS or count * len(columns.names) > MAX_NUMBERS:
            raise UnreadableFile(
                f"it has more than {count - 1} rows of {len(columns.names)} features, too many for one file: split it"
            )
        fits = len(cells) == len(header) or (len(cells) > len(header) and not any(cells[len(header) :]))
        yield number, dict(zip(header, cells, strict=False)) if fits else None


def _check(header: tuple[str, ...], columns: TableMap) -> None:
    """Each wanted column is there once. Found columns are named only where one is known: a row may be a patient's."""
    known = [column for column in header if column in columns.wanted]
    for column in columns.wanted:
        if header.count(column) > 1:
            raise DataError(f"the table has {header.count(column)} columns named '{column}'; keep one")
        if column not in header:
            found = f", only {', '.join(map(repr, header))}" if known else f" among its {len(header)} columns"
            raise DataError(f"the table has no column '{column}'{found}; check the map of its columns")
