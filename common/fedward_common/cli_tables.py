"""Rows and pairs on a terminal."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer

_PIPED = 1000


def show_rows(rows: Sequence[dict[str, Any]], as_json: bool, columns: Sequence[str] | None = None) -> None:
    """All of the rows as JSON, or a table of those columns that a person looks for."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = columns or tuple(rows[0])
    table = Table(*columns)
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(Text(_cell(row[column])) for column in columns))
    console = Console()
    if not console.is_terminal:
        console.width = _PIPED  # what reads on takes lines of any length
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} = {item}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if value is None:
        return ""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def show_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Headings, and beside each its text."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for heading, text in pairs:
        grid.add_row(Text(heading, style="bold"), Text(text, overflow="fold"))
    Console().print(grid)
