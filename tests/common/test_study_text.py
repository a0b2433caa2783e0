"""What `study show` says of whose patients are on which side, and of which hospitals train alone too."""

from typing import Any

import pytest

from fedward_common.study_text import describe
from fedward_common.testing import tiny_study


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([0.6, 0.2, 0.2], "about 75 % training and 25 % validation."),
        ([0.8, 0.0, 0.2], "about 100 % training and 0 % validation."),
    ],
)
def test_where_one_hospital_is_tested_the_others_have_no_test_patients(shares: list[float], said: str) -> None:
    told = dict(describe(tiny_study(split={"kind": "leave-site-out", "site": "north", "shares": shares})))["Split"]
    assert f"Hospital north is only tested; in the others, by patient: {said}" in told


REGISTERS: dict[str, Any] = {
    "study": {"task": "registration"},
    "cohort": {"labels": [], "positive": None},
    "model": {"name": "voxelmorph"},
    "evaluation": {"primary": "loss"},
}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (REGISTERS, "Each hospital that trains also does so alone"),
        (
            {"cohort": {"unlabelled": True}, "training": {"pseudo_labels_after": 1}},
            "Each hospital that trains on labels also does so alone",
        ),
    ],
)
def test_hospitals_that_train_alone_too(sections: dict[str, Any], said: str) -> None:
    assert said in dict(describe(tiny_study(**sections)))["Success"]
