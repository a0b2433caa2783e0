"""Images that are the same or nearly, and the patients whom they link. Pure: fingerprints in, groups out.

An image re-saved, resized or cropped a little is another file of the same patient, or of one person under two ids: a
network that saw one of them in training has seen the other. So linked patients stay on one side of the split.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from fedward_client.choosing import Unit
from fedward_client.intake.fingerprint import BITS, Fingerprint
from fedward_client.intake.fingerprints import Fingerprints

UNREADABLE = "images that could not be read"
COPIES = "copies of another image of the same patient"
LIMIT = 24  # bits of `BITS` in which near-duplicates may differ; measured, see docs/adr/0016

LEAST_HANDS = 8  # with fewer, one would not fit in an integer

_WORD = 64

Looks = npt.NDArray[np.uint64]  # [images, BITS / 64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """`groups`: by patient the first of the patients linked to it, itself among them; nobody who stands alone.

    `same`: the patients of whom an image is, pixel by pixel, another patient's too.
    """

    groups: dict[str, str]
    same: frozenset[str]


def distinct(units: Iterable[Unit], prints: Fingerprints) -> tuple[list[Unit], Counter[str]]:
    """Each image once: of a patient's with the same pixels the first by key; and how many are left out, by reason.

    Volumes are the same where they have as many slices and the middle one is. An image that shows nothing is kept.
    """
    kept: list[Unit] = []
    left_out: Counter[str] = Counter()
    seen: set[tuple[str, str, int]] = set()
    for unit in sorted(units, key=lambda unit: unit.key):
        one = prints.get(unit.middle)
        same = (unit.patient, one.pixels, len(unit.files)) if one is not None and one.looks else None
        if one is None and unit.middle in prints:
            left_out[UNREADABLE] += 1
        elif same in seen:
            left_out[COPIES] += 1
        else:
            kept.append(unit)
            if same is not None:
                seen.add(same)
    return kept, left_out


def link(images: Iterable[tuple[str, Fingerprint]]) -> Links:
    """The links between patients by their images, (patient, fingerprint) each; over others too, however far.

    The order of the images does not matter. One that shows nothing is like no other.
    """
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    shown = sorted({(patient, one) for patient, one in images if one.looks}, key=lambda pair: (pair[0], pair[1].pixels))
    patients = sorted({patient for patient, _ in shown})
    if len(patients) < 2:
        return Links(groups={}, same=frozenset())
    looks = sorted({look for _, one in shown for look in one.looks})
    nodes = {name: number for number, name in enumerate([*patients, *looks])}  # of a graph: patients, then looks
    pairs = near_pairs(_array(looks)) + len(patients)
    edges = np.array([(nodes[patient], nodes[look]) for patient, one in shown for look in one.looks], np.int64)
    ends = np.concatenate([edges, pairs]).T
    graph = coo_array((np.ones(ends.shape[1], np.bool_), (ends[0], ends[1])), shape=(len(nodes), len(nodes)))
    _, parts = connected_components(graph, directed=False)
    members: dict[int, list[str]] = {}
    for patient, part in zip(patients, parts.tolist(), strict=False):
        members.setdefault(part, []).append(patient)
    groups = {one: group[0] for group in members.values() if len(group) > 1 for one in group}
    return Links(groups=groups, same=_same(shown))


def counted(links: Links, labels: Mapping[str, Hashable], moved: int) -> dict[str, int]:
    """The links in numbers: `labels` are by patient, all of one in one value; `moved` changed their side for it."""
    of_group: dict[str, set[Hashable]] = {}
    for patient, group in links.groups.items():
        of_group.setdefault(group, set()).add(labels[patient])
    sizes = Counter(links.groups.values())
    return {
        "patients who share an image, pixel by pixel": len(links.same),
        "patients who share an image, or nearly": len(links.groups),
        "of them in a group with different labels": sum(len(of_group[group]) > 1 for group in links.groups.values()),
        "of them in the largest group": max(sizes.values(), default=0),
        "of them on another side of the split for it": moved,
    }


def _same(images: Sequence[tuple[str, Fingerprint]]) -> frozenset[str]:
    """The patients who share pixels with another."""
    owners: dict[str, set[str]] = {}
    for patient, one in images:
        owners.setdefault(one.pixels, set()).add(patient)
    return frozenset(patient for group in owners.values() if len(group) > 1 for patient in group)


def _array(looks: Sequence[str]) -> Looks:
    return np.frombuffer(bytes.fromhex("".join(looks)), np.uint64).reshape(len(looks), BITS // _WORD)


def near_pairs(looks: Looks, limit: int = LIMIT) -> Indices:
    """The pairs [n, 2] of hashes that differ in at most `limit` bits, each once and in order; hashes must differ.

    Found by multi-index hashing (Norouzi, Punjani and Fleet 2012, "Fast search in Hamming space with multi-index
    hashing", CVPR): the bits are dealt to so many hands that hashes of a near pair differ in at most one bit of one of
    them. Only hashes are compared that are equal in a hand but for a bit, and no pair is missed.
    """
    bits = np.unpackbits(looks.view(np.uint8), axis=1)  # [images, BITS]
    hands = max(limit // 2 + 1, LEAST_HANDS)
    found = [np.empty((0, 2), np.int64)]
    for hand in range(hands):
        dealt = bits[:, hand::hands].astype(np.int64)  # high and low frequencies are in all hands
        values = 1 << np.arange(dealt.shape[1])
        codes = dealt @ values
        for value in values:
            found.extend(_near(looks, codes & ~value, limit))
    return np.unique(np.concatenate(found), axis=0)


def _near(looks: Looks, codes: Indices, limit: int) -> Iterator[Indices]:
    """The near pairs among hashes of the same code."""
    order = np.argsort(codes, kind="stable")
    codes, start = codes[order], np.arange(len(order))
    for step in count(1):  # each with the one that follows, then with the one after that, as far as codes are equal
        start = start[start + step < len(order)]
        start = start[codes[start] == codes[start + step]]
        if not start.size:
            return
        pairs = np.sort(np.stack([order[start], order[start + step]], axis=1), axis=1)
        bits = np.bitwise_count(looks[pairs[:, 0]] ^ looks[pairs[:, 1]]).sum(axis=1)
        yield pairs[bits <= limit]
