"""Best round and early stopping, quarantine: small rules, worked by hand."""

import pytest

from fedward_common.errors import StudyError
from fedward_common.study import Evaluation, loads
from fedward_common.study_small_sections import EarlyStopping
from fedward_server.quarantine import OFFENCES, Quarantine
from fedward_server.selection import Selection, Standing


def followed(rules: Evaluation, values: list[float | None]) -> tuple[Selection, int | None]:
    """A selection after these rounds, and the round after which it would have stopped."""
    selection = Selection(rules)
    for number, value in enumerate(values, start=1):
        selection.score(number, value)
        if selection.stalled(number):
            return selection, number
    return selection, None


def test_the_best_area_is_the_largest_and_the_first_of_equals() -> None:
    selection, _ = followed(Evaluation(keep="best"), [0.7, 0.9, 0.8, 0.9])
    assert (selection.standing.best_round, selection.standing.best) == (2, 0.9)


def test_the_best_loss_is_the_smallest() -> None:
    selection, _ = followed(Evaluation(keep="best", primary="loss"), [0.7, 0.5, None, 0.6])
    assert selection.standing.best_round == 2


@pytest.mark.parametrize(
    ("patience", "delta", "values", "ends"),
    [
        (2, 0.0, [0.7, 0.8, 0.79, 0.8], 4),
        (2, 0.0, [0.7, 0.8, 0.79, 0.81, 0.8], None),
        (2, 0.05, [0.70, 0.72, 0.74, 0.9], 3),  # each a little better, none by enough
        (1, 0.0, [0.7, 0.6], 2),
        (3, 0.0, [0.7, None, None, None], 4),
    ],
)
def test_it_stops_after_so_many_rounds_without_a_gain(
    patience: int, delta: float, values: list[float | None], ends: int | None
) -> None:
    rules = Evaluation(early_stopping=EarlyStopping(patience=patience, min_delta=delta))
    assert followed(rules, values)[1] == ends


def test_it_goes_on_over_a_resume() -> None:
    rules = Evaluation(early_stopping=EarlyStopping(patience=2))
    before, _ = followed(rules, [0.8, 0.7])
    after = Selection(rules, Standing.model_validate_json(before.standing.model_dump_json()))
    after.score(3, 0.75)
    assert after.stalled(3)


STUDY = """
[study]
id = "s"
task = "classification"
[cohort]
labels = ["a", "b"]
positive = "b"
[split]
shares = [0.8, 0.0, 0.2]
[model]
name = "small-cnn"
[evaluation]
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('primary = "dice"', 'primary = "dice"'),
        ('keep = "best"', "needs validation patients"),
        ("early_stopping = { patience = 3 }", "needs validation patients"),
        ("early_stopping = { patience = 0 }", "patience"),
    ],
)
def test_what_cannot_decide_is_refused_at_the_start(line: str, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        loads(STUDY + line)


def test_an_offender_is_told_why_in_the_next_round_and_left_out_in_the_end() -> None:
    quarantine = Quarantine()
    assert not quarantine.offend("bad", 2, "NaN")
    assert quarantine.notice("bad", 3) == "the update of round 2 was refused: NaN"
    assert quarantine.notice("bad", 4) is None
    assert quarantine.notice("good", 3) is None
    assert not quarantine.offend("bad", 3, "NaN")
    assert quarantine.offend("bad", 7, "NaN")
    assert OFFENCES == 3
    assert quarantine.is_out("bad")
    assert not quarantine.is_out("good")
    assert quarantine.sentence("bad") == "bad: left out since round 8, its updates of rounds 2, 3 and 7 were refused"
