"""Lists and sentences in English."""

from collections.abc import Sequence


def listed(items: Sequence[str], joint: str) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = items or ("",)
    return f"{', '.join(first)} {joint} {last}" if first else last


def sentences(parts: Sequence[str]) -> str:
    """Parts as sentences in a row, a full stop after each that lacks one; empty ones are left out."""
    return " ".join(part if part.endswith((".", "?", "!")) else f"{part}." for part in parts if part)


def joined(*notes: str) -> str:
    """Those of the notes that say something as one, semicolons between them."""
    return "; ".join(filter(None, notes))
