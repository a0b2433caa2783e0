"""Which images are shown: a few of every kind, from different patients, the same ones for the same files."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter

from fedward_client.catalog_rows import ImageRow

SHOWN = 24


def series_of(images: Iterable[ImageRow]) -> list[list[ImageRow]]:
    """The images by series, each in the order of places; a file that names no series is one of its own."""
    found: dict[tuple[str, str], list[ImageRow]] = defaultdict(list)
    for row in images:
        found[row.patient, row.series or row.key].append(row)
    return [sorted(rows, key=lambda row: (row.place_mm or 0.0, row.turn, row.content)) for rows in found.values()]


def chosen(series: Iterable[Sequence[ImageRow]], flags: Mapping[str, Collection[str]]) -> list[ImageRow]:
    """The middle slices of up to `SHOWN` series: kinds of image in turn, and no patient again before all were shown.

    What has other flags is another kind, so that each is seen. Who comes first is decided by digests of files, so that
    it is not a choice of anybody's.
    """
    kinds: dict[tuple[str, ...], list[ImageRow]] = defaultdict(list)
    for rows in series:
        middle = rows[len(rows) // 2]
        kind = (middle.modality, middle.manufacturer, middle.device, middle.sequence, *sorted(flags[middle.key]))
        kinds[kind].append(middle)
    seen: Counter[str] = Counter()
    turns: list[tuple[int, ImageRow]] = []
    for row in _in_turn([sorted(rows, key=lambda row: row.content) for _, rows in sorted(kinds.items())]):
        turns.append((seen[row.patient], row))
        seen[row.patient] += 1
    return [row for _, row in sorted(turns, key=itemgetter(0))][:SHOWN]


def _in_turn(kinds: Sequence[Sequence[ImageRow]]) -> Iterator[ImageRow]:
    """One of each kind, then a second of each."""
    for place in range(max(map(len, kinds), default=0)):
        yield from (rows[place] for rows in kinds if place < len(rows))
