"""What a study asks of a site's data, line by line, and whether the site has it: its data contract.

Whom the study takes is `dry_run.resolved`'s answer, and what an image must be is `choosing.chosen`'s; nothing of that
is decided here. The figures are for the site's own people: small cells included.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedward_client.catalog_rows import ImageRow
from fedward_client.choosing import chosen
from fedward_client.cohort import Cohort, CohortItem
from fedward_client.report.quality import BLANK
from fedward_client.site import Site
from fedward_common.study import Cohort as Wanted
from fedward_common.study import Input, StudySpec

LOW, WRONG_PART = "low resolution", "wrong body part"

# The keys of [cohort] that choose among images: in words, and how a value is told.
_FILTERS: Mapping[str, tuple[str, Callable[..., str]]] = {
    "modality": ("Modality {}", str),
    "body_part": ("Body part {}", str),
    "sequence": ("MR sequence {}", " and ".join),
    "vendors": ("Scanner made by {}", " or ".join),
    "sex": ("Sex {}", str),
    "age": ("Age {} years", lambda bounds: "{} to {}".format(*bounds)),
    "months": ("Examined from {}", lambda bounds: "{} to {}".format(*bounds)),
    "localizers": ("No scout images", str),
}


class Line(NamedTuple):
    """One thing that a study asks for, what the site has, and whether that is enough."""

    asked: str
    found: str
    passes: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """A study's data contract at a site. `refusal` says why the site cannot take part, "" where it can."""

    study: str
    digest: str
    lines: tuple[Line, ...]
    left_out: Mapping[str, int]  # patients or images by the reason why the study does not take them
    linked: Mapping[str, int]  # patients by what links them to others (`near_duplicates.counted`)
    refusal: str

    @property
    def passes(self) -> bool:
        """Whether the site has everything that is asked for."""
        return not self.refusal and all(line.passes for line in self.lines)


def contract(
    site: Site,
    study: StudySpec,
    images: Sequence[ImageRow],
    flags: Mapping[str, Collection[str]],
    resolved: tuple[Cohort, str],
) -> Contract:
    """The contract of a study, from the site's images and their flags by key, and its cohort (`dry_run.resolved`)."""
    cohort, refusal = resolved
    return Contract(
        study=study.study.id,
        digest=study.digest,
        lines=(*_filters(study, images), *_patients(site, study, cohort, images, flags)),
        left_out=cohort.left_out,
        linked=cohort.linked,
        refusal=refusal,
    )


def _filters(study: StudySpec, images: Sequence[ImageRow]) -> Iterator[Line]:
    """How many images each of the study's filters takes, alone; none is of recordings or tables."""
    if not isinstance(study.input, Input):
        return
    wanted = study.cohort
    nothing = {key: Wanted.model_fields[key].default for key in _FILTERS} | {"localizers": True}
    anything = len(chosen(images, wanted.model_copy(update=nothing), Counter()))
    for key, (words, told) in _FILTERS.items():
        value = getattr(wanted, key)
        if value != nothing[key]:
            taken = len(chosen(images, wanted.model_copy(update={**nothing, key: value}), Counter()))
            yield Line(words.format(told(value)), f"{taken} of {anything} images", taken > 0)


def _patients(
    site: Site,
    study: StudySpec,
    cohort: Cohort,
    images: Sequence[ImageRow],
    flags: Mapping[str, Collection[str]],
) -> Iterator[Line]:
    """Whether enough patients are left, of each label, with images that serve."""
    only_evaluates = study.only_evaluates(site.name)
    needed = site.min_cell if only_evaluates else max(study.cohort.min_patients, site.min_cell)
    who = "patients" if only_evaluates else "training patients"
    unlabelled = not only_evaluates and not cohort.patients("train") and cohort.unlabelled() > 0
    items = [item for item in cohort.items if item.labelled != unlabelled and (only_evaluates or item.side == "train")]
    rows = {row.key: row for row in images}

    def enough(what: str, having: Callable[[CohortItem], bool]) -> Line:
        found = len({item.patient for item in items if having(item)})
        return Line(f"At least {needed} {who}{what}", f"{found} {who}", found >= needed)

    yield enough(", without a label" if unlabelled else "", lambda _: True)
    if not only_evaluates and not unlabelled:
        counts = cohort.label_counts("train")
        for label in study.needed_labels:
            found = counts[label]
            yield Line(f"At least 1 training patient labelled {label}", f"{found} training patients", found > 0)
    if not only_evaluates and study.training.pseudo_labels_after is not None:
        found = cohort.unlabelled()
        yield Line("Those without a label are learned from by the model's own word", f"{found} training patients", True)
    if not isinstance(section := study.input, Input):
        return
    yield enough(
        f" with images of {_size(section)}",
        lambda item: all(key in rows and serves(rows[key], section) for key in item.files),
    )
    yield enough(
        " with images that are not blank",
        lambda item: any(key in flags and BLANK not in flags[key] for key in item.files),
    )


def _size(section: Input) -> str:
    """The resolution that a study needs, in words."""
    if section.spacing is None:
        return "at least {} x {} pixels".format(*section.size[-2:])
    return "at most {:g} x {:g} mm a pixel".format(*_coarsest(section.spacing, section))


def _coarsest(spacing: Sequence[float], section: Input) -> tuple[float, float]:
    """Millimetres from row to row and from column to column that an image may have: see `harmonize.grid.respaced`."""
    return spacing[-2] * section.max_upsampling, spacing[-1] * section.max_upsampling


def serves(row: ImageRow, section: Input) -> bool:
    """Whether an image says that it has the resolution that a study needs, in its rows and columns.

    That is the study's spacing, made coarser by what it lets resampling make finer; without one, the study's size,
    below which every pixel would be interpolated.
    """
    return not is_coarse(row, section) and (section.spacing is None or row.row_mm is not None)


def is_coarse(row: ImageRow, section: Input) -> bool:
    """Whether an image's rows or columns are too few or too coarse for a study, as far as its header says."""
    if section.spacing is None:
        return row.rows < section.size[-2] or row.columns < section.size[-1]
    own = (row.row_mm, row.column_mm)
    return any(mm is not None and mm > most for mm, most in zip(own, _coarsest(section.spacing, section), strict=True))


def flags_of(row: ImageRow, study: StudySpec) -> Iterator[str]:
    """What a study holds against an image of its modality, as the header says."""
    if study.cohort.modality not in (None, row.modality):
        return
    if study.cohort.body_part and row.body_part not in ("", study.cohort.body_part):
        yield WRONG_PART
    if isinstance(study.input, Input) and is_coarse(row, study.input):
        yield LOW
