"""Which side of the split a patient is on: train, validation or test. Always by patient, never re-balanced.

Where chance decides, it is a keyed hash of the patient's pseudonym, so a patient's side depends on the site's key, the
study's seed and the patient alone: patients who come later move nobody. Shares are met approximately, and in every
label alike, because the hash knows nothing of the label.

Patients who are linked, by images that are the same or nearly, are on one side: of the sides that they would have
alone the first, train before validation before test. Another who joins them can so move them towards training, never
out of it: what a network was trained on is tested by no later run. In a study with folds all of a run's patients are
tested in turn, and linked ones in the same fold.
"""

import hashlib
import hmac
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedward_common.errors import DataError
from fedward_common.study import Split

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, Side, Side] = ("train", "validation", "test")
Shares = tuple[float, float, float]

_WORDS: Mapping[str, Side] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class PatientInfo:
    """What a split may look at besides the pseudonym: the word in the label table's split column, None without one."""

    column: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    patients: Mapping[str, PatientInfo]
    groups: Mapping[str, str]
    split: Split
    seed: int
    key: bytes
    site_name: str

    def group(self, patient: str) -> str:
        """What linked patients have in common: the pseudonym of the first."""
        return self.groups.get(patient, patient)


def side_of(site_key: bytes, seed: int, split: Split, patient: str) -> Side:
    """The side of one patient (a pseudonym) for kind "hash": a threshold of the keyed hash by cumulative shares."""
    return _pick(_uniform(site_key, "split", seed, patient), split.shares)


def assign(
    patients: Mapping[str, PatientInfo],
    *,
    groups: Mapping[str, str],
    split: Split,
    seed: int,
    key: bytes,
    site_name: str,
) -> dict[str, Side]:
    """The side of every patient (pseudonyms) of the site `site_name`, whose secret `key` orders them.

    `groups` names, for a patient who is linked to others, the first of them (`near_duplicates.link`). Raises DataError
    when the split column is missing or holds other words.
    """
    request = _Request(patients=patients, groups=groups, split=split, seed=seed, key=key, site_name=site_name)
    return _KINDS[split.kind](request)


def folds_of(
    patients: Iterable[str], *, groups: Mapping[str, str], split: Split, seed: int, key: bytes, site_name: str
) -> dict[str, int]:
    """The fold that tests each patient, from 0; empty without folds.

    Patients are dealt out in the order of their keyed hash, those who are linked (`groups`, as in `assign`) together,
    so that folds are of nearly as many. Fewer patients than folds leave some folds without one to test. Raises
    DataError where one at a time is to be tested and the site has more of them than the study has folds.
    """
    if split.folds is None:
        return {}
    together = {patient: groups.get(patient, patient) for patient in patients}
    order = sorted(set(together.values()), key=lambda group: (_uniform(key, "fold", seed, group), group))
    if split.kind == "leave-one-patient-out" and len(order) > split.folds:
        raise DataError(
            f"{site_name} has more patients than the study's {split.folds} folds, and each is to be tested alone: give "
            '[split] more folds, or kind = "folds"'
        )
    turn = {group: place % split.folds for place, group in enumerate(order)}
    return {patient: turn[group] for patient, group in together.items()}


def sides_in(fold: int, folds: int, tested: npt.NDArray[np.int16]) -> npt.NDArray[np.int8]:
    """The sides [n], as indices into SIDES, in a fold of as many, of patients whom the folds `tested` [n] test.

    A fold's patients are tested, the next fold's validate: over all folds each patient does both once.
    """
    validates = np.where(tested == (fold + 1) % folds, SIDES.index("validation"), SIDES.index("train"))
    return np.where(tested == fold, SIDES.index("test"), validates).astype(np.int8)


def _joined(request: _Request, alone: Mapping[str, Side]) -> dict[str, Side]:
    """Everybody on the first side that one of their group has alone."""
    first: dict[str, Side] = {}
    for patient, side in alone.items():
        group = request.group(patient)
        first[group] = min(side, first.get(group, side), key=SIDES.index)
    return {patient: first[request.group(patient)] for patient in alone}


def _by_hash(request: _Request) -> dict[str, Side]:
    alone = {patient: side_of(request.key, request.seed, request.split, patient) for patient in request.patients}
    return _joined(request, alone)


def _by_column(request: _Request) -> dict[str, Side]:
    name = request.split.column
    words = {patient: info.column for patient, info in request.patients.items()}
    if any(word is None for word in words.values()):
        raise DataError(
            f"{request.site_name}: the label table has no column '{name}', by which the study splits; {_VALID}"
        )
    sides = {patient: _WORDS.get((word or "").strip().casefold()) for patient, word in words.items()}
    if None in sides.values():
        raise DataError(f"{request.site_name}: the label table's column '{name}' holds other words too; {_VALID}")
    return _joined(request, {patient: side for patient, side in sides.items() if side is not None})


def _in_turn(request: _Request) -> dict[str, Side]:
    """Everybody trains the last model; `folds_of` says who is tested before that, and when."""
    return dict.fromkeys(request.patients, "train")


def _leave_site_out(request: _Request) -> dict[str, Side]:
    if request.site_name == request.split.site:
        return dict.fromkeys(request.patients, "test")
    return _without_test(request)


def _without_test(request: _Request) -> dict[str, Side]:
    """Train and validation by their shares of what remains without a test side."""
    train, validation, _ = request.split.shares
    alone = {
        patient: _pick(_uniform(request.key, "split", request.seed, patient), (train, validation, 0.0))
        for patient in request.patients
    }
    return _joined(request, alone)


_KINDS: Mapping[str, Callable[[_Request], dict[str, Side]]] = {
    "hash": _by_hash,
    "column": _by_column,
    "folds": _in_turn,
    "leave-one-patient-out": _in_turn,
    "leave-site-out": _leave_site_out,
}

_VALID = "put train, validation or test there for every patient"


def _uniform(key: bytes, purpose: str, seed: int, patient: str) -> float:
    """HMAC-SHA256 as a fraction in [0, 1): its first 53 bits, exact in a float."""
    digest = hmac.new(key, f"{purpose}\x1f{seed}\x1f{patient}".encode(), hashlib.sha256).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _pick(fraction: float, shares: Shares) -> Side:
    """The side whose stretch of [0, 1) holds `fraction`; a side with share 0 is never picked, rounding or not."""
    total = math.fsum(shares)
    taken = [(side, share) for side, share in zip(SIDES, shares, strict=True) if share > 0]
    for position, (side, _) in enumerate(taken[:-1], start=1):
        if fraction * total < math.fsum(share for _, share in taken[:position]):
            return side
    return taken[-1][0]
