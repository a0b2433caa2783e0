"""Who goes to which planted hospital: unequal sizes, unequal share of one label, always whole patients."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward_common.errors import UsageError
from fedward_common.streams import stream

SEED = 20200228  # fixed: hospitals stay the same whatever the seed of a study
SHARES = (0.46, 0.32, 0.22)
TILT = (0.76, 1.1, 1.36)


def partition(
    patients: Mapping[str, str],
    shares: Sequence[float] = SHARES,
    *,
    positive: str | None = None,
    positive_tilt: Sequence[float] = TILT,
    seed: int = SEED,
) -> list[list[str]]:
    """Split `patients` (their labels by id) into one list for each of `shares`, every patient into exactly one.

    A part's size follows its share. Its patients with label `positive` follow share times tilt: a tilt of 1.2 gives
    that part about a fifth more of them than an even split would. The other labels fill the parts up evenly. Every list
    is in an order in which each beginning holds the labels about as mixed as the whole.

    The outcome depends on the ids, labels and `seed` only, not on the order of the mapping. Raises UsageError when
    shares or tilts are not positive numbers, one tilt a share.
    """
    weights, tilts = np.asarray(shares, float), np.asarray(positive_tilt, float)
    if not len(weights) or weights.shape != tilts.shape or not (np.all(weights > 0) and np.all(tilts > 0)):
        raise UsageError("shares and tilts must be positive numbers, and as many of one as of the other")
    by_label = {label: _shuffled(patients, label, seed) for label in sorted(set(patients.values()))}
    room = _apportion(len(patients), weights)
    parts: list[dict[str, list[str]]] = [{} for _ in weights]
    for label in sorted(by_label, key=lambda label: (label != positive, label)):
        wanted = weights * tilts if label == positive else room
        counts = _apportion(len(by_label[label]), wanted, room)
        room -= counts
        ids = iter(by_label[label])
        for part, count in zip(parts, counts, strict=True):
            part[label] = list(islice(ids, int(count)))
    return [_mixed(part) for part in parts]


def _shuffled(patients: Mapping[str, str], label: str, seed: int) -> list[str]:
    ids = sorted(patient for patient, its in patients.items() if its == label)
    order = stream(seed, "partition", label).permutation(len(ids))
    return [ids[at] for at in order]


def _apportion(
    total: int, wanted: npt.NDArray[Any], room: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """Whole numbers in proportion to `wanted` that add up to `total`, none above `room`: largest quotient first."""
    weights = np.asarray(wanted, float)
    counts = np.zeros(len(weights), np.int64)
    for _ in range(total):
        open_ = weights / (2 * counts + 1)  # Sainte-Lague: unbiased between large and small parts
        if room is not None:
            open_ = np.where(counts < room, open_, -1.0)
        counts[int(np.argmax(open_))] += 1
    return counts


def _mixed(part: Mapping[str, Sequence[str]]) -> list[str]:
    """Patients of all labels, each label spread evenly over the list."""
    spread = [(at / len(ids), label, patient) for label, ids in part.items() for at, patient in enumerate(ids)]
    return [patient for _, _, patient in sorted(spread, key=lambda item: item[:2])]
