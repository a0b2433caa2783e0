"""The table of findings that [boxes] of site.toml names: where each is, by the pseudonym of its image.

Only the columns that are named there are taken. A row is told by its number, never by what stands in it.
"""

import posixpath
from collections import defaultdict
from typing import NamedTuple

from fedward_client.intake.delimited import TextFormat, rows
from fedward_client.site import Site
from fedward_common.errors import DataError, UnreadableFile


class Box(NamedTuple):
    """A finding: its kind in a study's words, its lower and its upper corner.

    Corners are in millimetres (to the left, to the back, to the head) or, of a picture, in pixels (column, row) with
    the picture's edge at 0. Of a row that cannot be used the kind is "", and there is no corner.
    """

    kind: str
    lower: tuple[float, ...]
    upper: tuple[float, ...]


UNUSABLE = Box("", (), ())


def read_boxes(site: Site) -> dict[str, list[Box]]:
    """The findings of the site's table by the pseudonym of an image's series or file, sorted; none without a table.

    Raises DataError where it cannot be used.
    """
    settings = site.boxes
    if settings is None:
        return {}
    found, header = defaultdict[str, list[Box]](list), list[str]()
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
            if image := row.get(settings.image):
                box = _box(site, row) if len(cells) == len(header) else UNUSABLE
                found[_key(site, image)].append(box)
    except UnreadableFile as error:
        raise DataError(f"the table of findings cannot be used: {error}") from None
    if not header:
        raise DataError("the table of findings is empty; it needs a row of column names")
    return {key: sorted(boxes) for key, boxes in found.items()}


def _key(site: Site, image: str) -> str:
    assert site.boxes is not None
    if site.boxes.by == "series":
        return site.pseudonym("series", image)
    return site.pseudonym("file", posixpath.normpath(image.replace("\\", "/")))


def _box(site: Site, row: dict[str, str]) -> Box:
    """A row's finding; of no use where its numbers are none, or it has no extent."""
    assert site.boxes is not None
    kind = site.labels.word(row[site.boxes.kind] if site.boxes.kind else site.boxes.label)
    try:
        numbers = [TextFormat().number(row[column]) for column in site.boxes.columns]
    except ValueError:
        return UNUSABLE
    if site.boxes.in_mm:
        *centre, diameter = numbers
        lower = tuple(each - diameter / 2 for each in centre)
        upper = tuple(each + diameter / 2 for each in centre)
    else:
        lower = tuple(numbers[:2])
        upper = tuple(low + length for low, length in zip(lower, numbers[2:], strict=True))
    whole = kind and all(low < high for low, high in zip(lower, upper, strict=True))
    return Box(kind, lower, upper) if whole else UNUSABLE
