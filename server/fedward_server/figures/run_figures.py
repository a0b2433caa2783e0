"""All figures of a finished run, as far as whoever looks may see them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

from fedward_common.metrics import Evaluation, MergedHistogram
from fedward_common.models.trained import RESEARCH_USE
from fedward_common.study import StudySpec
from fedward_server import limits as run_limits
from fedward_server.figures.blocks import (
    Block,
    Count,
    Figure,
    GroupBlocks,
    Metric,
    ModelName,
    Part,
    coarse,
    headline,
    uncounted,
)
from fedward_server.figures.curves import FrocCurve, Spread
from fedward_server.figures.pooling import (
    Evaluations,
    group_blocks,
    merged_scores,
    overall_blocks,
    site_block,
)
from fedward_server.figures.scope import Scope, poolable, reference
from fedward_server.figures.task_blocks import dice_spreads, froc_curves
from fedward_server.result import RoundHistory, RunResult, SiteResult

EVERYBODY = "all hospitals"  # together; no site's name has a space
KEPT = "not shown to a steward: beside his own hospital's it would be one other hospital's"

MODELS: tuple[ModelName, ...] = ("local", "federated", "personal")


class Participation(Part):
    """Rounds that a hospital took part in, over all seeds, and why not in the others."""

    rounds: Count
    of: Count
    missed: dict[str, Count]


class Calls(Part):
    """Test patients by what they have and by what the model says of them at the operating point."""

    true_positives: Count
    false_negatives: Count
    false_positives: Count
    true_negatives: Count

    @classmethod
    def of(cls, block: Block) -> Self | None:
        """What the sensitivity and the specificity of a block are of; None where it has none."""
        sensitivity, specificity = block.sensitivity, block.specificity
        positives, negatives = block.positives, block.negatives
        if sensitivity is None or specificity is None or positives is None or negatives is None:
            return None
        true, right = round(sensitivity.value * positives), round(specificity.value * negatives)
        return cls(
            true_positives=true,
            false_negatives=positives - true,
            false_positives=negatives - right,
            true_negatives=right,
        )


class Gains(NamedTuple):
    """At how many hospitals of which both are known the common model does better than their own, and is told apart."""

    hospitals: int
    better: int
    overlapping: int  # intervals of the two


class Visit(NamedTuple):
    """A cell of the cross-site matrix: what one hospital's own model does on another's test patients."""

    trained_at: str
    tested_at: str
    label: str  # "" for the mean over labels, or where there is one
    figure: Figure | None


@dataclass(frozen=True)
class RunFigures:
    """Reads the figures off a run's result."""

    result: RunResult
    scope: Scope

    @property
    def study(self) -> StudySpec:
        """What was asked."""
        return self.result.study

    @property
    def metric(self) -> Metric:
        """The figure that the run is about."""
        return headline(self.study)

    @cached_property
    def sites(self) -> list[str]:
        """The sites whose own figures may be seen."""
        return [site for site in sorted(self.result.sites) if self.scope.sees(site)]

    @cached_property
    def models(self) -> list[ModelName]:
        """The models that the run compares."""
        return [model for model in MODELS if model == "federated" or self._tests[model]]

    # Blocks ----------------------------------------------------------------------------------------------------------

    @cached_property
    def blocks(self) -> dict[str, dict[ModelName, Block]]:
        """By site, each model on its test patients."""
        return {
            site: {
                model: site_block(self._tests[model].get(site), self.study)
                for model in self.models
                if model == "federated" or site in self._tests[model]
            }
            for site in self.sites
        }

    @cached_property
    def overall(self) -> dict[ModelName, Block]:
        """Each model on all sites' test patients together; without those of which a steward must not know."""
        merged = {model: merged_scores(found, self.study) for model, found in self._pooled.items()}
        found = overall_blocks(self._pooled, merged, self.study)
        if self.scope.site is None:
            return found
        return {model: self._told(block) for model, block in found.items() if self._pooled[model]}

    def _told(self, block: Block) -> Block:
        why = KEPT if self.kept_from else block.withheld and self._told_why(block.withheld)
        return uncounted(block.model_copy(update={"withheld": why}))

    def counts(self, who: str) -> bool:
        """Whether whoever looks may know of how many patients figures are: of all, two runs' would tell one site's.

        Where not, there are no curves either: their steps tell it.
        """
        return self.scope.site is None or who != EVERYBODY

    @cached_property
    def kept_from(self) -> bool:
        """Whether a figure of all sites together is there that whoever looks must not see."""
        return any(self._pooled[model] != self._tests[model] for model in self.models)

    def of(self, who: str, model: ModelName = "federated") -> Block | None:
        """A site's block, or everybody's; None where it is not there."""
        return self.overall.get(model) if who == EVERYBODY else self.blocks.get(who, {}).get(model)

    @cached_property
    def who(self) -> list[str]:
        """Of whom the common model's figures are shown: all together, then each site."""
        return [EVERYBODY, *self.sites] if "federated" in self.overall else self.sites

    @cached_property
    def groups(self) -> GroupBlocks:
        """The common model on groups of all sites' test patients."""
        found = group_blocks(self._pooled["federated"], self.study)
        if self.scope.site is None:
            return found
        return {
            by: {name: {label: uncounted(block) for label, block in of.items()} for name, of in names.items()}
            for by, names in found.items()
        }

    @cached_property
    def gains(self) -> Gains:
        """Who gains, in numbers."""
        found = (
            tuple(block.figure(self.metric) if (block := self.of(site, model)) else None for model in MODELS[:2])
            for site in self.sites
        )
        pairs = [(local, federated) for local, federated in found if local and federated]
        return Gains(
            hospitals=len(pairs),
            better=sum(federated.value > local.value for local, federated in pairs),
            overlapping=sum(federated.low <= local.high and local.low <= federated.high for local, federated in pairs),
        )

    @cached_property
    def across(self) -> list[Visit]:
        """The cross-site matrix of whoever may see all of it."""
        if self.scope.site is not None:
            return []
        return [
            Visit(maker, site, label, figure)
            for site, found in sorted(self.result.sites.items())
            for maker, evaluation in sorted({**found.across, **_own(site, found)}.items())
            for label, figure in self._main_figures(evaluation)
            if found.across
        ]

    def _main_figures(self, evaluation: Evaluation) -> Iterator[tuple[str, Figure | None]]:
        block = site_block(evaluation, self.study)
        yield "", block.figure(self.metric)
        yield from ((label, own.figure(self.metric)) for label, own in block.labels.items())

    # Curves ----------------------------------------------------------------------------------------------------------

    @cached_property
    def scores(self) -> dict[str, dict[str, MergedHistogram]]:
        """By who and label, the scores of the common model on test patients."""
        return {who: merged_scores(self._of(who), self.study) for who in self.who if self.counts(who)}

    @cached_property
    def froc(self) -> dict[str, dict[str, FrocCurve]]:
        """By who and kind of finding, the common model's FROC curve."""
        return {who: froc_curves(self._of(who).values()) for who in self.who if self.counts(who)}

    @cached_property
    def dice(self) -> dict[str, dict[str, Spread]]:
        """By who and structure, how the common model's Dice is spread."""
        return {who: dice_spreads(self._of(who).values()) for who in self.who if self.counts(who)}

    def _of(self, who: str) -> Evaluations:
        tests = self._tests["federated"]
        if who == EVERYBODY:
            return self._pooled["federated"]
        return {who: tests[who]} if who in tests else {}

    # Rounds ----------------------------------------------------------------------------------------------------------

    @cached_property
    def history(self) -> dict[str, list[dict[str, Any]]]:
        """By who and round: the loss in training, and how the model that it made does on validation patients."""
        found = {EVERYBODY: [self._round(row) for row in self.result.history]}
        for site in self.sites:
            found[site] = [_site_round(row, site) for row in self.result.history if site in row.sites]
        return {who: rows for who, rows in found.items() if any(row["train_loss"] is not None for row in rows)}

    def _round(self, row: RoundHistory) -> dict[str, Any]:
        trained = self.scope.pools(row.sites)
        scored = trained and self.scope.pools(row.site_primary)
        return {
            "round": row.round,
            "train_loss": row.train_loss if trained else None,
            "validation_loss": row.validation_loss if scored else None,
            "primary": (row.primary if self.counts(EVERYBODY) else coarse(row.primary)) if scored else None,
        }

    def stage(self, number: int) -> str:
        """What a round is of, in words; "" in a run of one stage."""
        layer = self.study.layer(number)
        return self.study.stage(number) if layer is None else f"layer {layer + 1}"

    @cached_property
    def participation(self) -> dict[str, Participation]:
        """By site, in how many rounds it took part."""
        rows = self.result.history
        return {
            site: Participation(
                rounds=sum(site in row.sites for row in rows),
                of=len(rows),
                missed=dict(
                    sorted(Counter(self._told_why(row.refused[site]) for row in rows if site in row.refused).items())
                ),
            )
            for site in self.sites
        }

    # Words -----------------------------------------------------------------------------------------------------------

    def _told_why(self, reason: str) -> str:
        return self.scope.words(reason, self._names)

    @cached_property
    def left_out(self) -> list[str]:
        """Why a site did not take part, a sentence each; a steward is told of his own."""
        own = self.scope.site
        return [
            self._told_why(each)
            for each in self.result.left_out
            if own is None or each.startswith((f"{own}: ", f"{own} "))
        ]

    @cached_property
    def limits(self) -> list[str]:
        """What the figures cannot say, a sentence each."""
        tested = sum(each.patients for each in self._tests["federated"].values() if each.patients)
        patients = tested or None if self.counts(EVERYBODY) else None
        said = run_limits.limits(self.study, sorted(self.result.sites), patients=patients)
        unseen = run_limits.unseen(self.study, self._tests["federated"].values())
        return [self._told_why(each) for each in (*unseen, *said)]

    @cached_property
    def _names(self) -> set[str]:
        """Of all sites that there may be words of."""
        return {*self.result.sites, *(site.name for site in self.study.sites)}

    # -----------------------------------------------------------------------------------------------------------------

    @cached_property
    def _tests(self) -> dict[ModelName, Evaluations]:
        sites = sorted(self.result.sites.items())
        return {
            "local": {site: found.alone for site, found in sites if found.alone is not None},
            "federated": {site: found.test for site, found in sites if found.test is not None},
            "personal": {site: found.personal for site, found in sites if found.personal is not None},
        }

    @cached_property
    def _reference(self) -> set[str]:
        return reference(self._tests["federated"])

    @cached_property
    def _pooled(self) -> dict[ModelName, Evaluations]:
        return {model: poolable(self._tests[model], self.scope, self._reference) for model in self.models}

    def public(self) -> dict[str, Any]:
        """All of it as JSON."""
        result = self.result
        return {
            "run": result.run,
            "engine": result.engine,
            "study": {
                "id": self.study.study.id,
                "title": self.study.study.title,
                "digest": self.study.digest,
                "task": self.study.study.task,
                "labels": list(self.study.cohort.labels),
                "positive": self.study.cohort.positive,
            },
            "metric": self.metric,
            "rounds": len(result.history),
            "kept_round": result.kept_round,
            "model_sha256": result.model_sha256,
            "thresholds": result.thresholds,
            "sites": [
                {
                    "name": site,
                    "patients": result.sites[site].prepared.told_patients,
                    "fedward": result.sites[site].prepared.fedward,
                    "participation": self.participation[site].model_dump(),
                    **_blocks(blocks),
                }
                for site, blocks in self.blocks.items()
            ],
            "overall": _blocks(self.overall),
            "subgroups": {by: {name: _blocks(own) for name, own in names.items()} for by, names in self.groups.items()},
            "across": [
                {**visit._asdict(), "figure": visit.figure and visit.figure.model_dump()} for visit in self.across
            ],
            "history": self.history,
            "left_out": self.left_out,
            "limits": self.limits,
            "withheld_from_you": KEPT if self.kept_from else None,
            "wall_s": result.wall_s,
            "research_use": RESEARCH_USE,
        }


def _own(site: str, found: SiteResult) -> dict[str, Evaluation]:
    return {} if found.alone is None else {site: found.alone}


def _site_round(row: RoundHistory, site: str) -> dict[str, Any]:
    return {"round": row.round, "train_loss": row.sites[site].train_loss, "primary": row.site_primary.get(site)}


def _blocks(blocks: Mapping[Any, Block]) -> dict[str, Any]:
    return {name: block.model_dump() for name, block in blocks.items()}
