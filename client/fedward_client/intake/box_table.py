"""The table of findings that [boxes] of site.toml names: where each is, by the pseudonym of its image.

Only the columns that are named there are taken. A row is told by its number, never by what stands in it.
"""

import posixpath
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from fedward_client.intake.delimited import TextFormat, rows
from fedward_client.site import Site
from fedward_common.errors import DataError, UnreadableFile


class Box(NamedTuple):
    """A finding: its kind in a study's words, its lower and its upper corner.

    Corners are in millimetres (to the left, to the back, to the head) or, of a picture, in pixels (column, row) with
    the picture's edge at 0.
    """

    kind: str
    lower: tuple[float, ...]
    upper: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxTable:
    """By the pseudonym of an image's series or file, its findings, sorted; how many rows could not be used."""

    boxes: dict[str, list[Box]] = field(default_factory=dict)
    left_out: int = 0


def read_boxes(site: Site) -> BoxTable:
    """The site's table; empty where it has none. Raises DataError where it cannot be used."""
    settings = site.boxes
    if settings is None:
        return BoxTable()
    found, left_out, header = defaultdict[str, list[Box]](list), 0, list[str]()
    try:
        for _, cells in rows(settings.file, TextFormat(), set(settings.wanted)):
            if not header:
                header = cells
                if missing := [name for name in settings.wanted if header.count(name) != 1]:
                    raise DataError(
                        f"the table of findings has not one column '{missing[0]}': name its columns under [boxes] in "
                        "site.toml"
                    )
                continue
            row = dict(zip(header, cells, strict=False))
            box = _box(site, row) if len(row) == len(header) and row[settings.image] else None
            if box is None:
                left_out += 1
            else:
                found[_key(site, row[settings.image])].append(box)
    except UnreadableFile as error:
        raise DataError(f"the table of findings cannot be used: {error}") from None
    if not header:
        raise DataError("the table of findings is empty; it needs a row of column names")
    return BoxTable(boxes={key: sorted(boxes) for key, boxes in found.items()}, left_out=left_out)


def _key(site: Site, image: str) -> str:
    assert site.boxes is not None
    if site.boxes.by == "series":
        return site.pseudonym("series", image)
    return site.pseudonym("file", posixpath.normpath(image.replace("\\", "/")))


def _box(site: Site, row: dict[str, str]) -> Box | None:
    """A row's finding; None where its numbers are none, or it has no extent."""
    assert site.boxes is not None
    kind = site.labels.word(row[site.boxes.kind] if site.boxes.kind else site.boxes.label)
    try:
        numbers = [TextFormat().number(row[column]) for column in site.boxes.columns]
    except ValueError:
        return None
    if site.boxes.in_mm:
        *centre, diameter = numbers
        lower = tuple(each - diameter / 2 for each in centre)
        upper = tuple(each + diameter / 2 for each in centre)
    else:
        lower = tuple(numbers[:2])
        upper = tuple(low + length for low, length in zip(lower, numbers[2:], strict=True))
    whole = kind and all(low < high for low, high in zip(lower, upper, strict=True))
    return Box(kind, lower, upper) if whole else None
