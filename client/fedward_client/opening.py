"""From an item of a cohort to what its hospital measured: an image, a window of a recording, a row of a table.

Each kind of [input] has an opener. It reads nothing but the files that were frozen: where one went or changed since, it
has nothing to give. Items of one file come one after the other, so the last file read is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fedward_client import choosing_rows
from fedward_client.boxing import Boxes, boxes_of
from fedward_client.choosing import content_of
from fedward_client.cohort import CohortItem
from fedward_client.harmonize.column import ColumnRecipe
from fedward_client.harmonize.recipe import Masks, Recipe
from fedward_client.harmonize.series import SeriesRecipe
from fedward_client.harmonize.table import TableRecipe
from fedward_client.intake import recordings, tables
from fedward_client.intake.dicom import read_slices
from fedward_client.intake.files import digest, read_volume
from fedward_client.intake.recording import Recording
from fedward_client.intake.tabular import Table
from fedward_client.mask_settings import Shown
from fedward_client.masking import masks_of
from fedward_client.site import Site
from fedward_client.volume import Volume
from fedward_common.errors import UnreadableFile
from fedward_common.study import AnyInput, CompoundInput, Input, SequenceInput, SeriesInput

Tensor = npt.NDArray[np.float32]
Read = TypeVar("Read")
AnyRecipe = ColumnRecipe | Recipe | SeriesRecipe | TableRecipe


class Opener(Protocol):
    """Opens the items of one kind of study."""

    def is_there(self, item: CohortItem) -> bool:
        """Whether an item is as it was when it was frozen."""

    def tensor(self, item: CohortItem) -> Tensor | None:
        """An item as a network sees it; None where its file went or changed. Raises UnreadableFile, UnfitImage."""


def recipe_of(section: AnyInput, site: str) -> AnyRecipe:
    """How the items of a study become tensors at a site."""
    match section:
        case Input():
            return Recipe(section)
        case SeriesInput():
            return SeriesRecipe(section)
        case CompoundInput() | SequenceInput():
            return ColumnRecipe(section)
        case _:
            return TableRecipe(section, site)


def opener(site: Site, how: AnyRecipe, where: Mapping[str, Path]) -> Opener:
    """What opens a site's items; `where` says where the file of each pseudonym is (`catalog.paths`)."""
    match how:
        case Recipe():
            return Images(how, where)
        case SeriesRecipe():
            return Windows(site, how, where)
        case ColumnRecipe() | TableRecipe():
            return Rows(site, how, where)


@dataclass(slots=True)
class Images:
    """Images: the slices of a volume, or one file, which must be a volume where one is wanted."""

    recipe: Recipe
    where: Mapping[str, Path]

    def volume(self, item: CohortItem) -> Volume | None:
        """An image as its device made it, as `tensor` gives it otherwise."""
        paths = _unchanged(item, self.where)
        return self._read(paths) if paths else None

    def _read(self, paths: Sequence[Path]) -> Volume:
        if len(paths) > 1:
            return read_slices(paths)
        return read_volume(paths[0], voi=self.recipe.voi, stack=self.recipe.is_3d)

    def tensor(self, item: CohortItem) -> Tensor | None:
        """As `Opener` says."""
        volume = self.volume(item)
        return None if volume is None else self.recipe.apply(volume)

    def masked(self, item: CohortItem, shown: Sequence[Shown | None]) -> tuple[Tensor, Masks] | None:
        """`tensor`, and where each structure is in it, 0 or 1 [structures, *size]; nowhere, without a mask.

        None also where a mask went or changed. Raises UnfitImage also for a mask that does not fit its image.
        """
        files = _unchanged(item, self.where)
        if not files:
            return None
        masks = self._masks(item)
        if len(masks) < len(item.masks):
            return None
        volume = self._read(files)
        return self.recipe.masked(volume, masks_of(volume, files, masks, shown))

    def check_masks(self, item: CohortItem, shown: Sequence[Shown | None]) -> None:
        """Raise UnreadableFile or UnfitImage where `masked` would, for an image or its masks."""
        if files := _unchanged(item, self.where):
            volume = self._read(files)
            self.recipe.check(volume, masks_of(volume, files, self._masks(item), shown))

    def boxed(self, item: CohortItem) -> tuple[Tensor, Boxes] | None:
        """`tensor`, and the findings in it (`boxing.boxes_of`)."""
        volume = self.volume(item)
        if volume is None:
            return None
        tensor, grid = self.recipe.gridded(volume)
        return tensor, boxes_of(volume, grid, item.boxes, self.recipe.input.size)

    def is_there(self, item: CohortItem) -> bool:
        """As `Opener` says."""
        return bool(_unchanged(item, self.where)) and len(self._masks(item)) == len(item.masks)

    def _masks(self, item: CohortItem) -> list[Path]:
        """Those of an item's masks that are there as they were."""
        found = []
        for key, content in item.masks:
            with suppress(UnreadableFile):
                if key in self.where and digest(self.where[key]) == content:
                    found.append(self.where[key])
        return found


@dataclass(slots=True)
class Windows:
    """Windows of recordings."""

    site: Site
    recipe: SeriesRecipe
    where: Mapping[str, Path]
    _last: tuple[str, Recording | str | None] = field(default=("", None), init=False)  # by the item's file

    def is_there(self, item: CohortItem) -> bool:
        """As `Opener` says."""
        return bool(_unchanged(item, self.where))

    def tensor(self, item: CohortItem) -> Tensor | None:
        """As `Opener` says."""
        if self._last[0] != item.files[0]:
            paths = _unchanged(item, self.where)
            self._last = item.files[0], _or_refusal(recordings.read, self.site, paths[0]) if paths else None
        recording = self._last[1]
        if isinstance(recording, str):
            raise UnreadableFile(recording)
        if recording is None:
            return None
        signals = choosing_rows.positions(recording.channels, self.recipe.input)
        if signals is None:
            raise UnreadableFile("the map of its columns has not all signals of the study any more")
        end = item.at + round(self.recipe.input.window_s * recording.rate_hz)
        factors = [
            choosing_rows.factor(recording.channels[index].unit, self.recipe.input.unit) or 1.0 for index in signals
        ]
        return self.recipe.apply(recording.values[item.at : end, signals] * np.array(factors, np.float32))


@dataclass(slots=True)
class Rows:
    """Rows of tables. A row that has not changed is the same, whatever became of the rest of its file."""

    site: Site
    recipe: ColumnRecipe | TableRecipe
    where: Mapping[str, Path]
    _last: tuple[str, Table | str | None] = field(default=("", None), init=False)
    _places: dict[int, int] = field(default_factory=dict, init=False)  # by a row's number
    _columns: list[int] | None = field(default=None, init=False)  # the study's features, where the table has them all

    def is_there(self, item: CohortItem) -> bool:
        """As `Opener` says."""
        return self.values(item) is not None

    def tensor(self, item: CohortItem) -> Tensor | None:
        """As `Opener` says."""
        values = self.values(item)
        return None if values is None else self.recipe.apply(values)

    def values(self, item: CohortItem) -> Tensor | None:
        """A row's features as its hospital has them, NaN where one is missing, as `tensor` gives it otherwise."""
        if self._last[0] != item.files[0]:
            path = self.where.get(item.files[0])
            found = None if path is None else _or_refusal(tables.read, self.site, path)
            self._last = item.files[0], found
            self._places, self._columns = {}, None
            if isinstance(found, Table):
                self._places = {number: at for at, number in enumerate(found.numbers)}
                self._columns = _columns(found.names, self.recipe.input.features)
        table = self._last[1]
        if isinstance(table, str):
            raise UnreadableFile(table)
        place = self._places.get(item.at)
        if table is None or place is None or tables.content_of(table, place) != item.content:
            return None
        if self._columns is None:
            raise UnreadableFile("the map of its columns has not all features of the study any more")
        values: Tensor = table.features[place, self._columns]
        return values


def _or_refusal(read: Callable[[Site, Path], Read], site: Site, path: Path) -> Read | str:
    """A file, or why it cannot be read: so that its many windows or rows do not read it again, each to be refused.

    In words: one exception that is raised again and again keeps the frames of all who raised it.
    """
    try:
        return read(site, path)
    except UnreadableFile as refusal:
        return str(refusal)


def _unchanged(item: CohortItem, where: Mapping[str, Path]) -> list[Path]:
    """Where an item's files are, none when one is not there or they are no longer those that were frozen."""
    paths = [where[key] for key in item.files if key in where]
    try:
        digests = [digest(path) for path in paths]
    except UnreadableFile:
        return []
    whole = len(paths) == len(item.files) and content_of(digests) == item.content
    return paths if whole else []


def _columns(names: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Where the wanted names are; None where one is not."""
    place = {name: index for index, name in enumerate(names)}
    return [place[name] for name in wanted] if place.keys() >= set(wanted) else None
