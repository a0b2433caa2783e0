"""Tables of what figures show: on a page, and as CSV (RFC 4180) with every digit."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from fedward_server.figures.blocks import Figure

Cell = str | int | float | Figure | None

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would calculate what begins so


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns, of which `figures` have intervals. An empty cell is None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    figures: frozenset[str] = frozenset()

    def csv(self) -> str:
        """The table as a file; a figure takes three columns: its name, _low and _high."""
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow([name for column in self.columns for name in self._names(column)])
        for row in self.rows:
            writer.writerow(
                [value for column, cell in zip(self.columns, row, strict=True) for value in self._values(column, cell)]
            )
        return file.getvalue()

    def _names(self, column: str) -> list[str]:
        return [column, f"{column}_low", f"{column}_high"] if column in self.figures else [column]

    def _values(self, column: str, cell: Cell) -> Iterator[object]:
        if column not in self.figures:
            yield f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
        elif isinstance(cell, Figure):
            yield from (cell.value, cell.low, cell.high)
        else:
            yield from (None, None, None)

    def without_empty(self) -> "Table":
        """The table without the columns in which nothing stands."""
        kept = [index for index in range(len(self.columns)) if any(row[index] is not None for row in self.rows)]
        return Table(
            columns=tuple(self.columns[index] for index in kept),
            rows=tuple(tuple(row[index] for index in kept) for row in self.rows),
            figures=self.figures,
        )
