"""The shipped images against their index, and the search for look-alikes that made it."""

import csv
import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedward_common.errors import DataError
from fedward_common.streams import stream
from fedward_simulations import busi

LEFT_OUT = {
    "benign": (42, 85, 131, 164, 333, 399, 403, 406, 433, 435),
    "malignant": (51, 52, 77, 78, 93, 94, 145),
}


def texture(name: str) -> busi.Grey:
    """Blobs of a few pixels on a bright-to-dark course, 160 x 160: what ultrasound images have in common."""
    noise = np.asarray(
        Image.fromarray(stream(1, name).standard_normal((40, 40), dtype=np.float32)).resize((160, 160)), np.float32
    )
    course = np.linspace(150, 40, 160, dtype=np.float32)[:, None]
    image: busi.Grey = np.clip(course + 25 * noise, 0, 255).astype(np.uint8)
    return image


def test_the_index_names_the_files_of_the_folder_in_order() -> None:
    rows = busi.load_index()
    files = [row.file for row in rows]
    assert files == sorted(path.name for path in busi.FOLDER.glob("*.png"))
    assert all(row.file.startswith(f"{row.label}_") for row in rows)
    assert Counter(row.label for row in rows) == {"benign": 427, "malignant": 203}


def test_patients_are_numbered_without_a_gap_and_have_one_label() -> None:
    rows = busi.load_index()
    assert len({(row.patient, row.label) for row in rows}) == len({row.patient for row in rows}) == 481
    assert {row.patient for row in rows} == {f"P{number:04d}" for number in range(1, 482)}


def test_images_of_two_labels_are_left_out() -> None:
    files = {row.file for row in busi.load_index()}
    gone = {f"{label}_{number:04d}.png" for label, numbers in LEFT_OUT.items() for number in numbers}
    assert not files & gone
    assert len(files | gone) == 437 + 210  # all that BUSI has of the two labels


def test_every_image_is_small_and_grey_and_the_folder_too() -> None:
    for row in busi.load_index():
        with Image.open(busi.FOLDER / row.file) as image:
            assert (image.size, image.mode, image.format) == ((128, 128), "L", "PNG")
    assert sum(path.stat().st_size for path in busi.FOLDER.iterdir()) <= 8_000_000


def test_licence_and_readme_say_where_the_images_are_from() -> None:
    assert "CC BY 4.0" in (busi.FOLDER / "LICENSE.txt").read_text()
    readme = (busi.FOLDER / "README.md").read_text()
    assert "Data in Brief 28:104863" in readme
    counts = Counter(Counter(row.patient for row in busi.load_index()).values())
    assert f"{counts[1]} of one, {counts[2]} of two, {481 - counts[1] - counts[2]} of three to seven" in readme


@pytest.mark.long
def test_look_alikes_of_the_shipped_images_are_the_patients_of_the_index() -> None:
    rows = busi.load_index()
    groups = busi.near_duplicate_groups(np.stack([busi.read_image(row.file) for row in rows]))
    patients: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        patients.setdefault(row.patient, []).append(at)
    assert groups == tuple(tuple(members) for members in patients.values())


def test_a_shifted_brighter_or_mirrored_copy_is_found_and_a_stranger_is_not() -> None:
    one, other = texture("one"), texture("other")
    images = np.stack(
        [
            one[16:144, 16:144],
            other[16:144, 16:144],
            one[6:134, 30:158],  # moved by 10 and 14 pixels
            np.clip(one[16:144, 16:144] * 0.6 + 60, 0, 255).astype(np.uint8),
            other[16:144, 16:144][:, ::-1],
            texture("stranger")[16:144, 16:144],
        ]
    )
    assert busi.near_duplicate_groups(images) == ((0, 2, 3), (1, 4), (5,))


def test_groups_are_joined_through_a_common_member() -> None:
    wide = texture("wide")
    images = np.stack([wide[:128, :128], wide[:128, 16:144], wide[:128, 32:160]])
    assert busi.near_duplicate_groups(images) == ((0, 1, 2),)


def test_a_single_image_is_a_group_of_one() -> None:
    assert busi.near_duplicate_groups(texture("one")[None, :128, :128]) == ((0,),)


def test_make_reads_busi_as_published(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, out = tmp_path / "Dataset_BUSI_with_GT", tmp_path / "out"
    images = {
        "benign/benign (1).png": "a",
        "benign/benign (10).png": "b",
        "benign/benign (2).png": "a",  # looks like benign 1
        "benign/benign (1)_mask.png": "mask",
        "malignant/malignant (7).png": "c",
        "malignant/malignant (8).png": "d",
        "benign/benign (3).png": "d",  # looks like malignant 8
        "normal/normal (1).png": "e",
    }
    for name, kind in images.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(kind)).convert("RGB").save(source / name)
    with caplog.at_level(logging.WARNING):
        busi.make(source, out)
    assert busi.load_index(out) == (
        busi.Row("benign_0001.png", "benign", "P0001"),
        busi.Row("benign_0002.png", "benign", "P0001"),
        busi.Row("benign_0010.png", "benign", "P0002"),
        busi.Row("malignant_0007.png", "malignant", "P0003"),
    )
    assert {path.name for path in out.glob("*.png")} == {row.file for row in busi.load_index(out)}
    assert busi.read_image("benign_0010.png", out).shape == (128, 128)
    assert re.search("of two labels: benign_0003.png, malignant_0008.png", caplog.text)


def test_make_refuses_a_folder_without_busi_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no BUSI image was found"):
        busi.make(tmp_path, tmp_path / "out")


def test_an_unknown_label_in_the_index_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "index.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows([("file", "label", "patient"), ("x.png", "cyst", "P0001")])
    with pytest.raises(DataError, match="'cyst'"):
        busi.load_index(tmp_path)
