"""`fedward model predict`: what a trained model says of a hospital's own files."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward_client.cli_common import progress

if TYPE_CHECKING:
    from fedward_client.predicting import Prediction
    from fedward_common.models.trained import Trained


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", exists=True, dir_okay=False, help="A trained model's safetensors file.")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", exists=True, help="A hospital's folder, or any folder or file like it.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The CSV file that is written: a row for each patient.")],
) -> None:
    """Say what a trained model gives for images, recordings or a table, read as in training. For research use only.

    Exit code 1 where something could not be read or taken; its row says why.

    Example: fedward model predict result/model.safetensors /srv/hospital --out predictions.csv
    """
    from fedward_client import predicting
    from fedward_common.disk import write_durably
    from fedward_common.errors import UsageError
    from fedward_common.models import trained

    if out.resolve() == model.resolve() or out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out} is the model, or in the input: choose another --out")
    about, network = trained.read(model)
    with progress("Reading") as listener:
        found = predicting.predict(source, about, network, listener)
    try:
        write_durably(out, _csv(found, about).encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): choose another --out") from None
    without = sum(not each.probabilities for each in found)
    print(f"{out}: {len(found) - without} with probabilities, {without} without. {trained.RESEARCH_USE}")
    if without:
        raise typer.Exit(1)


def _csv(found: "Sequence[Prediction]", about: "Trained") -> str:
    """Lines that begin with "#" say what the model is and is not; then the table."""
    text = io.StringIO()
    text.writelines(f"# {' '.join(line.split())}\n" for line in _preface(about))
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    labels = about.study.cohort.labels
    writer.writerow(
        (
            *("file", "row", "examples"),
            *(f"probability {label}" for label in labels),
            *(f"called {label}" for label in about.thresholds),
            "note",
        )
    )
    for each in found:
        file, row = each.place
        scores = dict(zip(labels, each.probabilities, strict=False))
        called = (_called(scores.get(label), threshold) for label, threshold in about.thresholds.items())
        writer.writerow(
            (file, row or "", each.examples, *(scores.get(label, "") for label in labels), *called, each.note)
        )
    return text.getvalue()


def _called(score: float | None, threshold: float) -> str:
    if score is None:
        return ""
    return "yes" if score >= threshold else "no"


def _preface(about: "Trained") -> Iterator[str]:
    from fedward_common import __version__
    from fedward_common.models.trained import RESEARCH_USE

    yield RESEARCH_USE
    yield f"Model {about.model_sha256} of the study {about.study.study.id}, digest {about.study.digest}"
    yield f"Written by Fedward {__version__}"
    for label, threshold in about.thresholds.items():
        yield f"{label} is called from a probability of {threshold!r} on, chosen on validation patients"
    yield from about.limits or ("The model came without a card: ask who trained it for its limits.",)
