"""Images that are the same or nearly: found without looking at every pair, and what follows for patients."""

import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedward_client.choosing import Unit
from fedward_client.freezing import freeze, from_catalog
from fedward_client.intake.dicom import read_volume
from fedward_client.intake.fingerprint import BITS, Fingerprint
from fedward_client.near_duplicates import COPIES, LIMIT, UNREADABLE, counted, distinct, link, near_pairs
from fedward_client.site import Site
from fedward_common.errors import DataError
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

Write = Callable[..., Path]
seeds = st.integers(0, 2**32 - 1)


def flipped(look: int, count: int, chance: random.Random) -> int:
    """A hash with so many other bits."""
    for bit in chance.sample(range(BITS), count):
        look ^= 1 << bit
    return look


def text(look: int) -> str:
    return f"{look:0{BITS // 4}x}"


def unit(number: int, patient: str = "p", files: int = 1) -> Unit:
    keys = tuple(f"{number}-{file}" for file in range(files))
    return Unit(key=keys[0], patient=patient, files=keys, content="", names=())


# The search ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 40))
def test_it_finds_the_pairs_that_looking_at_all_finds(seed: int, limit: int) -> None:
    chance = random.Random(seed)
    looks = {chance.getrandbits(BITS) for _ in range(10)}
    for _ in range(20):
        looks.add(flipped(chance.choice(sorted(looks)), chance.choice((1, limit, limit + 1, limit // 2)), chance))
    ordered = sorted(looks)
    array = np.frombuffer(bytes.fromhex("".join(map(text, ordered))), np.uint64).reshape(-1, BITS // 64)
    expected = [
        [one, other]
        for one, other in combinations(range(len(ordered)), 2)
        if (ordered[one] ^ ordered[other]).bit_count() <= limit
    ]
    assert near_pairs(array, limit).tolist() == expected


def test_it_finds_one_pair_of_two_hundred_million() -> None:
    looks = np.frombuffer(random.Random(0).randbytes(20_000 * BITS // 8), np.uint64).reshape(20_000, -1).copy()
    looks[7] = looks[19_000] ^ np.uint64(0b1011)
    assert near_pairs(looks).tolist() == [[7, 19_000]]


# Groups --------------------------------------------------------------------------------------------------------------


def test_links_reach_over_others_and_the_order_does_not_matter() -> None:
    chance = random.Random(0)
    one, alone = chance.getrandbits(BITS), chance.getrandbits(BITS)
    two = flipped(one, LIMIT, chance)
    three = two
    while (one ^ three).bit_count() <= LIMIT:
        three = flipped(two, LIMIT, chance)
    images = [
        ("d", Fingerprint("1", (text(one),))),
        ("b", Fingerprint("2", (text(two),))),
        ("c", Fingerprint("3", (text(three),))),
        ("c", Fingerprint("4", (text(three),))),
        ("a", Fingerprint("5", (text(alone),))),
        ("e", Fingerprint("6", ())),
        ("f", Fingerprint("6", ())),  # what shows nothing is like nothing
        ("b", Fingerprint("1", (text(one),))),
    ]
    found = link(images)
    assert found.groups == {"b": "b", "c": "b", "d": "b"}
    assert found.same == {"b", "d"}
    for _ in range(5):
        chance.shuffle(images)
        assert link(images) == found
    assert counted(found, {"b": 0, "c": 1, "d": 0}, 2) == {
        "patients who share an image, pixel by pixel": 2,
        "patients who share an image, or nearly": 3,
        "of them in a group with different labels": 3,
        "of them in the largest group": 3,
        "of them on another side of the split for it": 2,
    }


def test_nobody_is_linked_to_nobody() -> None:
    for images in ([], [("a", Fingerprint("1", ("ab" * 32,)))], [("a", Fingerprint("1", ("ab" * 32,)))] * 2):
        found = link(images)
        assert (found.groups, found.same) == ({}, frozenset())
        assert not any(counted(found, {}, 0).values())


def test_of_a_patients_copies_one_is_taken() -> None:
    one, other = Fingerprint("1", ("ab" * 32,)), Fingerprint("2", ("ab" * 32,))
    prints = {"1-0": one, "2-0": one, "3-0": one, "4-0": other, "5-1": one, "6-1": one, "7-0": None}
    units = [unit(4), unit(3, "q"), unit(2), unit(1), unit(5, files=2), unit(6, files=3), unit(7), unit(8)]
    kept, left_out = distinct(units, prints)
    assert [found.key for found in kept] == ["1-0", "3-0", "4-0", "5-0", "6-0", "8-0"]
    assert left_out == {COPIES: 1, UNREADABLE: 1}


def test_images_that_show_nothing_are_no_copies() -> None:
    empty = Fingerprint("1", ())
    kept, left_out = distinct([unit(1), unit(2)], {"1-0": empty, "2-0": empty})
    assert (len(kept), +left_out) == (2, {})


# At a hospital -------------------------------------------------------------------------------------------------------


LABELS = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(24)}


def study(**sections: dict[str, Any]) -> StudySpec:
    base: dict[str, dict[str, Any]] = {"input": {"size": [16, 16]}, "cohort": {"min_patients": 5}}
    return tiny_study(**{**base, **sections})


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    found: npt.NDArray[np.uint8] = read_volume(path).pixels[0, 0].astype(np.uint8)
    return found


def test_a_copy_under_another_uid_counts_once(site_folder: Write, write_dicom: Write) -> None:
    folder = site_folder(LABELS, settings="[privacy]\nmin_cell = 1\n")
    for number in range(3):
        again = pixels(folder / f"PID-{number:03}" / "image0.dcm")
        write_dicom(folder / f"PID-{number:03}" / "again.dcm", patient_id=f"PID-{number:03}", array=again)
    cohort = from_catalog(Site.open(folder), study())
    assert len(cohort.items) == 48
    assert cohort.left_out == {COPIES: 3}
    assert cohort.linked == {}


def test_patients_who_share_an_image_are_on_one_side(site_folder: Write, write_dicom: Write) -> None:
    folder = site_folder(LABELS, settings="[privacy]\nmin_cell = 1\n")
    site, state = Site.open(folder), Site.open(folder, state=folder / ".other")
    for one in (site, state):  # with any other key too few might be on a side
        key = one.ensure_state() / "site.key"
        key.touch(mode=0o600)
        key.write_bytes(bytes(range(32)))
    before = from_catalog(site, study())
    sides = {item.patient: item.side for item in before.items}
    ids = {site.pseudonym("patient", one): one for one in LABELS}
    trained = next(ids[one] for one, side in sides.items() if side == "train")
    tested = [ids[one] for one, side in sides.items() if side == "test"][:2]
    same, smaller = pixels(folder / trained / "image0.dcm"), pixels(folder / trained / "image1.dcm")
    smaller = np.asarray(Image.fromarray(smaller).resize((64, 48)))
    write_dicom(folder / tested[0] / "same.dcm", patient_id=tested[0], array=same)
    write_dicom(folder / tested[1] / "smaller.dcm", patient_id=tested[1], array=smaller)
    after = from_catalog(state, study())
    moved = {item.patient: item.side for item in after.items}
    assert {ids[one] for one in moved if moved[one] != sides[one]} == set(tested)
    assert {moved[site.pseudonym("patient", one)] for one in (trained, *tested)} == {"train"}
    assert after.linked["patients who share an image, pixel by pixel"] == 2
    assert after.linked["patients who share an image, or nearly"] == 3
    assert after.linked["of them on another side of the split for it"] == 2
    assert len(after.items) == len(before.items) + 2
    frozen = freeze(state, study(), "run-1")
    assert frozen == after
    assert freeze(state, study(), "run-1") == frozen, "read back from its file"


def test_pictures_of_two_patients_with_the_same_bytes_are_both_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["patient_id,label"]
    for number in range(12):
        path = tmp_path / f"P{number:02}" / "a.png"
        path.parent.mkdir()
        Image.fromarray(rng.integers(0, 255, (24, 24)).astype(np.uint8)).save(path)
        rows.append(f"P{number:02},{'malignant' if number % 2 else 'benign'}")
    (tmp_path / "P03" / "b.png").write_bytes((tmp_path / "P04" / "a.png").read_bytes())
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "site.toml").write_text("[data]\npatient = '^([^/]+)/'\nmodality = \"US\"\n[privacy]\nmin_cell = 1\n")
    cohort = from_catalog(Site.open(tmp_path), study())
    assert len(cohort.items) == 13
    assert cohort.linked["patients who share an image, pixel by pixel"] == 2
    assert cohort.linked["of them in a group with different labels"] == 2


def test_what_goes_to_the_hub_says_nothing_of_links(site_folder: Write, write_dicom: Write) -> None:
    folder = site_folder(LABELS)
    for patient in ("PID-001", "PID-002"):
        again = pixels(folder / "PID-000" / "image0.dcm")
        write_dicom(folder / patient / "again.dcm", patient_id=patient, array=again)
    again = pixels(folder / "PID-005" / "image0.dcm")
    write_dicom(folder / "PID-005" / "again.dcm", patient_id="PID-005", array=again)
    with pytest.raises(DataError, match="training patients") as error:
        freeze(Site.open(folder), study(cohort={"min_patients": 100}), "run-1")
    assert f"fewer than 5 {COPIES}" in str(error.value)
    assert "nearly" not in str(error.value)
