"""[split] with folds: how rounds are numbered, what cannot stand beside it, and what a study says of itself."""

import pytest

from fedward_common.errors import StudyError
from fedward_common.records import Question
from fedward_common.study import StudySpec, loads
from fedward_common.study_text import describe
from fedward_common.testing import tiny_study

FOLDS = 'kind = "folds"\nfolds = 3'


def text(split: str = FOLDS, **sections: str) -> str:
    every = {"split": split, "training": "rounds = 2", "model": 'name = "dbn"', **sections}
    return """[study]
id = "s"
task = "classification"
[cohort]
labels = ["healthy", "ill"]
positive = "ill"
""" + "".join(f"[{name}]\n{lines}\n" for name, lines in every.items())


def test_rounds_are_numbered_through_all_folds_and_the_last_ones() -> None:
    spec = loads(text())
    assert spec.rounds == 8
    assert [spec.fold(number) for number in range(10)] == [None, 0, 0, 1, 1, 2, 2, None, None, None]
    assert [number for number in range(9) if spec.ends_fold(number)] == [2, 4, 6]
    assert [number for number in range(9) if spec.begins_anew(number)] == [3, 5, 7]
    assert [spec.round_of_strategy(number) for number in range(1, 9)] == [1, 2] * 4
    assert [spec.stage(number) for number in (1, 6, 7)] == ["fold 1 of 3", "fold 3 of 3", "all patients"]
    assert StudySpec.from_json(spec.canonical_json()) == spec
    plain = loads(text("shares = [0.6, 0.2, 0.2]"))
    assert (plain.rounds, plain.fold(1), plain.ends_fold(2), plain.begins_anew(2)) == (2, None, False, False)
    assert plain.stage(1) == ""


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"evaluation": 'keep = "best"'}, 'keep = "best": goes by figures of each round, and [split] kind = "folds"'),
        ({"evaluation": "early_stopping = { patience = 2 }"}, "tells none before its last fold; remove it"),
        ({"strategy": 'name = "ditto"\noptions = { proximal_lambda = 0.1 }'}, "each fold of [split] begins anew"),
        ({"[phases]": "rounds = 1"}, 'cannot stand beside [split] kind = "folds"; remove them, or split by "hash"'),
        ({"input": 'size = [32, 32]\nintensity = "landmarks"'}, "cannot stand beside a scale that hospitals measure"),
        (
            {
                "model": 'name = "resnet10"\noptions = { norm = "batch" }',
                "training": 'rounds = 2\nbatch_norm = "local"',
            },
            "[training] batch_norm = \"local\": keeps layers at each hospital over all rounds, and each fold",
        ),
    ],
)  # fmt: skip
def test_what_would_carry_over_from_fold_to_fold_is_refused(sections: dict[str, str], says: str) -> None:
    with pytest.raises(StudyError) as caught:
        loads(text(**sections), "s.toml")
    assert says in str(caught.value)


def test_a_study_says_what_its_folds_are_and_what_the_hub_sees() -> None:
    told = dict(describe(loads(text())))
    assert told["Split"] == (
        "By patient, at random, in 3 folds, each of which is tested in turn. The next fold chooses the operating "
        "point, the others train. No model is tested on a patient that it was trained on. Scores stay at the hospital "
        "until all folds are scored, and are evaluated together. The last model is trained on all patients and is the "
        "run's; the figures are those of the folds' models. The hub receives updates with a fold's patients and "
        "without them. A hospital refuses where a fold would test fewer of its patients than its own small-cell rule "
        "tells of."
    )
    assert "All this for each of 3 folds and once more for all, 8 rounds together." in told["Training"]
    alone = dict(describe(loads(text('kind = "leave-one-patient-out"\nfolds = 12'))))
    assert alone["Split"].startswith("Each patient of a hospital is tested alone, in up to 12 folds.")


def test_a_question_is_of_a_fold_of_the_studys() -> None:
    study = tiny_study(split={"kind": "folds", "folds": 3, "shares": [0.6, 0.2, 0.2]})
    asked = Question(kind="evaluate", study=study, run="run-1", side="test", fold=2)
    assert Question.model_validate_json(asked.model_dump_json()).fold == 2
    for wrong in ({"fold": 3}, {"kind": "train"}, {"study": tiny_study()}):
        with pytest.raises(ValueError, match="the fold is none of the study's"):
            Question.model_validate({**dict(asked), **wrong})


def test_a_round_of_a_fold_is_never_scored() -> None:
    """Figures of one fold, and those of all, would tell of the rest by the difference."""
    study = tiny_study(split={"kind": "folds", "folds": 3, "shares": [0.6, 0.2, 0.2]})
    with pytest.raises(ValueError, match="nothing of one is told before all are scored"):
        Question(kind="train", study=study, run="run-1", score_incoming=True)
