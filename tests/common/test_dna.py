"""Windows of DNA as numbers: the middle stays the middle, and what is not known counts a quarter of each base."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_common.dna import BASES, codes, names, one_hot

SEQUENCES = st.text("ACGTNacgtn", max_size=60)
LENGTHS = st.integers(1, 80)
_COMPLEMENT = str.maketrans("ACGT", "TGCA")


def read(bases: np.ndarray) -> str:
    """The letters of a window [4, length]."""
    return "".join("N" if column.max() < 1 else BASES[int(column.argmax())] for column in bases.T)


def test_a_window_is_one_hot() -> None:
    found = one_hot(codes("aCGTN", 5))
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found[:, :4].tolist() == np.eye(4).tolist()
    assert found[:, 4].tolist() == [0.25] * 4


@pytest.mark.parametrize(
    ("text", "length", "window"),
    [
        ("ACGTA", 3, "CGT"),
        ("ACGT", 2, "CG"),
        ("ACGT", 3, "CGT"),
        ("ACG", 7, "NNACGNN"),
        ("AC", 5, "NACNN"),
        ("", 2, "NN"),
    ],
)
def test_a_sequence_is_cropped_or_padded_around_its_middle(text: str, length: int, window: str) -> None:
    assert read(one_hot(codes(text, length))) == window


@given(SEQUENCES, LENGTHS)
def test_each_base_keeps_its_distance_from_the_middle(text: str, length: int) -> None:
    window = dict(zip(names("", length), read(one_hot(codes(text, length))), strict=True))
    whole = dict(zip(names("", len(text)), text.upper(), strict=True))
    assert {place: base for place, base in window.items() if place in whole} == {
        place: base for place, base in whole.items() if place in window
    }
    assert {base for place, base in window.items() if place not in whole} <= {"N"}
    assert one_hot(codes(text, length)).sum(axis=0).tolist() == [1.0] * length


@given(SEQUENCES)
def test_both_axes_turned_round_are_the_other_strand(text: str) -> None:
    text = text.upper()
    other = one_hot(codes(text.translate(_COMPLEMENT)[::-1], len(text)))
    assert one_hot(codes(text, len(text)))[::-1, ::-1].tolist() == other.tolist()


@given(SEQUENCES, st.characters().filter(lambda letter: letter.upper() not in set(BASES)), SEQUENCES)
def test_another_letter_is_refused_wherever_it_stands(before: str, letter: str, after: str) -> None:
    with pytest.raises(ValueError, match="letters other than A, C, G, T and N"):
        codes(before + letter + after, 1)
