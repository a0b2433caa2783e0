"""`fedward model predict`: what a trained model says of a hospital's own files."""

import csv
import io
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward_client.cli_common import progress

if TYPE_CHECKING:
    from fedward_client.predicting import Prediction
    from fedward_common.models.trained import Trained


class Format(StrEnum):
    """How predictions are written."""

    CSV = "csv"
    SR = "sr"


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", exists=True, dir_okay=False, help="A trained model's safetensors file.")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", exists=True, help="A hospital's folder, or any folder or file like it.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="What is written: a CSV file, or a new folder of DICOM reports.")
    ],
    form: Annotated[
        Format,
        typer.Option("--format", help="csv: a row for each patient. sr: a DICOM structured report for each patient."),
    ] = Format.CSV,
) -> None:
    """Say what a trained model gives for images, recordings or a table, read as in training. For research use only.

    Exit code 1 where something could not be read or taken; its row in the CSV file says why.

    Example: fedward model predict result/model.safetensors /srv/hospital --out predictions.csv
    """
    from fedward_client import predicting
    from fedward_common.errors import UsageError
    from fedward_common.models import trained

    if out.resolve() == model.resolve() or out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out} is the model, or in the input: choose another --out")
    if form is Format.SR and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not an empty folder: choose another --out for the reports")
    about, network = trained.read(model)
    survival = about.study.study.task == "survival"
    if form is Format.SR and survival:
        raise UsageError("a DICOM report is of probabilities, and this model gives log-risks: use --format csv")
    with progress("Reading") as listener:
        found = predicting.predict(source, about, network, listener)
    if form is Format.SR:
        _write({out / name: report for name, report in _reports(found, about)}, out)
    else:
        _write({out: _csv(found, about).encode("utf-8", "surrogateescape")}, out)
    without = sum(not each.scores for each in found)
    what = "a log-risk" if survival else "probabilities"
    print(f"{out}: {len(found) - without} with {what}, {without} without. {trained.RESEARCH_USE}")
    if without:
        raise typer.Exit(1)


def _write(files: dict[Path, bytes], out: Path) -> None:
    from fedward_common.disk import write_durably
    from fedward_common.errors import UsageError

    try:
        for path, content in files.items():
            write_durably(path, content)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): choose another --out") from None


def _reports(found: "Sequence[Prediction]", about: "Trained") -> Iterator[tuple[str, bytes]]:
    """The structured reports, each with its file's name, which is its own UID and nobody's."""
    from fedward_client.dicom_results import derived
    from fedward_client.dicom_results.report import report
    from fedward_client.intake import source
    from fedward_client.predicting import preface
    from fedward_common.errors import UnreadableFile, UsageError

    for each in found:
        if not each.scores:
            continue
        comments = [*preface(about), *([f"Left out: {each.note}"] if each.note else [])]
        scores = dict(zip(about.study.cohort.labels, each.scores, strict=True))
        try:
            made = report(scores, [source.read(path) for path in each.files], about, comments)
            content = derived.encoded(made)
        except UnreadableFile as error:
            raise UsageError(
                f"a DICOM report is of DICOM images only, and one of the input cannot have one ({error}): "
                "use --format csv"
            ) from None
        yield f"{made.SOPInstanceUID}.dcm", content


def _csv(found: "Sequence[Prediction]", about: "Trained") -> str:
    """Lines that begin with "#" say what the model is and is not; then the table."""
    from fedward_client.predicting import preface

    text = io.StringIO()
    text.writelines(f"# {' '.join(line.split())}\n" for line in preface(about))
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    survival = about.study.study.task == "survival"
    labels = ("log_risk",) if survival else about.study.cohort.labels
    writer.writerow(
        (
            *("file", "row", "examples"),
            *(labels if survival else (f"probability {label}" for label in labels)),
            *(f"called {label}" for label in about.thresholds),
            "note",
        )
    )
    for each in found:
        file, row = each.place
        scores = dict(zip(labels, each.scores, strict=False))
        called = (_called(scores.get(label), threshold) for label, threshold in about.thresholds.items())
        writer.writerow(
            (file, row or "", each.examples, *(scores.get(label, "") for label in labels), *called, each.note)
        )
    return text.getvalue()


def _called(score: float | None, threshold: float) -> str:
    if score is None:
        return ""
    return "yes" if score >= threshold else "no"
