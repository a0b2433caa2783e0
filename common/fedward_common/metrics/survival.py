"""How well risks order patients by their time to an event: Harrell's C, and the loss of Cox's model."""

import math
from collections.abc import Iterable
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from fedward_common.metrics.base import Bools, Count, Floats, Parts, Record
from fedward_common.metrics.cells import counts_in, told_groups
from fedward_common.metrics.intervals import LEVEL, Estimate, logit_interval, wilson_interval

MAX_PAIRS = 10**18

_SAME = 1e-18  # a variance that rounding alone makes of patients whose pairs are alike


class Concordance(Record):
    """Harrell's C of patients of one or more sites, over the pairs that are within a site.

    A pair is comparable where one of the two is known to have had the event first: at the earlier time, or at the same
    time as the other's follow-up ended without one. It is concordant where that patient's risk is the higher; equal
    risks count half (Harrell et al. 1982, "Evaluating the yield of medical tests", JAMA 247:2543-2546). `variance` is
    that of `value` by the infinitesimal jackknife over patients (Therneau & Grambsch 2000, "Modeling Survival Data",
    ch. 7; as R's survival::concordance).
    """

    patients: Count
    events: Count
    concordant: Annotated[float, Field(ge=0.0, le=float(MAX_PAIRS))]
    comparable: Annotated[int, Field(ge=1, le=MAX_PAIRS)]
    variance: Annotated[float, Field(ge=0.0, le=1.0)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.events > self.patients or self.comparable > self.patients * (self.patients - 1) // 2:
            raise ValueError(f"{self.patients} patients have no such number of events or of pairs")
        if self.concordant > self.comparable or not self.events:
            raise ValueError("concordant pairs are among the comparable ones, of which each has an event")
        return self

    @property
    def value(self) -> float:
        """C in [0, 1]; 0.5 is no order at all."""
        return self.concordant / self.comparable

    def interval(self, level: float = LEVEL) -> Estimate:
        """C with its interval on the logit scale; where the variance is 0, Wilson's of a share of the events."""
        if self.variance < _SAME or self.value in (0.0, 1.0):
            return wilson_interval(self.value * self.events, self.events, level)
        return logit_interval(self.value, self.variance, level)

    @classmethod
    def of(cls, risks: Floats, times: Floats, events: Bools, k: int) -> Self | None:
        """Of patients' `risks` [n], the higher the sooner, follow-up `times` [n] and `events` [n] (else censored).

        None where fewer than `k` patients had the event, where some but fewer than `k` were censored, and where no pair
        is comparable.
        """
        had = int(np.count_nonzero(events))
        if had < max(k, 1) or 0 < events.size - had < k:
            return None
        concordant, comparable = np.zeros(events.size), np.zeros(events.size)  # pairs that each patient is in
        for index in np.flatnonzero(events):  # who had the event first
            others = (times > times[index]) | ((times == times[index]) & ~events)
            share = (risks < risks[index]) + 0.5 * (risks == risks[index])
            won = np.where(others, share, 0.0)
            comparable += others
            concordant += won
            comparable[index] += np.count_nonzero(others)
            concordant[index] += won.sum()
        pairs, right = int(comparable.sum()) // 2, float(concordant.sum()) / 2
        if not pairs:
            return None
        influence = (concordant - right / pairs * comparable) / pairs
        return cls(
            patients=events.size,
            events=had,
            concordant=right,
            comparable=pairs,
            variance=min(float(influence @ influence), 1.0),
        )

    @classmethod
    def of_groups(cls, risks: Floats, times: Floats, events: Bools, parts: Parts, k: int) -> dict[str, Self]:
        """Those of groups of patients, over the pairs within each: of whom it may be told beside that of all.

        Each has at least `k` patients with the event and, where anybody was censored, `k` censored; so have all others
        together, or nobody is left.
        """
        told = sorted(told_groups(counts_in(parts, np.flatnonzero(events), np.flatnonzero(~events)), k))
        found = {name: cls.of(risks[parts[name]], times[parts[name]], events[parts[name]], k) for name in told}
        return {name: one for name, one in found.items() if one is not None}


def pooled_concordance(parts: Iterable[Concordance]) -> Concordance | None:
    """C over the pairs within each of several sites, a site weighing as many as it has; None of no site."""
    held = list(parts)
    if not held:
        return None
    pairs = sum(part.comparable for part in held)
    return Concordance(
        patients=sum(part.patients for part in held),
        events=sum(part.events for part in held),
        concordant=sum(part.concordant for part in held),
        comparable=pairs,
        variance=sum(part.variance * (part.comparable / pairs) ** 2 for part in held),
    )


def cox_loss(log_risks: Floats, times: Floats, events: Bools) -> float:
    """-log of Cox's partial likelihood over patients [n], ties by Breslow, divided by n: sums over sites add up.

    Cox (1972), "Regression models and life-tables", JRSS B 34:187-220; Breslow (1974), Biometrics 30:89-99. Risk sets
    are those of the site: over several it is the model stratified by site.
    """
    order = np.argsort(-times, kind="stable")
    at_risk = np.logaddexp.accumulate(log_risks[order])
    last = np.searchsorted(-times[order], -times[order], side="right") - 1  # of those with the same time
    terms = np.where(events[order], at_risk[last] - log_risks[order], 0.0)
    return max(math.fsum(terms) / events.size, 0.0)
