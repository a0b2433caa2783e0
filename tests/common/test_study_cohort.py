"""[cohort]: what a study may ask of a site's images, what it is told where it asks for nonsense, what stewards read."""

import pytest

from fedward_common.errors import StudyError
from fedward_common.study import loads
from fedward_common.study_text import describe
from fedward_common.testing import tiny_study

STUDY = """[study]
id = "s"
task = "classification"
[cohort]
labels = ["benign", "malignant"]
positive = "malignant"
{line}
[model]
name = "small-cnn"
"""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('body_part = "brain"', 'body_part = "brain": must be a DICOM body part in capitals'),
        ('sequence = ["T3"]', '[cohort] sequence item 1 = "T3": must be one of'),
        ('vendors = ["S"]', 'vendors item 1 = "S": must be a maker'),
        ('sex = "female"', 'sex = "female": must be one of'),
        ("age = [70, 40]", "must begin with the lesser: [40, 70]"),
        ("age = [40, 91]", "at most 90"),
        ('months = ["2019-12", "2015-01"]', "must begin with the lesser: ['2015-01', '2019-12']"),
        ('months = ["2019-13", "2020-01"]', 'must be a month such as "2019-03"'),
        ("slices = [1, 9]", "at least 2"),
    ],
)
def test_what_cannot_be_asked_for_is_said_with_its_line(line: str, says: str) -> None:
    with pytest.raises(StudyError) as caught:
        loads(STUDY.format(line=line), "s.toml")
    assert str(caught.value).startswith("s.toml, line 7:")
    assert says in str(caught.value)


def test_a_steward_reads_whose_images_are_meant() -> None:
    cohort = {
        "modality": "MR",
        "body_part": "BRAIN",
        "sequence": ["T2", "FLAIR"],
        "vendors": ["Siemens", "GE"],
        "sex": "F",
        "age": [60, 90],
        "months": ["2015-01", "2019-12"],
        "slices": [20, 60],
        "localizers": True,
    }
    said = dict(describe(tiny_study(cohort=cohort, input={"size": [16, 16, 16]})))["Patients"]
    assert "Body part: BRAIN. MR sequence: T2 and FLAIR. Scanner made by: Siemens or GE. Sex: F." in said
    assert "Age: 60 to 90 years. Examined from: 2015-01 to 2019-12. Slices of a volume: 20 to 60." in said


def test_a_study_of_several_labels_an_image_looks_for_each_of_them() -> None:
    spec = loads(STUDY.format(line="multi_label = true").replace('positive = "malignant"\n', ""), "s.toml")
    assert spec.asked_labels == ("benign", "malignant")
    said = dict(describe(spec))["Patients"]
    assert (
        "a word, yes or no, on at least one of the labels benign or malignant. Each label is judged by itself" in said
    )
    with pytest.raises(
        StudyError, match=r"line 6: \[cohort\] positive = \"malignant\": has no meaning with multi_label"
    ):
        loads(STUDY.format(line="multi_label = true"), "s.toml")
