"""Studies of the time until an event: what they must say, how they are refused, and what they say to people."""

from typing import Any

import pytest

from fedward_common.errors import StudyError
from fedward_common.study import load, loads, template_path
from fedward_common.study_text import describe

TEMPLATE = template_path("survival")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('labels = ["censored", "event"]', 'labels = ["event"]', 'must be the words for "censored" and for the event'),
        ('positive = "event"', 'positive = "censored"', 'must be "event", the event'),
        (
            """labels = ["censored", "event"]    # how a follow-up ended, in this order; the map's words
positive = "event\"""",
            'labels = ["event", "censored"]\npositive = "censored"',
            "must name first what the end of a follow-up without the event is called",
        ),
        ('primary = "c_index"', 'primary = "roc_auc"', 'must be "c_index" or "loss" for [study] task = "survival"'),
        ("batch_size = 65_536", "batch_size = 1", "must be at least 2: patients of a batch are compared"),
        ('name = "cox"', 'name = "logistic-regression"', "logistic-regression"),
        ("shares = [0.6, 0.2, 0.2]", 'kind = "folds"\nfolds = 5', "keeps probabilities of labels over folds"),
    ],
)
def test_what_cannot_be_is_refused(old: str, new: str, words: str) -> None:
    text = TEMPLATE.read_text("utf-8")
    assert text.count(old) == 1
    with pytest.raises(StudyError) as caught:
        loads(text.replace(old, new))
    assert words in str(caught.value)


@pytest.mark.parametrize("every", [True, False])
def test_a_site_needs_an_event_at_most(*, every: bool) -> None:
    spec = loads(
        TEMPLATE.read_text("utf-8").replace("min_patients", f"every_label = {str(every).lower()}\nmin_patients")
    )
    assert spec.needed_labels == (("event",) if every else ())
    sentence = "nor does one where none of them is labelled event"
    assert (sentence in said(spec)) == every


def said(spec: Any) -> str:
    return " ".join(text for _, text in describe(spec))


def test_it_says_what_patients_are_compared() -> None:
    words = said(load(TEMPLATE))
    assert "a time of follow-up and how it ended: censored or event" in words
    assert "those that are compared are of one hospital" in words
    assert "A patient is compared with those of the batch" in words
    assert "Looked for" not in words
