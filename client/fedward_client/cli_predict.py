"""`fedward model predict`: what a trained model says of a hospital's own files."""

import csv
import dataclasses
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward_client.cli_common import progress
from fedward_common.cli_parts import ModelHub, TrainedModel, model_file

if TYPE_CHECKING:
    from fedward_client.harmonize.recipe import Masks
    from fedward_client.predicting import Keep, Onto, Prediction
    from fedward_client.registering import Registered
    from fedward_client.volume import Affine
    from fedward_common.models.trained import Trained

Row = tuple[str | float, ...]


class Format(StrEnum):
    """How predictions are written."""

    CSV = "csv"
    SR = "sr"
    SEG = "seg"
    NIFTI = "nifti"


_OF_TASK = {
    "classification": (Format.CSV, Format.SR),
    "detection": (Format.CSV, Format.SR),
    "segmentation": (Format.CSV, Format.SEG, Format.NIFTI),
    "registration": (Format.CSV, Format.NIFTI),
    "survival": (Format.CSV,),
}
_SAID = {
    "classification": "with probabilities",
    "detection": "searched",
    "segmentation": "segmented",
    "registration": "brought onto the image",
    "survival": "with a log-risk",
}


def predict(  # noqa: PLR0917 - typer reads options from parameters
    model: TrainedModel,
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", exists=True, help="A hospital's folder, or any folder or file like it.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="What is written: a CSV file, or a new folder of DICOM or NIfTI files.")
    ],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="csv: a row for each patient, each finding, or each structure in an image with its size. sr: a DICOM "
            "structured report for each patient, or for each image of a model that looks for findings. Of a model "
            "that finds structures: seg, a DICOM segmentation for each image; nifti, a mask for each structure in it. "
            "Of one that registers: nifti, each image warped, and the displacement field.",
        ),
    ] = Format.CSV,
    onto: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE",
            exists=True,
            help="Of a model that registers: the image onto which others are brought, a file or a folder of slices.",
        ),
    ] = None,
    hub: ModelHub = None,
) -> None:
    """Say what a trained model gives for images, recordings or a table, read as in training. For research use only.

    Exit code 1 where something could not be read or taken; the reasons are told, in the CSV file row by row.

    Example: fedward model predict result/model.safetensors /srv/hospital --out predictions.csv

    Example: fedward model predict breast-2027 --hub /srv/hub /srv/hospital --out reports --format sr

    Example: fedward model predict brains imagesTs --onto atlas.nii.gz --out warped --format nifti
    """
    from fedward_client import predicting
    from fedward_common.errors import UsageError
    from fedward_common.models import trained

    file = model_file(model, hub)
    given = [source] if onto is None else [source, onto]
    if out.resolve() == file.resolve() or any(out.resolve().is_relative_to(each.resolve()) for each in given):
        raise UsageError(f"{out} is the model, or in the input: choose another --out")
    if form is not Format.CSV and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not an empty folder: choose another --out")
    about, network = trained.read(file)
    _check(form, about, onto)
    with progress("Reading") as listener:
        keeping = {Format.SEG: _segmentations, Format.NIFTI: _masks}.get(form)
        keep = None if keeping is None else keeping(out, about)
        fixed = None if onto is None else _onto(onto, form, out, about)
        found = predicting.predict(source, about, network, listener, keep=keep, onto=fixed)
    if form is Format.SR:
        found = [_reported(each, about, out) if each.examples else each for each in found]
    elif form is Format.CSV:
        how = {
            "detection": _rows_of_findings,
            "segmentation": _rows_of_structures,
            "registration": _rows_of_registered,
        }
        rows = how.get(about.study.study.task, _rows)(found, about)
        _write(out, _csv(rows, about).encode("utf-8", "surrogateescape"), out)
    without = Counter(each.note for each in found if not each.examples)
    said = _SAID[about.study.study.task]
    print(f"{out}: {len(found) - without.total()} {said}, {without.total()} without. {trained.RESEARCH_USE}")
    if form is not Format.CSV:  # where the notes are in the table
        for note, count in sorted(Counter(each.note for each in found if each.examples and each.note).items()):
            print(f"{count} {said}: {note}", file=sys.stderr)
    for reason, count in sorted(without.items()):
        print(f"{count} without: {reason}", file=sys.stderr)
    if without:
        raise typer.Exit(1)


def _check(form: Format, about: "Trained", onto: Path | None) -> None:
    from fedward_common.errors import UsageError

    task = about.study.study.task
    if task == "registration" and onto is None:
        raise UsageError("the model brings images onto another: say onto which with --onto")
    if task != "registration" and onto is not None:
        raise UsageError(f"the model is of a study of {task}, which brings no image onto another: leave out --onto")
    if form not in _OF_TASK[task]:
        taken = " or ".join(f"--format {each}" for each in _OF_TASK[task])
        raise UsageError(f"the model is of a study of {task}: take {taken}")
    if form is Format.SR and about.study.input.kind != "image":
        raise UsageError("a DICOM report refers to DICOM images, and the model takes none: use --format csv")


def _segmentations(out: Path, about: "Trained") -> "Keep":
    """What writes a segmentation of each image, into a file that has its UID for a name."""
    from fedward_client.dicom_results.derived import Device, encoded
    from fedward_client.dicom_results.segmentation import segmentation
    from fedward_client.intake import source
    from fedward_common.errors import UnreadableFile

    def keep(found: "Prediction", masks: "Masks", _: "Affine | None") -> None:
        try:
            images = [source.read(path) for path in found.files]
            made = segmentation(masks, images, about.study.cohort.labels, Device.of(about))
            content = encoded(made)
        except UnreadableFile as error:
            raise UnreadableFile(
                f"no DICOM segmentation can be made of it, use --format nifti or csv: {error}"
            ) from None
        _write(out / f"{made.SOPInstanceUID}.dcm", content, out)

    return keep


def _masks(out: Path, about: "Trained") -> "Keep":
    """What writes a mask of each structure in an image: in the structure's folder, by the image's own path."""
    from fedward_client.nifti_results import encoded
    from fedward_client.predicting import preface
    from fedward_common.errors import UnreadableFile

    def keep(found: "Prediction", masks: "Masks", affine: "Affine | None") -> None:
        folders = [_folder(label) for label in about.study.cohort.labels]
        paths = [out / folder / _name(found) for folder in folders]
        if any(path.exists() for path in paths):
            raise UnreadableFile("its masks would have the name of another image's: give it alone, with another --out")
        for path, mask in zip(paths, masks, strict=True):
            _write(path, encoded(mask, affine, tuple(preface(about))), out)

    return keep


def _onto(onto: Path, form: Format, out: Path, about: "Trained") -> "Onto":
    """The image onto which others are brought; as NIfTI these are written, by their own paths, with their fields."""
    from fedward_client.nifti_results import encoded
    from fedward_client.predicting import Onto, preface
    from fedward_common.errors import UnreadableFile

    def keep(found: "Prediction", moved: "Registered") -> None:
        path, field = out / "warped" / _name(found), out / "displacement" / _name(found)
        if path.exists():
            raise UnreadableFile("it would have the name of another image's: give it alone, with another --out")
        _write(path, encoded(moved.warped, moved.affine, tuple(preface(about))), out)
        if moved.displacement is not None:
            _write(field, encoded(moved.displacement, moved.affine, tuple(preface(about))), out)

    return Onto(onto, keep) if form is Format.NIFTI else Onto(onto)


def _name(found: "Prediction") -> str:
    """Of a NIfTI file, below a folder: the path of the image that it is of."""
    return f"{found.place[0].removesuffix('.gz').removesuffix('.nii')}.nii.gz"


def _folder(label: str) -> str:
    """A label as the name of a folder, another for each; ".." would lead elsewhere."""
    name = label.replace("%", "%25").replace("/", "%2F")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def _write(path: Path, content: bytes, out: Path) -> None:
    from fedward_common.disk import write_durably
    from fedward_common.errors import UsageError

    try:
        write_durably(path, content)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): choose another --out") from None


def _reported(each: "Prediction", about: "Trained", out: Path) -> "Prediction":
    """The same, with a structured report in a file named for its own UID and nobody's; or with why it has none."""
    from fedward_client.dicom_results.derived import encoded
    from fedward_client.dicom_results.report import report, report_of_findings
    from fedward_client.intake import source
    from fedward_client.predicting import preface
    from fedward_common.errors import UnreadableFile

    comments = [*preface(about), *filter(None, [each.note])]
    try:
        images = [source.read(path) for path in each.files]
        made = (
            report_of_findings(each.findings, images, about, comments)
            if about.study.study.task == "detection"
            else report(dict(zip(about.study.cohort.labels, each.scores, strict=True)), images, about, comments)
        )
        content = encoded(made)
    except UnreadableFile as error:
        reason = f"no DICOM report can be made of it, use --format csv: {error}"
        return dataclasses.replace(each, examples=0, note=reason)
    _write(out / f"{made.SOPInstanceUID}.dcm", content, out)
    return each


def _csv(rows: Iterable[Row], about: "Trained") -> str:
    """Lines that begin with "#" say what the model is and is not; then the table."""
    from fedward_client.predicting import preface

    text = io.StringIO()
    text.writelines(f"# {' '.join(line.split())}\n" for line in preface(about))
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _rows(found: "Sequence[Prediction]", about: "Trained") -> Iterator[Row]:
    """The names of the columns, then a row each."""
    labels = about.study.cohort.labels
    columns = ("log_risk",) if about.study.study.task == "survival" else [f"probability {label}" for label in labels]
    yield "file", "row", "examples", *columns, *(f"called {label}" for label in about.thresholds), "note"
    for each in found:
        file, row = each.place
        scores = each.scores or ("",) * len(columns)
        by_label = dict(zip(labels, each.scores, strict=False))
        called = (_called(by_label.get(label), threshold) for label, threshold in about.thresholds.items())
        yield file, row or "", each.examples, *scores, *called, each.note


def _rows_of_findings(found: "Sequence[Prediction]", _: "Trained") -> Iterator[Row]:
    """The names of the columns, then a row for each finding, and for each image without one."""
    from fedward_common.sentences import joined

    yield "file", "label", "score", "unit", "x", "y", "z", "size x", "size y", "size z", "note"
    for each in found:
        for one in each.findings:
            middle, axes = one.ellipsoid
            sizes = 2 * (axes**2).sum(axis=0) ** 0.5
            unit = "pixels" if one.affine is None else "mm"
            yield each.place[0], one.label, one.score, unit, *middle.tolist(), *sizes.tolist(), each.note
        if not each.findings:
            yield each.place[0], *("",) * 9, joined("nothing found" if each.examples else "", each.note)


def _rows_of_structures(found: "Sequence[Prediction]", about: "Trained") -> Iterator[Row]:
    """The names of the columns, then a row for each structure in an image, and for each image that has no answer."""
    yield "file", "structure", "size", "unit", "note"
    for each in found:
        for label, size in zip(about.study.cohort.labels, each.sizes, strict=False):
            yield each.place[0], label, size, each.unit, each.note
        if not each.sizes:
            yield each.place[0], "", "", "", each.note


def _rows_of_registered(found: "Sequence[Prediction]", _: "Trained") -> Iterator[Row]:
    """The names of the columns, then a row for each image."""
    yield "file", "unlike before", "unlike after", "percent folded", "note"
    for each in found:
        yield each.place[0], *(each.fit or ("",) * 3), each.note


def _called(score: float | None, threshold: float) -> str:
    if score is None:
        return ""
    return "yes" if score >= threshold else "no"
