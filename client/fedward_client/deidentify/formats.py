"""Whether a value is what its VR says (PS3.5 6.2): a number, a time, a code string hold no free text, if they are that.

Read leniently where devices are: code strings in lower case, numbers a little too long.
"""

import re

_NUMBER = r" *[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? *"
_FORMATS = {
    "AS": r"\d{3}[DWMY] ?",
    "CS": r"[A-Za-z0-9_ .+/^-]{0,16}",
    "DS": rf"(?:{_NUMBER})?",
    "IS": r"(?: *[+-]?\d{1,12} *)?",
    "TM": r"(?:\d{2}(?::?\d{2}(?::?\d{2}(?:\.\d{1,6})?)?)?)? *",
    "UI": r"[0-9.]{0,64}",
}
_COMPILED = {vr: re.compile(pattern) for vr, pattern in _FORMATS.items()}
_WIDTHS = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}
_LONGEST = 64  # characters, of a UID; VR DS has 16, and devices write doubles


def fits(vr: str, value: bytes) -> bool:
    """Whether the bytes of a value, all of its parts, are of a VR; True for a VR that takes any text or bytes."""
    if vr in _WIDTHS:
        return len(value) % _WIDTHS[vr] == 0
    if vr not in _COMPILED:
        return True
    parts = value.decode("latin-1").rstrip("\0 ").split("\\")
    return all(_COMPILED[vr].fullmatch(part) and len(part) <= _LONGEST for part in parts)
