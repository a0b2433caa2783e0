"""Where a study's cache lies, which arrays it holds, and how much room they take."""

from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedward_client import cache_room
from fedward_client.boxing import MOST
from fedward_client.cache_room import IMAGES, TARGETS
from fedward_client.cohort import Cohort
from fedward_client.labelling import MASKED
from fedward_client.opening import AnyRecipe, recipe_of
from fedward_client.site import Site
from fedward_common.study import StudySpec


class Row(NamedTuple):
    """What an array of a cache holds of one image."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return prod(self.shape) * self.dtype.itemsize


def arrays_of(study: StudySpec) -> dict[str, Row]:
    """The arrays of a study's cache, by the names of their files."""
    found = {IMAGES: Row(np.dtype("<f4"), recipe_of(study.input, "").shape)}
    if study.study.task in MASKED and study.cohort.labels:
        found[TARGETS] = Row(np.dtype("u1"), (len(study.cohort.labels), *study.input.size))
    if study.study.task == "detection":
        found[TARGETS] = Row(np.dtype("<f4"), (MOST, 2 * len(study.input.size) + 1))
    return found


def bytes_of_cache(images: int, study: StudySpec) -> int:
    """What so many images of a study take on disk."""
    return sum(images * row.nbytes + 4096 for row in arrays_of(study).values())


def folder_of(site: Site, study: StudySpec, cohort: Cohort, by: AnyRecipe) -> Path:
    """Where the cache of a cohort lies, whether or not it is there."""
    truth = f"-{study.study.task}" if TARGETS in arrays_of(study) else ""
    return cache_room.root_of(site) / f"{by.digest}-{cohort.content_digest}{truth}"


def check_room(site: Site, study: StudySpec, cohort: Cohort) -> None:
    """Raise DataError where a cohort's tensors are not there and have no room; nothing is removed for them yet."""
    if not folder_of(site, study, cohort, recipe_of(study.input, site.name)).exists():
        cache_room.plan(site, bytes_of_cache(len(cohort.items), study))
