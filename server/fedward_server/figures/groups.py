"""What groups of patients are called."""

from collections.abc import Mapping

from fedward_common.study_subgroups import NOT_KNOWN, OTHER, Subgroups

BY: Mapping[Subgroups, str] = {"sex": "sex", "age": "age", "vendor": "maker of the scanner"}
_WORDS: Mapping[tuple[Subgroups, str], str] = {
    ("sex", "F"): "women",
    ("sex", "M"): "men",
    ("sex", "O"): "other sex",
    ("sex", NOT_KNOWN): "sex not known",
    ("age", NOT_KNOWN): "age not known",
    ("vendor", NOT_KNOWN): "maker not known",
    ("vendor", OTHER): "other makers",
}


def title(by: Subgroups, name: str) -> str:
    """What a group is called where it stands alone."""
    called = word(by, name)
    return called[0].upper() + called[1:]


def word(by: Subgroups, name: str) -> str:
    """What it is called in a sentence."""
    return _WORDS.get((by, name), f"age {name}" if by == "age" else name)
