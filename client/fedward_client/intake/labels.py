"""The label table: a CSV file with a column of patient ids and a column of labels, as spreadsheets write it.

Only the label and one column to split by ("split", or what a study names) are taken, under the patient's pseudonym:
names and birth dates that a table may hold as well are read past. Ids are compared as text, exactly but for white space
around them: "007" is not "7". Where a BIDS folder has no table of its own, its participants.tsv is one: sub-01 there
is the patient 01, and n/a is an empty cell.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from fedward_client.intake.bids_names import MISSING
from fedward_client.site import Site
from fedward_common.errors import DataError

SPLIT = "split"
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTable:
    """By patient pseudonym, the columns that a study may use; and how many rows or patients were left out, and why."""

    rows: dict[str, dict[str, str]]
    conflicts: int = 0  # patients with two different labels or splits
    without_label: int = 0  # rows
    without_patient: int = 0  # rows
    misaligned: int = 0  # rows with more cells than the header: which cell is which is not known


def read_labels(site: Site, *, split: str = SPLIT) -> LabelTable:
    """The label table of a site, an empty one where it has none; `split` is the column that a study splits by.

    Raises DataError when the table cannot be read, is empty, or lacks a column.
    """
    if site.labels.file is None:
        return LabelTable(rows={})
    header, rows = _rows(_text(site), {site.labels.patient, site.labels.label})
    patient, label = _position(header, site.labels.patient, site), _position(header, site.labels.label, site)
    kept = {header[label]: label, **({split: _position(header, split, site)} if split in header else {})}
    return _table(site, rows, len(header), patient, kept)


def patient_ids(site: Site) -> tuple[str, ...]:
    """The ids of the label table's patients, each once: to ask the hospital's own archive for them, for nothing else.

    Raises DataError when there is no table, it cannot be read, is empty, or lacks the column.
    """
    if site.labels.file is None:
        raise DataError(f"site '{site.name}' has no label table; put one into its folder, or name it under [labels]")
    header, rows = _rows(_text(site), {site.labels.patient, site.labels.label})
    patient = _position(header, site.labels.patient, site)
    return tuple(dict.fromkeys(cells[patient] for cells in rows if len(cells) > patient and cells[patient]))


def _table(site: Site, rows: Iterator[list[str]], width: int, patient: int, kept: dict[str, int]) -> LabelTable:
    found: dict[str, dict[str, str]] = {}
    conflicts: set[str] = set()
    without_label = without_patient = misaligned = 0
    for cells in rows:
        row = [_cell(site, cell) for cell in cells] + [""] * (width - len(cells))
        if any(row[width:]):
            misaligned += 1
        elif not row[patient]:
            without_patient += 1
        elif not row[kept[site.labels.label]]:
            without_label += 1
        else:
            name = site.pseudonym("patient", site.patient_of(row[patient]))
            values = {column: row[position] for column, position in kept.items()}
            if found.setdefault(name, values) != values:
                conflicts.add(name)
    return LabelTable(
        rows={name: values for name, values in found.items() if name not in conflicts},
        conflicts=len(conflicts),
        without_label=without_label,
        without_patient=without_patient,
        misaligned=misaligned,
    )


def _cell(site: Site, cell: str) -> str:
    return "" if site.bids and cell == MISSING else cell


def _text(site: Site) -> str:
    assert site.labels.file is not None
    try:
        data = site.labels.file.read_bytes()
    except OSError as error:
        raise DataError(f"the label table cannot be read: {error.strerror}") from None
    encoding = site.labels.encoding
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise DataError(
            f"the label table is not {encoding} text: save it as UTF-8, or name its encoding under [labels] encoding "
            "in site.toml (Excel writes gb18030 in China, cp1252 in western Europe)"
        ) from None


def _rows(text: str, wanted: set[str]) -> tuple[list[str], Iterator[list[str]]]:
    """Header and rows, cells stripped, blank rows left out. The header alone says which delimiter it is."""
    headers = {delimiter: next(_stripped(text, delimiter), None) for delimiter in _DELIMITERS}

    def fit(delimiter: str) -> tuple[int, int]:
        header = headers[delimiter] or []
        return len(wanted & set(header)), len(header)

    rows = _stripped(text, max(_DELIMITERS, key=fit))
    header = next(rows, None)
    if header is None:
        raise DataError("the label table is empty; it needs a row of column names and a row for each patient")
    return header, rows


def _stripped(text: str, delimiter: str) -> Iterator[list[str]]:
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            row = [cell.strip() for cell in cells]
            if any(row):
                yield row
    except csv.Error as error:
        raise DataError(f"the label table is not CSV: {error}") from None


def _position(header: list[str], column: str, site: Site) -> int:
    """Where a column is. Found columns are named, unless none is known: then the first row may be a patient's."""
    if header.count(column) > 1:
        raise DataError(f"the label table has {header.count(column)} columns named '{column}'; keep one")
    if column in header:
        return header.index(column)
    advice = "name the table's own columns under [labels] in site.toml"
    if not {site.labels.patient, site.labels.label} & set(header):
        raise DataError(
            f"the first row of the label table names neither '{site.labels.patient}' nor '{site.labels.label}' "
            f"among its {len(header)} columns; {advice}"
        )
    raise DataError(f"the label table has no column '{column}', only {', '.join(map(repr, header))}; {advice}")
