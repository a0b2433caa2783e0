"""Axes and spacing. The oracles are SimpleITK's own orientation filter, and places in the patient worked by formula."""

from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk  # noqa: N813 - its own name for itself
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive  # type: ignore[import-untyped]

from fedward_client.harmonize import recipe
from fedward_client.harmonize.grid import oriented, respaced
from fedward_client.intake.nifti import read_pixels
from fedward_client.volume import Affine, Pixels, Volume
from fedward_common.errors import UnfitImage
from fedward_common.study import Input, load, template_path
from fedward_common.testing import images_of

LETTERS = ["".join(letters) for letters in product("RL", "AP", "SI")] + ["SAR", "PIR", "ILA", "ASL", "RSP"]


def affine_of(*axes: tuple[float, float, float], origin: tuple[float, float, float] = (0, 0, 0)) -> Affine:
    """The affine whose columns are the steps of a column, a row and a frame, in mm."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.transpose(axes), origin
    return affine


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def place(volume: Volume, column: int, row: int, frame: int) -> npt.NDArray[np.float64]:
    assert volume.affine is not None
    return volume.affine[:3] @ [column, row, frame, 1]


# --- orientation


def test_a_dicom_axial_volume_turned_to_ras_by_hand() -> None:
    # columns go left, rows to the back, frames up: the first two are turned round
    pixels = np.arange(24, dtype=np.float32).reshape(4, 1, 2, 3)
    turned = oriented(Volume(pixels, affine_of((-1, 0, 0), (0, -2, 0), (0, 0, 5), origin=(10, 20, 30))), "RAS")
    np.testing.assert_array_equal(turned.pixels, pixels[:, :, ::-1, ::-1])
    assert turned.affine is not None
    np.testing.assert_array_equal(turned.affine, affine_of((1, 0, 0), (0, 2, 0), (0, 0, 5), origin=(8, 18, 30)))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(LETTERS))
def test_any_volume_is_turned_as_itk_turns_it(seed: int, letters: str) -> None:
    random = np.random.default_rng(seed)
    directions, spacing = np.linalg.qr(random.normal(size=(3, 3)))[0], random.uniform(0.5, 5, 3)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * spacing, random.normal(0, 50, 3)
    nearest = np.abs(directions).argmax(axis=0)
    if sorted(nearest) != [0, 1, 2]:  # so oblique that "the nearest way" is a matter of taste
        return
    pixels = noise(3, 1, 4, 5, seed=seed)
    image = sitk.GetImageFromArray(pixels[:, 0])
    to_dicom = np.diag([-1.0, -1, 1])  # DICOM's and ITK's x and y point the other way
    image.SetSpacing(spacing.tolist())
    image.SetDirection((to_dicom @ directions).ravel().tolist())
    image.SetOrigin((to_dicom @ affine[:3, 3]).tolist())
    expected = sitk.DICOMOrient(image, letters)
    turned = oriented(Volume(pixels, affine), letters)
    np.testing.assert_array_equal(turned.pixels[:, 0], sitk.GetArrayFromImage(expected))
    for corner in product(*((0, side - 1) for side in expected.GetSize())):
        there = to_dicom @ expected.TransformIndexToPhysicalPoint(corner)
        np.testing.assert_allclose(place(turned, *corner), there, atol=1e-9)


def test_colour_goes_along() -> None:
    pixels = noise(2, 3, 4, 5)
    turned = oriented(Volume(pixels, np.eye(4)), "SRA")  # columns up, rows to the right, frames to the front
    np.testing.assert_array_equal(turned.pixels, pixels.transpose(2, 1, 3, 0))


def test_a_sheared_volume_goes_the_nearest_way() -> None:
    tilted = affine_of((1, 0, 0), (0, 1, 0), (0, 0.9, 1))  # a gantry tilt
    pixels = noise(2, 1, 4, 5)
    np.testing.assert_array_equal(oriented(Volume(pixels, tilted), "LAI").pixels, pixels[::-1, :, :, ::-1])


def test_the_same_head_from_two_scanners_is_the_same_tensor() -> None:
    head = noise(10, 1, 12, 14)
    axial = Volume(head, affine_of((-1, 0, 0), (0, -1, 0), (0, 0, 1)))
    sagittal = oriented(axial, "PIL")
    assert sagittal.pixels.shape == (14, 1, 10, 12)
    made = recipe(Input(size=(8, 8, 8), orientation="RAS", intensity="zscore"))
    np.testing.assert_array_equal(made.apply(sagittal), made.apply(axial))


# --- spacing


def test_a_spacing_that_is_right_moves_nothing() -> None:
    image = noise(1, 1, 9, 11)
    even = respaced(image, (5.0, 0.7, 0.7), spacing=(0.7, 0.7), size=(8, 12), max_upsampling=1)
    least = image.min()
    np.testing.assert_array_equal(even[0, :, 1:], image[0, 0, :8])  # one row fewer, one column of padding before
    np.testing.assert_array_equal(even[0, :, 0], [least] * 8)


def test_finer_is_linear_and_keeps_the_place() -> None:
    # 4 rows of 3 mm to 1 mm: 12 rows whose middle is the old middle; the old row 1, at 3 mm, is the new row 4
    ramp = np.repeat(np.array([0, 30, 60, 90], np.float32)[:, None], 8, axis=1)[None, None]
    fine = respaced(ramp, (1.0, 3.0, 1.0), spacing=(1.0, 1.0), size=(12, 8), max_upsampling=3)
    np.testing.assert_allclose(fine[0, :, 0], [0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 90], atol=1e-4)


@pytest.mark.parametrize("axis", range(3))
def test_pixels_stand_in_the_patient_as_asked(axis: int) -> None:
    # every pixel holds where it is, in mm from the image's middle; the old grid is finer on one axis and coarser on two
    own, shape, spacing, size = (5.0, 0.8, 1.1), (17, 91, 70), (2.0, 1.3, 1.0), (40, 33, 64)
    where = (np.arange(shape[axis]) - (shape[axis] - 1) / 2) * own[axis]
    image = np.broadcast_to(where.reshape([-1 if other == axis else 1 for other in range(3)]), shape)
    made = respaced(image[None].astype(np.float32), own, spacing=spacing, size=size, max_upsampling=3)[0]
    line = np.moveaxis(made, axis, 0)[:, 20, 20]
    inner = line[10:-10]
    np.testing.assert_allclose(np.diff(inner), spacing[axis], atol=1e-3)
    assert abs(line[size[axis] // 2]) < 1.1 * spacing[axis]  # around the middle, as whole pixels allow


def test_coarser_has_no_false_pattern() -> None:
    stripes = np.indices((1, 64, 64)).sum(axis=0)[None].astype(np.float32) % 2  # finer than the new grid can show
    coarse = respaced(stripes, (1.0, 1.0, 1.0), spacing=(3.0, 3.0), size=(16, 16), max_upsampling=1)
    np.testing.assert_allclose(coarse[0, 2:-2, 2:-2], 0.5, atol=0.01)


def test_coarser_blurs_as_a_pixel_of_the_new_spacing_would() -> None:
    # a point becomes a Gaussian of variance (3^2 - 1^2) / (8 ln 2) mm^2; on a grid its values are e^-t I_n(t)
    point = np.zeros((1, 1, 99, 99), np.float32)
    point[0, 0, 49, 49] = 1
    coarse = respaced(point, (1.0, 1.0, 1.0), spacing=(3.0, 3.0), size=(33, 33), max_upsampling=1)[0]
    line = ive([3, 0, 3], 1 / np.log(2))
    np.testing.assert_allclose(coarse[15:18, 15:18], np.outer(line, line), atol=5e-4)


def test_two_scanners_that_differ_in_spacing_show_the_same() -> None:
    def scan(spacing: float, side: int) -> Volume:
        places = (np.arange(side) - (side - 1) / 2) * spacing
        z, y, x = np.meshgrid(places, places, places, indexing="ij")
        ball = np.exp(-(x**2 + (y / 1.5) ** 2 + z**2) / 200)
        return Volume(ball[:, None].astype(np.float32), np.diag([spacing, spacing, spacing, 1.0]))

    section = Input(size=(24, 24, 24), spacing=(2.0, 2.0, 2.0), percentiles=(0.0, 100.0))
    fine, coarse = (recipe(section).apply(scan(*scanner)) for scanner in ((0.75, 80), (2.5, 24)))
    np.testing.assert_allclose(fine, coarse, atol=0.06)
    plain = Input(size=(24, 24, 24), percentiles=(0.0, 100.0))
    fine, coarse = (recipe(plain).apply(scan(*scanner)) for scanner in ((0.75, 80), (2.5, 48)))
    assert np.abs(fine - coarse).max() > 0.3  # stretched to the size, the same ball has two sizes


@pytest.mark.parametrize("template", ["brain-registration", "hippocampus-segmentation"])
def test_a_template_of_volumes_sees_one_image_however_it_is_stored(template: str, tmp_path: Path) -> None:
    made = recipe(images_of(load(template_path(template))))
    scan = nibabel.Nifti1Image(noise(36, 50, 34), np.eye(4))
    tensors = []
    for letters in ("RAS", "LAS", "ASR"):
        axes = nibabel.orientations.axcodes2ornt(letters)
        turned = nibabel.orientations.ornt_transform(nibabel.io_orientation(scan.affine), axes)
        nibabel.save(scan.as_reoriented(turned), tmp_path / f"{letters}.nii")
        tensors.append(made.apply(read_pixels(tmp_path / f"{letters}.nii")))
    np.testing.assert_array_equal(tensors, [tensors[0]] * len(tensors))


# --- what cannot serve


@pytest.mark.parametrize(
    ("section", "affine", "words"),
    [
        (Input(size=(8, 8), spacing=(1.0, 1.0)), None, "how large its pixels are, and .* asks for millimetres"),
        (Input(size=(8, 8, 8), spacing=(1.0, 1.0, 1.0)), None, "where its pixels stand .* asks for millimetres"),
        (Input(size=(8, 8, 8), orientation="RAS"), None, "asks for an orientation"),
        (Input(size=(8, 8, 8), orientation="RAS"), np.diag([1.0, 1, 0, 1]), "at one point, or nowhere"),
        (Input(size=(8, 8), spacing=(1.0, 1.0)), np.diag([np.nan, 1, 1, 1]), "at one point, or nowhere"),
        (
            Input(size=(8, 8), spacing=(1.0, 1.0)),
            np.diag([4.1, 1, 1, 1]),
            "a factor of 4.1, and .* max_upsampling is 4",
        ),
        (Input(size=(8, 8, 8), spacing=(1.0, 1.0, 1.0), max_upsampling=2), np.diag([1.0, 1, 3, 1]), "factor of 3"),
    ],
)
def test_what_the_file_does_not_say_or_show_is_told(section: Input, affine: Affine | None, words: str) -> None:
    with pytest.raises(UnfitImage, match=words):
        recipe(section).apply(Volume(noise(4, 1, 12, 12), affine, pixel_mm=None if len(section.size) == 2 else (1, 1)))


@pytest.mark.parametrize("pixel_mm", [(0.0, 1.0), (1.0, np.inf)])
def test_pixels_of_no_size_are_told(pixel_mm: tuple[float, float]) -> None:
    with pytest.raises(UnfitImage, match="at one point, or nowhere"):
        recipe(Input(size=(8, 8), spacing=(1.0, 1.0))).apply(Volume(noise(1, 1, 12, 12), pixel_mm=pixel_mm))


def test_a_flat_study_needs_the_size_of_pixels_and_no_place() -> None:
    made, pixels = recipe(Input(size=(8, 8), spacing=(1.0, 0.5))), noise(5, 1, 20, 30)
    without, back = made.gridded(Volume(pixels, pixel_mm=(2.0, 1.5)))
    placed, expected = made.gridded(Volume(pixels, np.diag([1.5, 2.0, 4.0, 1.0])))
    np.testing.assert_array_equal(without, placed)
    np.testing.assert_allclose(back, expected, atol=1e-12)


def test_a_thick_frame_does_not_keep_an_image_out_of_a_flat_study() -> None:
    section = Input(size=(8, 8), spacing=(1.0, 1.0))
    assert recipe(section).apply(Volume(noise(4, 1, 12, 12), np.diag([1.0, 1, 9, 1]))).shape == (1, 8, 8)
