"""Into which groups a study's patients fall, by what is said of them: sex, age band, maker.

A patient is in one group of each kind: of the word that most of the images have, of the median age, as statistics count
them. Images that do not say take no part, and who has no other is of the group of those of whom it is not known. What
headers, or rows of tables, do not say of a patient, the label table may.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_low

from fedward_client.catalog_rows import ImageRow, TableRow
from fedward_client.choosing import Unit
from fedward_client.intake.labels import AGE, SEX, Row
from fedward_common.study_subgroups import NOT_KNOWN, Subgroups, band_of, vendor_of


def groups_of(
    units: Iterable[Unit],
    rows: Iterable[ImageRow | TableRow],
    labels: Mapping[str, Sequence[Row]],
    asked: Sequence[Subgroups],
) -> dict[str, tuple[str, ...]]:
    """By patient, the group of each kind that is `asked` for, of what a study takes.

    `rows` are its images or rows of tables; `labels` are the rows of the label table, by unit (its key).
    """
    if not asked:
        return {}
    own: dict[str, list[ImageRow | TableRow]] = defaultdict(list)
    for row in rows:
        own[row.patient].append(row)
    said: dict[str, list[Row]] = defaultdict(list)
    for unit in units:
        said[unit.patient] += labels[unit.key]
    return {patient: tuple(_group(own[patient], said[patient], by) for by in asked) for patient in said}


def _group(rows: Sequence[ImageRow | TableRow], said: Sequence[Row], by: Subgroups) -> str:
    if by == "age":
        years = [row.age for row in rows if row.age is not None] or [int(row[AGE]) for row in said if AGE in row]
        return band_of(median_low(years)) if years else NOT_KNOWN
    if by == "sex":
        sexes = [row.sex for row in rows if row.sex] or [row[SEX] for row in said if SEX in row]
        return most_common(sexes) or NOT_KNOWN
    makers = (vendor_of(row.manufacturer) for row in rows if isinstance(row, ImageRow))
    return most_common(maker for maker in makers if maker != NOT_KNOWN) or NOT_KNOWN


def most_common(words: Iterable[str]) -> str:
    """The word that is there most often, the first by the alphabet of equally many; "" of none."""
    counts = Counter(words)
    return min(counts, key=lambda word: (-counts[word], word), default="")
