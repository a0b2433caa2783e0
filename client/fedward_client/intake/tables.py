"""Tables as the catalog has them: a row for each usable row of a file, with whose it is and what it says is so."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedward_client.intake.columns import TableMap
from fedward_client.intake.tabular import Table, read_table
from fedward_client.site import Site
from fedward_common.errors import DataError, UnreadableFile

ROWS = "a row of a table: "  # how the reason begins why a row was left out

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFacts:
    """One usable row: its number in the file, whose it is, its target ("" without one), the columns it lacks.

    `time` is that of follow-up, None without one; so is `age` in years, and "" a `sex` that is not known.
    """

    number: int
    patient: str = field(repr=False)  # "" where the table does not say
    target: str = field(repr=False)
    time: float | None = field(repr=False)
    sex: str = field(repr=False)
    age: int | None = field(repr=False)
    missing: tuple[str, ...]
    content: str  # hex BLAKE2b of its features, target and time

    @property
    def facts(self) -> str:
        """What the catalog keeps of it, as JSON."""
        said = {"number": self.number, "target": self.target, "missing": self.missing}
        more = {"time": self.time, "sex": self.sex or None, "age": self.age}
        return json.dumps(said | {key: value for key, value in more.items() if value is not None})


def is_table(site: Site, path: Path) -> bool:
    """Whether a file is one of the tables that site.toml names."""
    return site.table is not None and site.table.reads(path)


def read(site: Site, path: Path) -> Table:
    """A table of the site. Raises UnreadableFile with a reason in words, also where the map does not fit it."""
    assert site.table is not None
    try:
        return read_table(path, site.table.columns)
    except DataError as error:  # it may fit the others
        raise UnreadableFile(str(error)) from None


def rows(table: Table, columns: TableMap) -> Iterator[RowFacts]:
    """The usable rows of a table, in the order of the file."""
    for place, number in enumerate(table.numbers):
        yield RowFacts(
            number=number,
            patient=table.patients[place] if columns.patient is not None else "",
            target=table.targets[place] if table.targets else "",
            time=None if isnan(time := float(table.times[place])) else time,
            sex=table.sexes[place] if table.sexes else "",
            age=table.ages[place] if table.ages else None,
            missing=columns.missing_in(table.features[place]),
            content=content_of(table, place),
        )


def content_of(table: Table, place: int) -> str:
    """What names the content of a row, at its place among the usable ones."""
    digest = hashlib.blake2b("\0".join(table.names).encode(), digest_size=32)
    digest.update(table.features[place].astype("<f4").tobytes())
    digest.update((table.targets[place] if table.targets else "").encode())
    if not isnan(table.times[place]):
        digest.update(b"\0" + table.times[place].astype("<f8").tobytes())
    return digest.hexdigest()
