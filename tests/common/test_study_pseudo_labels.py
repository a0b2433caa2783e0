"""[training] pseudo_labels_after: what is refused, in which words, and what a study says of itself."""

import pytest

from fedward_common.errors import StudyError
from fedward_common.study import StudySpec, loads
from fedward_common.study_text import describe

ASKED = "pseudo_labels_after = 4"


def text(pseudo: str = ASKED, *, cohort: str = "unlabelled = true", training: str = "", more: str = "") -> str:
    return f"""[study]
id = "s"
task = "classification"
[cohort]
labels = ["healthy", "ill"]
positive = "ill"
{cohort}
[model]
name = "small-cnn"
[training]
rounds = 10
{training}
{pseudo}
{more}
"""


def refusal(study: str) -> str:
    with pytest.raises(StudyError) as caught:
        loads(study, "s.toml")
    (line,) = str(caught.value).split("\n")
    return line


def test_rounds_after_those_take_the_models_word() -> None:
    spec = loads(text())
    assert spec.training.pseudo_labels_after == 4
    assert [spec.pseudo_labelled(number) for number in (1, 4, 5, 10)] == [False, False, True, True]
    assert StudySpec.from_json(spec.canonical_json()) == spec
    phases = loads(text(more="[[phases]]\nrounds = 2").replace("small-cnn", "rbm"))
    assert [phases.takes_unlabelled(number) for number in (2, 3, 6, 7)] == [True, False, False, True]
    assert [phases.pseudo_labelled(number) for number in (2, 6, 7)] == [False, False, True]


def test_a_study_says_whose_word_it_takes() -> None:
    told = dict(describe(loads(text())))
    assert "Patients without a label learn too, and hospitals that lack labels." in told["Patients"]
    assert (
        "After 4 rounds of known labels alone, training images without a label are learned from by the model's own "
        "word, the label that it finds most likely."
    ) in told["Training"]
    assert "own word" not in str(describe(loads(text("", cohort=""))))


@pytest.mark.parametrize(
    ("study", "says"),
    [
        (text(cohort=""), "has no effect without [cohort] unlabelled = true"),
        (text(""), "has no effect without [[phases]] or [training] pseudo_labels_after"),
        (text("pseudo_labels_after = 10"), "must be less than rounds = 10"),
        (text("pseudo_labels_after = 0"), "pseudo_labels_after = 0: must be"),
        (
            text(more="[evaluation]\nearly_stopping = { patience = 4 }"),
            "must be above [training] pseudo_labels_after = 4",
        ),
        (
            text(cohort="unlabelled = true\nmulti_label = true").replace('positive = "ill"\n', ""),
            "needs one label an image",
        ),
        (text(more='[split]\nkind = "folds"\nfolds = 5'), 'cannot stand beside [split] kind = "folds"'),
        (
            text(
                training='optimizer = { name = "sgd", momentum = 0.0 }',
                more='[strategy]\nname = "scaffold"',
            ),
            'cannot stand beside [strategy] name = "scaffold"',
        ),
        (
            text(more='[evaluation]\nprimary = "dice"')
            .replace('"classification"', '"segmentation"')
            .replace('positive = "ill"\n', "")
            .replace('"small-cnn"', '"unet"'),
            'needs labels to tell apart, which [study] task = "segmentation" has not',
        ),
    ],
)
def test_what_cannot_work_is_refused(study: str, says: str) -> None:
    assert says in refusal(study)
