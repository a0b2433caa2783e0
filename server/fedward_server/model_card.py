"""The card of a registered model: what the hub knows of it, as far as whoever asks may know it.

Sections after Mitchell et al. 2019, "Model Cards for Model Reporting" (FAT* 2019, arXiv 1810.03993), as the card that a
simulation writes.
"""

from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from fedward_common import markdown
from fedward_common.errors import ModelError, RunError
from fedward_common.markdown import Markdown, plain
from fedward_common.models import trained, weights_file
from fedward_common.models.trained import RESEARCH_USE, Trained
from fedward_common.study import StudySpec
from fedward_common.study_text import describe, privacy_words
from fedward_server.figures.at_hub import figures_of
from fedward_server.figures.blocks import METRIC_TITLES, METRICS, OTHER_METRICS, Block, Figure, Metric
from fedward_server.figures.run_figures import KEPT, RunFigures
from fedward_server.figures.scope import Scope
from fedward_server.hub import Hub
from fedward_server.lineage import Weights
from fedward_server.models import Registered, changed
from fedward_server.store import RunRow, Store

NO_RUN = "it came as a file, not from a run of this hub"
LOST = "the figures of its run cannot be read: restore its folder from a backup"
_TOLD_ELSEWHERE = ("Question", "Hospitals")  # of what a study says of itself in words


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FigureRow(_Part):
    """Figures of one label, or of the mean over all ("")."""

    label: str
    figures: dict[Metric, Figure]


class Study(_Part):
    """The study of a model."""

    id: str
    title: str
    purpose: str
    contact: str
    digest: str
    task: str
    labels: tuple[str, ...]
    method: tuple[tuple[str, str], ...]  # headings, each with its sentences
    privacy: str

    @classmethod
    def of(cls, spec: StudySpec, scope: Scope) -> Self:
        """Of a study that was run."""
        names = {site.name for site in spec.sites}
        told = [(heading, scope.words(text, names)) for heading, text in describe(spec)]
        return cls(
            id=spec.study.id,
            title=scope.words(spec.study.title or spec.study.id, names),
            purpose=scope.words(spec.study.purpose or "", names),
            contact=spec.study.contact or "",
            digest=spec.digest,
            task=spec.study.task,
            labels=spec.cohort.labels,
            method=tuple(pair for pair in told if pair[0] not in _TOLD_ELSEWHERE),
            privacy=privacy_words(spec.privacy),
        )


class Training(_Part):
    """How a run made a model. A steward finds his own hospital among `sites` and how many there were."""

    run: str
    ended: str | None
    rounds: int
    kept_round: int
    sites: tuple[str, ...]
    hospitals: int
    fedward: tuple[str, ...]  # versions, of the hub and of `sites`


class Card(_Part):
    """All of it. `withheld` says why there are no figures, or not all."""

    name: str
    sha256: str
    added: str
    note: str
    network: str | None
    parameters: int
    bytes: int
    study: Study | None
    training: Training | None
    figures: tuple[FigureRow, ...]
    patients: int | None  # on whom the figures rest
    withheld: str | None
    thresholds: dict[str, float]
    limits: tuple[str, ...]
    research_use: str = RESEARCH_USE

    @property
    def measures(self) -> list[Metric]:
        """What is told of at least one label, in order."""
        return [metric for metric in METRIC_TITLES if any(metric in row.figures for row in self.figures)]


def card_of(hub: Hub, store: Store, entry: Registered, path: Path, scope: Scope) -> Card:
    """The card of a registered model, whose arrays are in the file `path`."""
    shown, about, row = _figures_of(hub, entry, scope), None, None
    try:
        parameters, size = weights_file.parameters(path), path.stat().st_size
    except ModelError:
        raise changed(entry.name) from None
    with suppress(ModelError):  # of a network that is not installed here
        about = trained.about(path)
    with suppress(RunError):
        row = store.run(entry.run or "")
    spec = shown.study if shown is not None else about.study if about is not None else None
    block = None if shown is None else shown.overall.get("federated")
    return Card(
        name=entry.name,
        sha256=entry.sha256,
        added=entry.added,
        note=entry.note,
        network=entry.network or (spec.model.name if spec is not None else None),
        parameters=parameters,
        bytes=size,
        study=None if spec is None else Study.of(spec, scope),
        training=None if shown is None else _training(shown, row),
        figures=() if block is None or spec is None else tuple(_rows(block, spec)),
        patients=None if block is None else block.patients,
        withheld=_withheld(entry, shown, block),
        thresholds={} if about is None else about.thresholds,
        limits=limits(about, shown, scope),
    )


def limits(about: Trained | None, shown: RunFigures | None, scope: Scope) -> tuple[str, ...]:
    """What the model cannot do, in sentences, as far as `scope` may know; of one without a run, what its file says."""
    if shown is not None:
        return (*(f"Not in the run: {why}." for why in shown.left_out), *shown.limits)
    return () if about is None or scope.site is not None else about.limits


def header_of(hub: Hub, entry: Registered, path: Path, scope: Scope) -> dict[str, str] | None:
    """What a model's file is to say of itself to whom may not know all that it says; None where that is as it is."""
    about = None if scope.site is None else trained.about(path)
    if about is None:
        return None
    return about.model_copy(update={"limits": limits(about, _figures_of(hub, entry, scope), scope)}).header


def _figures_of(hub: Hub, entry: Registered, scope: Scope) -> RunFigures | None:
    try:
        return None if entry.run is None else figures_of(hub.runs / entry.run, scope)
    except ModelError:  # of another Fedward
        return None


def _training(shown: RunFigures, row: RunRow | None) -> Training:
    result = shown.result
    versions = {result.sites[site].prepared.fedward for site in shown.sites}
    return Training(
        run=result.run,
        ended=None if row is None else row.ended,
        rounds=len(result.history),
        kept_round=result.kept_round,
        sites=tuple(shown.sites),
        hospitals=len(result.sites),
        fedward=tuple(sorted(versions | ({row.fedward_version} if row is not None else set()))),
    )


def _rows(block: Block, study: StudySpec) -> list[FigureRow]:
    asked = study.asked_labels
    of_labels = {asked[0] if len(asked) == 1 else "": block, **block.labels}
    return [FigureRow(label=label, figures=found) for label, own in of_labels.items() if (found := _by_metric(own))]


def _by_metric(block: Block) -> dict[Metric, Figure]:
    return {metric: figure for metric in (*METRICS, *OTHER_METRICS) if (figure := block.figure(metric)) is not None}


def _withheld(entry: Registered, shown: RunFigures | None, block: Block | None) -> str | None:
    if shown is None:
        return NO_RUN if entry.run is None else LOST
    return KEPT if block is None else block.withheld


# As Markdown ----------------------------------------------------------------------------------------------------------


def render(card: Card, lineage: Weights, hub: str) -> str:
    """The card as a page of Markdown, in English."""
    values = {
        "card": card,
        "hub": hub,
        "titles": METRIC_TITLES,
        "parameters": counted(card.parameters),
        "lineage": Markdown("\n".join(_lineage(lineage, 0))),
    }
    return markdown.render("fedward_server", "model-card.md", values) + "\n"


def counted(number: int) -> str:
    """A large number, with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _lineage(weights: Weights, depth: int) -> list[str]:
    heirs = [line for heir in weights.heirs for line in _lineage(heir, depth + 1)]
    return [f"{'  ' * depth}- {plain(_in_words(weights))}", *heirs]


def _in_words(weights: Weights) -> str:
    """What weights are, in English."""
    named = ", ".join(weights.names)
    if not named and weights.called is not None:
        named = f"the {weights.source} {weights.called}, which is not registered here"
    parts = [
        named or ("weights that are not registered" if weights.sha256 else "no model"),
        f"SHA-256 {weights.sha256[:16]}…" if weights.sha256 else "",
        f"made by run {weights.run}" if weights.run and weights.sha256 else "",
        f"run {weights.run} ({weights.status})" if weights.run and not weights.sha256 else "",
        "this model" if weights.this else "",
        "it goes further back" if weights.before else "",
        "more began with it" if weights.after else "",
    ]
    return ", ".join(filter(None, parts))
