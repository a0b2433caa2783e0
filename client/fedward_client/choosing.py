"""Which of a site's images a study takes, and which files make one of them: an image, or a volume of slices.

Pure: the catalog's rows in, units of training out. Whatever is left out is counted, by reason.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedward_client.catalog_rows import ImageRow, Mask
from fedward_client.intake import describe
from fedward_client.intake.box_table import Box
from fedward_client.intake.geometry import LONE, Slice, stacks
from fedward_client.intake.index import NIFTI_FORMAT
from fedward_common.study import Cohort, Input

COLOUR = "colour images, which have no units that a window could be in"
UNPLACED = "slices that do not say where they lie"
SLICE_COUNT = "images with another number of slices"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What a network sees as one: an image, a window of a recording, a row of a table.

    `files` are its slices in order, or the one file that holds it, `at` where in that it begins. `names` are what rows
    of the label table may call each of its files; none is asked where it has a `word` of its own.
    """

    key: str  # pseudonym: of its first file, with `at` where that holds several
    patient: str
    files: tuple[str, ...]
    content: str  # `content_of` its files; of a row of a table, of itself
    names: tuple[tuple[str, ...], ...]
    at: int = 0  # a sample, or the number of a row
    word: str = ""
    time: float | None = None  # of follow-up, of a row of a table
    masks: tuple[Mask, ...] = ()  # of an image: where structures are in it, sorted
    boxes: tuple[Box, ...] = ()  # of an image: findings, sorted

    @property
    def middle(self) -> str:
        """The file that shows most of it: of slices the middle one."""
        return self.files[len(self.files) // 2]


Rule = Callable[[ImageRow], bool]


def _rules(wanted: Cohort) -> Mapping[str, Rule]:
    """What an image must be, by the reason for which it is left out."""
    sequence, vendors = set(wanted.sequence), [name.casefold() for name in wanted.vendors]
    youngest, oldest = wanted.age or (0, describe.OLDEST)
    first, last = wanted.months or ("", "")
    rules: dict[str, Rule | None] = {
        "images of another modality": (lambda row: row.modality == wanted.modality) if wanted.modality else None,
        "images of another body part": (lambda row: row.body_part == wanted.body_part) if wanted.body_part else None,
        "images of another sequence": (lambda row: sequence <= set(row.sequence.split())) if sequence else None,
        "images of another maker": (lambda row: any(name in row.manufacturer.casefold() for name in vendors))
        if vendors
        else None,
        "images of patients of another sex": (lambda row: row.sex == wanted.sex) if wanted.sex else None,
        "images of patients of another age": (lambda row: row.age is not None and youngest <= row.age <= oldest)
        if wanted.age
        else None,
        "images of other months": (lambda row: first <= row.month <= last) if wanted.months else None,
        "localizers": None if wanted.localizers else (lambda row: describe.LOCALIZER not in row.flags),
        "mosaics that do not say how many slices they hold": lambda row: (
            row.frames > 1 or describe.MOSAIC not in row.flags
        ),
    }
    return {reason: rule for reason, rule in rules.items() if rule is not None}


def chosen(images: Iterable[ImageRow], wanted: Cohort, left_out: Counter[str]) -> list[ImageRow]:
    """The images that a study's [cohort] names; each other one counts under the first reason that holds."""
    rules, taken = _rules(wanted), []
    for row in images:
        reason = next((reason for reason, rule in rules.items() if not rule(row)), None)
        if reason is None:
            taken.append(row)
        else:
            left_out[reason] += 1
    return taken


def units(images: Sequence[ImageRow], section: Input, wanted: Cohort, left_out: Counter[str]) -> list[Unit]:
    """The images as a study's [input] takes them: each by itself, or slices of a series as volumes.

    A study that windows takes images in modality units only.
    """
    grey = [row for row in images if section.intensity != "window" or row.channels == 1]
    left_out[COLOUR] += len(images) - len(grey)
    if len(section.size) == 2:
        return [_alone(row) for row in grey]
    found = [(row.frames, _alone(row)) for row in grey if row.frames > 1]
    found += [(len(unit.files), unit) for unit in _stacked([row for row in grey if row.frames == 1], left_out)]
    least, most = wanted.slices or (2, 2**31)
    fitting = [unit for slices, unit in found if least <= slices <= most]
    left_out[SLICE_COUNT] += len(found) - len(fitting)
    return fitting


def _alone(row: ImageRow) -> Unit:
    return Unit(
        key=row.key,
        patient=row.patient,
        files=(row.key,),
        content=row.content,
        names=(row.names,),
        masks=row.masks,
        boxes=row.boxes,
    )


def _stacked(slices: Iterable[ImageRow], left_out: Counter[str]) -> list[Unit]:
    """Slices of one patient's series, of one direction and size, as volumes."""
    series: dict[tuple[object, ...], list[ImageRow]] = defaultdict(list)
    for row in slices:
        if row.place_mm is None or not row.series:  # a NIfTI file is of no series, whatever it says of its place
            alone = row.place_mm is not None or row.transfer_syntax == NIFTI_FORMAT
            left_out[LONE if alone else UNPLACED] += 1
        else:
            spacing = (row.row_mm, row.column_mm)
            series[row.patient, row.series, row.orientation, row.rows, row.columns, row.channels, spacing].append(row)
    return [unit for key in sorted(series, key=str) for unit in _volumes(series[key], left_out)]


def _volumes(rows: Sequence[ImageRow], left_out: Counter[str]) -> list[Unit]:
    by_key = {row.key: row for row in rows}
    found = stacks([Slice(row.key, row.place_mm or 0.0, row.turn) for row in rows])
    for reason, keys in found.left_out.items():
        left_out[reason] += len(keys)
    return [
        Unit(
            key=keys[0],
            patient=rows[0].patient,
            files=keys,
            content=content_of([by_key[key].content for key in keys]),
            names=tuple(by_key[key].names for key in keys),
            masks=tuple(sorted({mask for key in keys for mask in by_key[key].masks})),
            boxes=tuple(sorted({box for key in keys for box in by_key[key].boxes})),
        )
        for keys in found.volumes
    ]


def content_of(contents: Sequence[str]) -> str:
    """What names the content of an image: its one file's digest, or a digest of its files' digests in order."""
    if len(contents) == 1:
        return contents[0]
    digest = hashlib.blake2b(digest_size=32)
    for content in contents:
        digest.update(bytes.fromhex(content))
    return digest.hexdigest()
