"""After the last round: the figures of the model that a run keeps, and what each hospital gained by taking part.

Two trips score the model: on validation patients, from which the operating point is fixed, then on test patients at
that point. To see what they gained, the hospitals that train then also train alone, and score that. Where every site's
policy lets such a model leave ("local_model"), each is scored at every other site too: the cross-site matrix.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedward_common.metrics import Evaluation, pooled
from fedward_common.records import Evaluated, Question, from_array_record
from fedward_common.study import StudySpec
from fedward_server.checks import Gate
from fedward_server.inquiry import Inquiry, State
from fedward_server.result import SiteResult
from fedward_server.roster import Participant
from fedward_server.shelf import Shelf

LOCAL_MODELS = ".local-models"  # in a run's folder, for those that wait to be scored; none is kept at the hub


@dataclass(kw_only=True, slots=True)
class Closing:
    """The questions after round `after`. What they gave is in `validation`, `test`, `alone` and `across`, by site."""

    inquiry: Inquiry
    sites: Sequence[Participant]
    folder: Path  # of the run
    after: int
    validation: dict[str, Evaluated] = field(default_factory=dict)
    test: dict[str, Evaluated] = field(default_factory=dict)
    alone: dict[str, Evaluation] = field(default_factory=dict)  # a site's own model on its own test patients
    across: dict[str, dict[str, Evaluation]] = field(default_factory=dict)  # on its test patients: others' models

    def validate(self, state: State) -> None:
        """Score a model on validation patients."""
        self.validation = self._scored(state, "validation", None)

    def evaluate(self, state: State, thresholds: Mapping[str, float]) -> None:
        """Score a model on test patients, at an operating point for each label."""
        self.test = self._scored(state, "test", dict(thresholds))

    def keep_fold(self, state: State, fold: int) -> int:
        """Have a fold's model score the fold's patients: the scores stay at the sites until all folds are scored.

        Gives the number of sites that did. One that did not has no figures at the run's end.
        """
        question = self.inquiry.question("evaluate", side="test", fold=fold)
        return sum(1 for _ in self.inquiry.scores(question, state, self.sites, self.after))

    def of_trainers(self) -> dict[str, Evaluation]:
        """The validation figures of sites that train."""
        trainers = {site.name for site in self.sites if site.trains}
        return {site: found.evaluation for site, found in sorted(self.validation.items()) if site in trainers}

    def compare(self, start: State) -> None:
        """What each hospital that trains reaches without the others, from the weights that the run began with.

        It takes as long as all rounds together, at all of them at once; the matrix, a trip a hospital more.
        """
        self.inquiry.tell("comparing", self.after)
        study = self.inquiry.study
        lent = all(site.prepared.local_model for site in self.sites)
        question = self._question("test", model="alone", hand_over=lent)
        rounds = study.rounds + 1  # one for the figures
        gate, shelf, models = Gate(start, max_update_norm=None), Shelf(self.folder / LOCAL_MODELS), {}
        trainers = [site for site in self.sites if site.learns()]
        for site, evaluated, arrays in self.inquiry.scores(question, start, trainers, self.after, rounds=rounds):
            self.alone[site.name] = evaluated.evaluation
            if not lent:
                continue
            if reason := gate.check(site.name, from_array_record(arrays)):
                self.inquiry.tell("refused", self.after, site=site.name, note=reason)
                continue
            models[site.name] = shelf.put(arrays)
        for maker in sorted(models):
            others = [site for site in self.sites if site.name != maker]
            question = self._question("test", model="other")
            for scored in self.inquiry.scores(question, from_array_record(models.pop(maker)), others, self.after):
                self.across.setdefault(scored.site.name, {})[maker] = scored.evaluated.evaluation
        shelf.clear()

    def result(self, site: Participant) -> SiteResult:
        """All of a site's figures."""
        name = site.name
        validation, test = self.validation.get(name), self.test.get(name)
        return SiteResult(
            prepared=site.prepared,
            validation=validation.evaluation if validation is not None else None,
            test=test.evaluation if test is not None else None,
            personal=test.personal if test is not None else None,
            alone=self.alone.get(name),
            across=self.across.get(name, {}),
        )

    def _scored(
        self, state: State, side: Literal["validation", "test"], thresholds: dict[str, float] | None
    ) -> dict[str, Evaluated]:
        question = self._question(side, thresholds=thresholds)
        scores = self.inquiry.scores(question, state, self.sites, self.after)
        return {site.name: evaluated for site, evaluated, _ in scores}

    def _question(
        self,
        side: Literal["validation", "test"],
        *,
        model: Literal["sent", "alone", "other"] = "sent",
        thresholds: dict[str, float] | None = None,
        hand_over: bool = False,
    ) -> Question:
        return self.inquiry.question("evaluate", side=side, model=model, thresholds=thresholds, hand_over=hand_over)


def operating_points(study: StudySpec, evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """A threshold for each label whose merged validation sketch is there."""
    held = list(evaluations)
    merged = {label: pooled(held, label) for label in study.asked_labels}
    rule = study.evaluation.operating_point
    return {label: histogram.threshold(rule) for label, histogram in merged.items() if histogram is not None}
