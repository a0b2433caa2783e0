"""Into which groups a study's patients fall, by what headers of images or rows of tables say: sex, age band, maker.

A patient is in one group of each kind: of the word that most of the images have, of the median age, as statistics count
them. Images that do not say take no part, and who has no other is of the group of those of whom it is not known.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import median_low

from fedward_client.catalog_rows import ImageRow, TableRow
from fedward_common.study_subgroups import NOT_KNOWN, Subgroups, band_of, vendor_of


def groups_of(rows: Iterable[ImageRow | TableRow], asked: Sequence[Subgroups]) -> dict[str, tuple[str, ...]]:
    """By patient, the group of each kind that is `asked` for, of the images or rows of tables that a study takes."""
    if not asked:
        return {}
    own: dict[str, list[ImageRow | TableRow]] = defaultdict(list)
    for row in rows:
        own[row.patient].append(row)
    return {patient: tuple(_group(rows, by) for by in asked) for patient, rows in own.items()}


def _group(rows: Sequence[ImageRow | TableRow], by: Subgroups) -> str:
    if by == "age":
        years = [row.age for row in rows if row.age is not None]
        return band_of(median_low(years)) if years else NOT_KNOWN
    if by == "sex":
        return most_common(row.sex for row in rows if row.sex) or NOT_KNOWN
    makers = (vendor_of(row.manufacturer) for row in rows if isinstance(row, ImageRow))
    return most_common(maker for maker in makers if maker != NOT_KNOWN) or NOT_KNOWN


def most_common(words: Iterable[str]) -> str:
    """The word that is there most often, the first by the alphabet of equally many; "" of none."""
    counts = Counter(words)
    return min(counts, key=lambda word: (-counts[word], word), default="")
