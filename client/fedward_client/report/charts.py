"""Counts as bars: kinds by how frequent they are, numbers in order and in few bins."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

MOST_KINDS = 10  # of a chart; the others are one bar
NOT_SAID = "(not said)"


class Bar(NamedTuple):
    """One bar, of how many there are; `width` is in percent of the widest."""

    label: str
    many: int
    width: float


class Chart(NamedTuple):
    """Bars under a title; `unit` is what they count."""

    title: str
    unit: str
    bars: tuple[Bar, ...]


def kinds(title: str, unit: str, values: Iterable[str]) -> Chart:
    """How many of each kind there are, most first; "" is what a header does not say."""
    return counted(title, unit, Counter(values))


def counted(title: str, unit: str, found: Mapping[str, int]) -> Chart:
    """Counts by kind, as `kinds` shows them."""
    counts = sorted(((kind or NOT_SAID, count) for kind, count in found.items()), key=lambda one: (-one[1], one[0]))
    shown = counts[:MOST_KINDS]
    if others := counts[MOST_KINDS:]:
        shown.append((f"{len(others)} other kinds", sum(count for _, count in others)))
    return Chart(title, unit, _bars(shown))


def numbers(title: str, unit: str, values: Sequence[float]) -> Chart:
    """How many lie where: a bar for each value, or, of more than `MOST_KINDS` values, for each of as many bins at most.

    Bins are as wide as 1, 2 or 5 times a power of ten, whole numbers for whole numbers, and begin at a multiple of
    their width.
    """
    counts = Counter(values)
    if len(counts) <= MOST_KINDS:
        return Chart(title, unit, _bars([(f"{value:g}", counts[value]) for value in sorted(counts)]))
    whole = all(value == int(value) for value in counts)
    width = max(_width(min(counts), max(counts)), 1.0 if whole else 0.0)
    last = width - 1 if whole else width
    bins = Counter(math.floor(value / width + 1e-9) for value in values)
    names = {place: f"{place * width:g} – {place * width + last:g}" for place in range(min(bins), max(bins) + 1)}
    return Chart(title, unit, _bars([(name, bins[place]) for place, name in names.items()]))


def _width(low: float, high: float) -> float:
    """The least width of which `MOST_KINDS` bins at most reach from the lowest to the highest value."""
    power = 10.0 ** math.floor(math.log10((high - low) / MOST_KINDS))
    widths = (factor * power for factor in (1, 2, 5, 10, 20))
    return next(w for w in widths if math.floor(high / w + 1e-9) - math.floor(low / w + 1e-9) < MOST_KINDS)


def _bars(counts: Sequence[tuple[str, int]]) -> tuple[Bar, ...]:
    most = max((count for _, count in counts), default=0)
    return tuple(Bar(label, count, round(100 * count / most, 2)) for label, count in counts)
