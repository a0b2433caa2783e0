"""A whole study: its sections, which of them cannot stand together, and what follows from them for a round or a site.

Every rule runs wherever a spec is made: from a file, from the wire, from code. `fedward_common.study` reads files.
"""

import hashlib
from datetime import date
from typing import Annotated, Literal, Self

import rfc8785
from pydantic import Field

from fedward_common import study_rules, study_split_rules
from fedward_common.study_cohort import Cohort
from fedward_common.study_input import Input
from fedward_common.study_inputs import AnyInput
from fedward_common.study_section import Rule, Section
from fedward_common.study_small_sections import (
    About,
    Evaluation,
    Model,
    Privacy,
    Sites,
    Update,
)
from fedward_common.study_split import Split
from fedward_common.study_strategy import Strategy
from fedward_common.study_table import TableInput
from fedward_common.study_task import TASKS
from fedward_common.study_training import Phase, Training, Work

SCHEMA_VERSION: Literal[1] = 1


class StudySpec(Section):
    """A whole study, defaults filled in."""

    schema_version: Literal[1] = SCHEMA_VERSION
    min_fedward: str = "0.1.0"
    study: About
    cohort: Cohort
    split: Split = Split()
    input: AnyInput = Input()
    model: Model
    phases: Annotated[tuple[Phase, ...], Field(max_length=16)] = ()
    training: Training = Training()
    strategy: Strategy = Strategy()
    update: Update = Update()
    privacy: Privacy = Privacy()
    evaluation: Evaluation = Evaluation()
    sites: Sites = ()

    rules = (
        Rule(("min_fedward",), study_rules.min_fedward),
        Rule(("study", "input", "cohort", "evaluation", "training"), study_rules.task),
        Rule(("study", "model", "input", "cohort"), study_rules.model),
        Rule(("model", "input"), study_rules.visible),
        Rule(("model", "input"), study_rules.inflate),
        Rule(("cohort", "input"), study_rules.modality),
        Rule(("input", "cohort"), study_rules.images_only),
        Rule(("input", "training"), study_rules.varied),
        Rule(("cohort", "phases", "training"), study_rules.unlabelled),
        Rule(("study", "cohort", "split", "strategy", "training"), study_rules.pseudo_labels),
        Rule(("training", "evaluation"), study_rules.stops_after_them),
        Rule(("phases", "model", "strategy"), study_rules.phases),
        Rule(("model", "training", "strategy"), study_rules.batch_norm),
        Rule(("training", "split", "sites"), study_split_rules.local_layers),
        Rule(("strategy", "training"), study_rules.plain_sgd),
        Rule(("strategy", "training"), study_rules.eta_l),
        Rule(("update", "strategy"), study_rules.compared),
        Rule(("sites",), study_split_rules.roster),
        Rule(("strategy", "split", "sites"), study_split_rules.quorum),
        Rule(("split", "sites"), study_split_rules.left_out_site),
        Rule(("evaluation", "split"), study_split_rules.decided_by_validation),
        Rule(("study", "split", "phases", "evaluation"), study_split_rules.folds),
        Rule(("split", "strategy", "training", "input"), study_split_rules.anew),
    )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the RFC 8785 JSON of the resolved study."""
        return hashlib.sha256(self.canonical_json()).hexdigest()

    def canonical_json(self) -> bytes:
        """RFC 8785 (JCS) JSON of the resolved study, defaults included."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: bytes | str) -> Self:
        """Read what `canonical_json` wrote."""
        return cls.model_validate_json(text)

    @property
    def rounds(self) -> int:
        """Of all phases and of [training], which are done once a fold and once with all patients."""
        return sum(phase.rounds for phase in self.phases) + self.training.rounds * ((self.split.folds or 0) + 1)

    def fold(self, round_number: int) -> int | None:
        """The fold of a round, from 0; None without folds, and in the last rounds, which train on all patients."""
        return self.split.fold(round_number, self.training.rounds)

    def stage(self, round_number: int) -> str:
        """What a round is of, in words: "fold 2 of 5", "all patients" after the last fold; "" without folds."""
        if self.split.folds is None:
            return ""
        fold = self.fold(round_number)
        return "all patients" if fold is None else f"fold {fold + 1} of {self.split.folds}"

    def ends_fold(self, round_number: int) -> bool:
        """Whether a round is the last of a fold: then its test patients are scored."""
        fold = self.fold(round_number)
        return fold is not None and fold != self.fold(round_number + 1)

    def begins_anew(self, round_number: int) -> bool:
        """Whether a strategy begins anew with a round: the first of another layer, or after a fold."""
        before = round_number - 1
        return before > 0 and (self.layer(round_number) != self.layer(before) or self.ends_fold(before))

    def layer(self, round_number: int) -> int | None:
        """Which layer learns alone in a round, from 0; None in the rounds of [training], where all learn."""
        last = 0
        for index, phase in enumerate(self.phases):
            last += phase.rounds
            if round_number <= last:
                return index
        return None

    def pseudo_labelled(self, round_number: int) -> bool:
        """Whether the model's own word is taken for labels in a round."""
        after = self.training.pseudo_labels_after
        return after is not None and round_number > sum(phase.rounds for phase in self.phases) + after

    def takes_unlabelled(self, round_number: int) -> bool:
        """Whether patients without a label take part in a round."""
        return self.layer(round_number) is not None or self.pseudo_labelled(round_number)

    def work(self, round_number: int) -> Work:
        """What a site does in a round: a phase's, or that of [training]."""
        layer = self.layer(round_number)
        return self.training if layer is None else self.phases[layer]

    def round_of_strategy(self, round_number: int) -> int:
        """A round as its strategy counts them, from 1: it begins anew with each layer and each fold."""
        first = round_number
        while first > 1 and not self.begins_anew(first):
            first -= 1
        return round_number - first + 1

    @property
    def positive_index(self) -> int | None:
        """Index into `cohort.labels` of the positive label, None where there is none (then every class counts)."""
        return None if self.cohort.positive is None else self.cohort.labels.index(self.cohort.positive)

    @property
    def several(self) -> bool:
        """Whether an example may have several of the labels or none: 1, 0, or -1 of each where it is not known."""
        return self.cohort.multi_label or TASKS[self.study.task].several

    @property
    def needed_labels(self) -> tuple[str, ...]:
        """The labels of which a site needs a training patient each: all; none of several an example; or the event."""
        if not self.cohort.every_label or self.several:
            return ()
        return self.asked_labels if self.study.task == "survival" else self.cohort.labels

    @property
    def asked_labels(self) -> tuple[str, ...]:
        """The labels that have an operating point: the positive one, or all where there is none."""
        return self.cohort.labels if self.cohort.positive is None else (self.cohort.positive,)

    def only_evaluates(self, site: str) -> bool:
        """Whether a site trains nothing here: its role says so, or it is the site left out of the split."""
        left_out = self.split.kind == "leave-site-out" and self.split.site == site
        return left_out or any(entry.name == site and entry.role == "evaluate" for entry in self.sites)

    def measures(self, site: str) -> bool:
        """Whether a site's patients are in the scale that sites measure: where it trains.

        Where devices are compared (ComBat) every site's are, for what its own adds is not known otherwise.
        """
        compared = isinstance(self.input, TableInput) and bool(self.input.combat)
        return compared or not self.only_evaluates(site)

    def ended(self, today: date) -> bool:
        """Whether the study's last day is over; a run must not start then. Reading such a study is no error."""
        return self.study.ends is not None and today > self.study.ends
