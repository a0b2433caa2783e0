"""[split]: who is trained on, who chooses the operating point, who is tested; and the folds of a cross-validation.

In a study with folds every round but the last ones belongs to a fold: the rounds of [training] are done once a fold,
from the first weights each time, and once more with all patients. That last model is the run's; its figures are those
of the folds. A site refuses folds of fewer patients than its own small-cell limit: one at a time is for a limit of 1.
"""

from collections.abc import Iterator
from math import isclose
from typing import Annotated, Literal

from pydantic import Field

from fedward_common.study_faults import Fault
from fedward_common.study_section import Fraction, Rule, Section, Slug, only_with

FOLDED = ("folds", "leave-one-patient-out")
_SHARES = (0.6, 0.2, 0.2)


def _shares(shares: tuple[float, float, float], kind: str) -> Iterator[Fault]:
    if not isclose(sum(shares), 1.0, abs_tol=1e-9):
        yield Fault(("shares",), f"must add up to 1 (train, validation, test); these add up to {sum(shares):g}")
    if shares[0] == 0:
        yield Fault(("shares", 0), "must be above 0: it is the share of training patients")
    if kind in FOLDED and shares != _SHARES:
        yield Fault(("shares",), f'has no effect with kind = "{kind}": one fold is tested, the next one validates')
    if kind == "column" and shares != _SHARES:
        yield Fault(("shares",), 'has no effect with kind = "column": the column says who is on which side; remove it')


def _left_out(site: str | None, kind: str) -> Iterator[Fault]:
    if kind == "leave-site-out" and site is None:
        yield Fault(("site",), 'missing; kind = "leave-site-out" needs the name of the site that is only tested')


def _folds(folds: int | None, kind: str) -> Iterator[Fault]:
    if kind in FOLDED and folds is None:
        many = "as many as the hospital with most patients has" if kind == FOLDED[1] else "5 or 10, for example"
        yield Fault(("folds",), f'missing; kind = "{kind}" needs the number of folds: {many}')
    if kind not in FOLDED and folds is not None:
        yield Fault(("folds",), 'has no effect without kind = "folds" or "leave-one-patient-out"; remove it')


class Split(Section):
    """[split]: train, validation and test, always by patient."""

    kind: Literal["hash", "column", "folds", "leave-one-patient-out", "leave-site-out"] = "hash"
    shares: tuple[Fraction, Fraction, Fraction] = _SHARES  # train, validation, test
    column: Annotated[str, Field(min_length=1)] = "split"  # of the label table, for "column": train | validation | test
    # for "folds" and "leave-one-patient-out"; of two folds one would be tested and one validate, and none train
    folds: Annotated[int, Field(ge=3, le=1000)] | None = None
    site: Slug | None = None  # which site is only tested, for "leave-site-out"

    rules = (
        Rule(("shares", "kind"), _shares),
        Rule(("site", "kind"), _left_out),
        Rule(("folds", "kind"), _folds),
        only_with("column", "split", "kind", "column"),
        only_with("site", None, "kind", "leave-site-out"),
    )

    @property
    def validates(self) -> bool:
        """Whether some patients are for validation, as far as the study says."""
        return self.kind not in {"hash", "leave-site-out"} or self.shares[1] > 0

    def fold(self, round_number: int, rounds: int) -> int | None:
        """The fold of a round, from 0, where each has so many `rounds`; None without folds and in the last rounds."""
        at = (round_number - 1) // rounds
        return at if 0 <= at < (self.folds or 0) else None
