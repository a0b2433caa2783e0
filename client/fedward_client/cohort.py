"""A study's patients at one site, as values.

A cohort holds pseudonyms keyed by the site's secret, so neither it nor its digest says anything about a patient to
somebody else. Who is in one: `cohort_choice`; that it stays as it is for a run: `freezing`.
"""

import hashlib
from collections import Counter
from collections.abc import Collection
from functools import cached_property
from typing import Any

import rfc8785
from pydantic import BaseModel, ConfigDict

from fedward_client.boxing import Corners
from fedward_client.labelling import UNKNOWN, Label
from fedward_client.split import Side


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CohortItem(_Value):
    """One image, window or row: its key, patient and files (pseudonyms), label (`labelling`), side, a digest of it."""

    image: str
    files: tuple[str, ...]  # the slices of a volume in order, or the one file
    at: int = 0  # where in its file it begins: the sample of a window, the number of a row
    masks: tuple[tuple[str, str], ...] = ()  # the files that show where structures are in it, and digests of them
    boxes: tuple[Corners, ...] = ()  # findings in it, as the hospital says where they are
    patient: str
    label: Label
    time: float | None = None  # of follow-up, in a study of the time to an event
    side: Side
    fold: int | None = None  # that tests the patient, in a study with folds: their side is then that of the last rounds
    content: str
    groups: tuple[str, ...] = ()  # of its patient, one for each of the study's [evaluation] subgroups
    shown: str = ""  # of its masks, a digest of their content and of how the site reads them

    @property
    def labelled(self) -> bool:
        """Whether anything is known of its labels."""
        return any(value != UNKNOWN for value in ((self.label,) if isinstance(self.label, int) else self.label))

    @property
    def labels(self) -> tuple[int, ...]:
        """The indices of the labels that it has."""
        if isinstance(self.label, int):
            return (self.label,) if self.labelled else ()
        return tuple(index for index, value in enumerate(self.label) if value == 1)


class Cohort(_Value):
    """A study's patients at one site. `items` are sorted by image; `left_out` counts patients or images a reason.

    `linked` counts patients whose images are another's too, or nearly (`near_duplicates.counted`): for the site's own
    people, small counts included.
    """

    labels: tuple[str, ...]
    items: tuple[CohortItem, ...]
    left_out: dict[str, int]
    linked: dict[str, int] = {}

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the RFC 8785 JSON of the items."""
        return _sha256([item.model_dump() for item in self.items])

    @cached_property
    def content_digest(self) -> str:
        """SHA-256 (hex) naming the images, masks and boxes alone: cohorts that differ in labels or sides share it."""
        return _sha256([[item.image, item.content, item.shown, item.boxes] for item in self.items])

    @cached_property
    def people(self) -> tuple[str, ...]:
        """The pseudonyms of all patients, sorted."""
        return tuple(sorted({item.patient for item in self.items}))

    @property
    def folded(self) -> bool:
        """Whether folds test the patients in turn."""
        return any(item.fold is not None for item in self.items[:1])

    def patients(self, side: Side) -> int:
        """How many patients with a label are on a side; of a study with folds, in any of them."""
        there = [item for item in self.items if item.labelled and (item.side == side or item.fold is not None)]
        return len({item.patient for item in there})

    def unlabelled(self) -> int:
        """How many patients without a label learn."""
        return len({item.patient for item in self.items if not item.labelled})

    def label_counts(self, side: Side | None = None) -> dict[str, int]:
        """How many patients of each label are on a side, or on all."""
        items = [item for item in self.items if side in {None, item.side}]
        counts = Counter(label for _, label in {(item.patient, label) for item in items for label in item.labels})
        return {label: counts[index] for index, label in enumerate(self.labels)}

    def not_known(self) -> dict[str, int]:
        """How many images there are of which it is not known whether they have a label: of several labels an image."""
        counts = Counter(
            index
            for item in self.items
            if not isinstance(item.label, int) and item.labelled
            for index, value in enumerate(item.label)
            if value == UNKNOWN
        )
        return {label: counts[index] for index, label in enumerate(self.labels) if counts[index]}

    def without(self, images: Collection[str], reason: str) -> "Cohort":
        """The cohort less some images, counted under a reason."""
        items = tuple(item for item in self.items if item.image not in images)
        lost = len(self.items) - len(items)
        left_out = {**self.left_out, reason: self.left_out.get(reason, 0) + lost} if lost else self.left_out
        return Cohort(labels=self.labels, items=items, left_out=left_out, linked=self.linked)


def _sha256(value: Any) -> str:
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()
