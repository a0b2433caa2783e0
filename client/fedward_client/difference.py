"""The difference rule: two answers of nearly the same patients would tell the few in whom they differ. Pure.

A set of patients is kept as bytes, 16 a patient: 8 of the patient's pseudonym, 8 of the patient's record. Both are
keyed digests, which say nothing to whoever has not the site's key.

Held against each other are any two sets, not sums and differences of three and more: what those could tell is bounded
by what a steward approves (Hundepool et al. 2012, "Statistical Disclosure Control", ch. 5.4, on differencing).
"""

from collections.abc import Iterable, Mapping

from fedward_common.errors import PolicyError

_HALF = 8


def as_bytes(records: Mapping[str, str]) -> bytes:
    """A set of patients, by pseudonym with their records (both hexadecimal): the same bytes in whatever order."""
    return b"".join(sorted(_cut(patient) + _cut(record) for patient, record in records.items()))


def _cut(digest: str) -> bytes:
    return bytes.fromhex(digest)[:_HALF].ljust(_HALF, b"\0")


def patients_apart(one: bytes, other: bytes) -> int:
    """How many patients are in one of two sets only, or have another record in each."""
    differing = _members(one) ^ _members(other)
    return len({member[:_HALF] for member in differing})


def _members(of: bytes) -> set[bytes]:
    return {of[place : place + 2 * _HALF] for place in range(0, len(of), 2 * _HALF)}


def check(asked: bytes, answered: Iterable[bytes], *, site: str, min_cell: int) -> None:
    """Raise PolicyError where a set differs from an answered one in fewer than `min_cell` patients, but in some."""
    for before in answered:
        if 0 < patients_apart(asked, before) < min_cell:
            raise PolicyError(
                f"{site} has answered on nearly the same patients before: fewer than {min_cell} have come, gone or "
                "changed since, and the difference of the two answers would tell of them; ask again when there are more"
            )
