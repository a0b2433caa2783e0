"""The small-cell rule for tables of counts."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np

from fedward_common.metrics.base import Ints, Parts

Key = TypeVar("Key", bound=str)

_NONE = "\0none"  # no label's name


def told(counts: Mapping[Key, int], k: int, *, known: Collection[str] = ()) -> dict[Key, int | None]:
    """The counts that may be told beside their total; None for those that stay home.

    Counts of 1 to k - 1 stay home. Where that hides one count only, or fewer than k patients altogether, they would be
    the difference to the total: then the smallest that is left stays home too (complementary suppression; Hundepool et
    al. 2012, "Statistical Disclosure Control", ch. 4). A zero is told: it is nobody's. `known` are told in any case.
    """
    hidden = {key for key, count in counts.items() if 0 < count < k and key not in known}
    while hidden and (len(hidden) == 1 or sum(counts[key] for key in hidden) < k):
        rest = [key for key, count in counts.items() if key not in hidden and key not in known and count]
        if not rest:
            break
        hidden.add(min(rest, key=lambda key: counts[key]))
    return {key: None if key in hidden else count for key, count in counts.items()}


def told_labels(counts: Mapping[Key, int], people: int, none: int, k: int) -> dict[Key, int | None]:
    """How many of `people` have each label, as far as it may be told beside how many they are.

    `none` have no label. Labels need not part the patients: one may have several. So, beside what `told` keeps, a label
    stays home that 1 to k - 1 patients lack.
    """
    shown = told({**counts, _NONE: none}, k)
    return {label: None if 0 < people - count < k else shown[label] for label, count in counts.items()}


def told_total(counts: Mapping[Key, int], shown: Mapping[Key, int | None], k: int) -> int | None:
    """The total that may be told beside `shown`, None where it would give a hidden count away or is itself below k."""
    total = sum(counts.values())
    hidden = [counts[key] for key, count in shown.items() if count is None]
    covered = not hidden or (len(hidden) > 1 and sum(hidden) >= k)
    return total if covered and total >= k else None


def told_groups(counts: Mapping[Key, Sequence[int]], k: int, *, among: Collection[Key] | None = None) -> set[Key]:
    """The groups of a partition whose figures may be told beside those of all, by the counts of patients in each.

    A group's counts are of one length, of patients with a label and without it for example. Each group told has at
    least `k` of each. The others are the difference to all: they have at least `k` of each together, or nobody. As long
    as they do not, the smallest group that is left stays home too (complementary suppression; Hundepool et al. 2012,
    "Statistical Disclosure Control", ch. 4). Of `among` alone any is told.
    """
    left = {key for key, own in counts.items() if min(own) >= k and (among is None or key in among)}

    def covered() -> bool:
        hidden = [sum(column) for column in zip(*(own for key, own in counts.items() if key not in left), strict=True)]
        return not any(hidden) or min(hidden) >= k

    while left and not covered():
        left.remove(min(left, key=lambda key: (sum(counts[key]), key)))
    return left


def counts_in(parts: Parts, *which: Ints) -> dict[str, list[int]]:
    """By group how many of each of `which`, numbers of patients [n], are in it; of nobody at all there is no count."""
    return {name: [int(np.count_nonzero(part[each])) for each in which if each.size] for name, part in parts.items()}
