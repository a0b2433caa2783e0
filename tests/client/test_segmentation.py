"""DICOM segmentations: what is written is read again where it lies, and what lies elsewhere is refused."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from highdicom.seg import segread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    JPEG2000Lossless,
    RLELossless,
)

from fedward_client.dicom_results import derived
from fedward_client.dicom_results.segmentation import segmentation
from fedward_client.intake import source
from fedward_client.intake.dicom import read_slices, read_volume
from fedward_client.intake.segmentation import read_masks, referenced_series
from fedward_common.errors import UnreadableFile

Write = Callable[..., Path]
Change = Callable[[Dataset], None]
DEVICE = derived.Device(title="Livers", model="unet", serial="a1" * 32)
LABELS = ("liver", "tumour")
SHAPE = (4, 3, 8)
OBLIQUE = [0.8, 0.6, 0.0, 0.0, 0.0, -1.0]  # columns run down to the feet; slices go along (-0.6, 0.8, 0)
ONCE = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


def place(number: int) -> list[float]:
    return [-50 - 0.6 * 2.5 * number, 10 + 0.8 * 2.5 * number, 70]


@pytest.fixture
def image(write_dicom: Write, tmp_path: Path) -> list[Path]:
    """A CT series in the order of its volume, which is not that of its names."""
    return [
        write_dicom(
            tmp_path / "ct" / f"{(number * 3) % 4}.dcm",
            patient_id="P1",
            array=np.full(SHAPE[1:], number, np.int16),
            SOPClassUID=CTImageStorage,
            SOPInstanceUID=f"1.2.3.{number}",
            Modality="CT",
            StudyInstanceUID="1.2",
            SeriesInstanceUID="1.2.3",
            FrameOfReferenceUID="1.2.9",
            ImageOrientationPatient=OBLIQUE,
            ImagePositionPatient=place(number),
            PixelSpacing=[1.5, 0.7],
        )
        for number in range(SHAPE[0])
    ]


def drawn(masks: npt.NDArray[np.uint8], image: list[Path], path: Path, change: Change | None = None) -> Path:
    found = segmentation(masks, [source.read(one) for one in image], LABELS[: len(masks)], DEVICE)
    if change is not None:
        change(found)
    path.write_bytes(derived.encoded(found))
    return path


def some(seed: int = 0, structures: int = 2) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 2, (structures, *SHAPE), np.uint8)


@ONCE
@given(masks=arrays(np.uint8, (2, *SHAPE), elements=st.integers(0, 1)))
def test_what_is_written_is_read(image: list[Path], tmp_path: Path, masks: npt.NDArray[np.uint8]) -> None:
    path = drawn(masks, image, tmp_path / "seg.dcm")
    found = read_masks(path, image)
    assert list(found) == list(LABELS)
    np.testing.assert_array_equal(np.stack(list(found.values())), masks)
    others = segread(path).get_pixels_by_source_instance([f"1.2.3.{number}" for number in range(SHAPE[0])])
    np.testing.assert_array_equal(others.transpose(3, 0, 1, 2), masks)


def test_frames_lie_where_their_slices_do(image: list[Path], tmp_path: Path) -> None:
    masks = np.zeros((2, *SHAPE), np.uint8)
    masks[0, 1:3], masks[1, 2, 1, 4:] = 1, 1
    path = drawn(masks, image, tmp_path / "seg.dcm")
    written, volume = dcmread(path), read_slices(image)
    assert volume.affine is not None
    frames = written.PerFrameFunctionalGroupsSequence
    numbers = [int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for frame in frames]
    assert (written.NumberOfFrames, numbers) == (3, [1, 1, 2])
    np.testing.assert_array_equal(written.pixel_array, [masks[0, 2], masks[0, 1], masks[1, 2]])
    for frame, at in zip(frames, (2, 1, 2), strict=True):
        where = [float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient]
        np.testing.assert_allclose(where * np.array([-1, -1, 1]), (volume.affine @ [0, 0, at, 1])[:3])
        [origin] = frame.DerivationImageSequence[0].SourceImageSequence
        assert origin.ReferencedSOPInstanceUID == f"1.2.3.{at}"
    shared = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (shared.PixelSpacing, shared.SpacingBetweenSlices) == ([1.5, 0.7], 2.5)
    assert (written.PatientID, written.StudyInstanceUID, written.FrameOfReferenceUID) == ("P1", "1.2", "1.2.9")
    assert written.SeriesInstanceUID != "1.2.3"
    assert referenced_series(path) == "", "what a model found is no truth"
    written.Manufacturer = "Workstation"
    written.save_as(path)
    assert referenced_series(path) == "1.2.3"
    assert referenced_series(image[0]) == ""


def test_masks_without_a_voxel_are_an_object_too(image: list[Path], tmp_path: Path) -> None:
    found = read_masks(drawn(np.zeros((2, *SHAPE), np.uint8), image, tmp_path / "seg.dcm"), image)
    assert {label: int(mask.sum()) for label, mask in found.items()} == {"liver": 0, "tumour": 0}


def test_names_of_structures_in_any_script(image: list[Path], tmp_path: Path) -> None:
    found = segmentation(some(structures=1), [source.read(one) for one in image], ["肝脏\\" + "x" * 99], DEVICE)
    (tmp_path / "seg.dcm").write_bytes(derived.encoded(found))
    [label] = read_masks(tmp_path / "seg.dcm", image)
    assert label == "肝脏/" + "x" * 61


@pytest.fixture
def segmented(image: list[Path], tmp_path: Path) -> bytes:
    return drawn(some(), image, tmp_path / "whole.dcm").read_bytes()


def fractional(dataset: Dataset) -> None:
    values = dataset.pixel_array.astype(np.uint8)
    dataset.SegmentationType, dataset.SegmentationFractionalType = "FRACTIONAL", "PROBABILITY"
    dataset.MaximumFractionalValue, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 201, 8, 8, 7
    dataset.PixelData = (values * 101 + (1 - values) * 100).tobytes()  # just over, and just under a half


def rle(dataset: Dataset) -> None:
    fractional(dataset)
    dataset.compress(RLELossless)


def one_name(dataset: Dataset) -> None:
    dataset.SegmentSequence[1].SegmentLabel = "liver"


@pytest.mark.parametrize("change", [fractional, rle])
def test_fractions_cover_from_a_half_on(image: list[Path], tmp_path: Path, change: Change) -> None:
    masks = some()
    found = read_masks(drawn(masks, image, tmp_path / "seg.dcm", change), image)
    np.testing.assert_array_equal(np.stack(list(found.values())), masks)


def test_segments_of_one_name_are_one_structure(image: list[Path], tmp_path: Path) -> None:
    masks = some()
    found = read_masks(drawn(masks, image, tmp_path / "seg.dcm", one_name), image)
    assert list(found) == ["liver"]
    np.testing.assert_array_equal(found["liver"], masks[0] | masks[1])


def test_a_label_map_says_the_segment_in_each_voxel(image: list[Path], tmp_path: Path) -> None:
    where = np.random.default_rng(1).integers(0, 3, SHAPE, np.uint8)

    def label_map(dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.66.7")
        dataset.SegmentationType = "LABELMAP"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = where[::-1].tobytes()  # frames go against the normal
        del dataset.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence
        background = Dataset()
        background.SegmentNumber, background.SegmentLabel = 0, "background"
        dataset.SegmentSequence.insert(0, background)
        second = Dataset()
        second.SegmentNumber, second.SegmentLabel = 2, "tumour"
        dataset.SegmentSequence.append(second)

    found = read_masks(drawn(np.ones((1, *SHAPE), np.uint8), image, tmp_path / "seg.dcm", label_map), image)
    assert list(found) == list(LABELS)
    np.testing.assert_array_equal(found["liver"], where == 1)
    np.testing.assert_array_equal(found["tumour"], where == 2)


@pytest.mark.parametrize("is_shared", [True, False])  # some makers say of each frame what all have
def test_frames_of_an_enhanced_object_are_found_again(write_dicom: Write, tmp_path: Path, is_shared: bool) -> None:
    order = [2, 0, 3, 1]
    frames, shared = [], Dataset()
    for number in order:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = place(number)
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    direction, measures = Dataset(), Dataset()
    direction.ImageOrientationPatient, measures.PixelSpacing = OBLIQUE, [1.5, 0.7]
    for group in [shared] if is_shared else frames:
        group.PlaneOrientationSequence, group.PixelMeasuresSequence = Sequence([direction]), Sequence([measures])
    path = write_dicom(
        tmp_path / "enhanced.dcm",
        patient_id="P1",
        array=np.stack([np.full(SHAPE[1:], number, np.int16) for number in order]),
        SOPClassUID=EnhancedCTImageStorage,
        StudyInstanceUID="1.2",
        SeriesInstanceUID="1.2.3",
        FrameOfReferenceUID="1.2.9",
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(frames),
    )
    assert read_volume(path).pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    masks = some()
    segmented = drawn(masks, [path], tmp_path / "seg.dcm")
    np.testing.assert_array_equal(np.stack(list(read_masks(segmented, [path]).values())), masks)
    for frame in dcmread(segmented).PerFrameFunctionalGroupsSequence:
        [origin] = frame.DerivationImageSequence[0].SourceImageSequence
        at = order[origin.ReferencedFrameNumber - 1]
        assert [float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient] == place(at)


def test_a_projection_is_found_by_its_instance(write_dicom: Write, image: list[Path], tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "dx.dcm",
        patient_id="P1",
        array=np.zeros(SHAPE[1:], np.uint8),
        SOPClassUID=DigitalXRayImageStorageForPresentation,
        SOPInstanceUID="1.2.3.1",
        SeriesInstanceUID="1.2.3",
    )
    masks = np.zeros((1, *SHAPE), np.uint8)
    masks[0, 1] = some()[0, 1]

    def without_place(dataset: Dataset) -> None:
        del dataset.FrameOfReferenceUID
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            del frame.PlanePositionSequence

    found = read_masks(drawn(masks, image, tmp_path / "seg.dcm", without_place), [path])
    np.testing.assert_array_equal(found["liver"], masks[0, 1:2])


# What is refused -----------------------------------------------------------------------------------------------------


def of(keyword: str, value: Any) -> Change:
    return lambda dataset: setattr(dataset, keyword, value)


def moved(step: list[float]) -> Change:
    def change(dataset: Dataset) -> None:
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            position = frame.PlanePositionSequence[0]
            position.ImagePositionPatient = (np.array(position.ImagePositionPatient, float) + step).round(6).tolist()

    return change


def turned(dataset: Dataset) -> None:
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [-0.8, -0.6, 0, 0, 0, 1]


def finer(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.75, 0.35]


def elsewhere(dataset: Dataset) -> None:
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.4"


def of_another_instance(dataset: Dataset) -> None:
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.4.1"


def unnamed(dataset: Dataset) -> None:
    del dataset.SegmentSequence[1]


def cut(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-2]


def jpeg(dataset: Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset["PixelData"].is_undefined_length = True
    dataset.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\2\0\0\0ab"


ANOTHER_GRID = "its voxels are not the image's"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (of("FrameOfReferenceUID", "1.2.8"), "its frame of reference is not the image's"),
        (elsewhere, "it was drawn on another series"),
        (of_another_instance, "it was drawn on another image"),
        (of("Rows", 2), ANOTHER_GRID),
        (moved([0.8 * 0.1, 0.6 * 0.1, 0]), ANOTHER_GRID),  # a seventh of a pixel along the rows
        (turned, "it covers slices that the image lacks|" + ANOTHER_GRID),
        (finer, ANOTHER_GRID),
        (moved([-0.6 * 2.5, 0.8 * 2.5, 0]), "it covers slices that the image lacks"),
        (unnamed, "frames of a segment that it does not describe"),
        (cut, "the pixel data ends early"),
        (jpeg, "compressed in a way that can lose some"),
        (of("SOPClassUID", CTImageStorage), "it is no DICOM segmentation"),
        (of("NumberOfFrames", 2**30), "more than can be read at once"),
    ],
)
def test_what_is_not_of_the_image_is_refused(image: list[Path], tmp_path: Path, change: Change, reason: str) -> None:
    path = drawn(np.ones((2, *SHAPE), np.uint8), image, tmp_path / "seg.dcm", change)
    with pytest.raises(UnreadableFile, match=reason):
        read_masks(path, image)


def test_slices_that_the_image_lacks(image: list[Path], tmp_path: Path) -> None:
    path = drawn(some(), image, tmp_path / "seg.dcm")
    with pytest.raises(UnreadableFile, match="it covers slices that the image lacks"):
        read_masks(path, image[:3])
    empty = some()
    empty[:, 3] = 0
    path = drawn(empty, image, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_masks(path, image[:3])["liver"], empty[0, :3])


def test_an_image_without_a_place_has_no_segmentation(write_dicom: Write, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "us.dcm", patient_id="P1", array=np.zeros(SHAPE[1:], np.uint8))
    with pytest.raises(UnreadableFile, match="does not say where it lies"):
        segmentation(some()[:, :1], [source.read(path)], LABELS, DEVICE)


def test_slices_of_several_directions_have_no_segmentation(image: list[Path]) -> None:
    turned = source.read(image[3])
    turned.ImageOrientationPatient = [0.6, 0.8, 0.0, 0.0, 0.0, -1.0]
    with pytest.raises(UnreadableFile, match="its frames are not parallel"):
        segmentation(some(), [*map(source.read, image[:3]), turned], LABELS, DEVICE)


def test_slices_at_one_place_have_no_segmentation(image: list[Path]) -> None:
    slices = [source.read(one) for one in image]
    slices[3].ImagePositionPatient = slices[2].ImagePositionPatient
    with pytest.raises(UnreadableFile, match="several of its frames lie at one place"):
        segmentation(some(), slices, LABELS, DEVICE)


def test_masks_on_other_voxels_have_no_segmentation(image: list[Path]) -> None:
    with pytest.raises(UnreadableFile, match="not on the voxels of the image"):
        segmentation(some()[:, :, :2], [source.read(one) for one in image], LABELS, DEVICE)


@ONCE
@given(data=st.data())
def test_a_damaged_one_is_read_or_refused(
    image: list[Path], segmented: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    whole = bytearray(segmented)
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(132, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "seg.dcm").write_bytes(whole[: data.draw(st.integers(200, len(whole)))])
    try:
        found = read_masks(tmp_path / "seg.dcm", image)
    except UnreadableFile:
        return
    assert all(mask.shape == SHAPE and mask.max(initial=0) <= 1 for mask in found.values())


def test_files_are_part_10(image: list[Path]) -> None:
    found = segmentation(some(), [source.read(one) for one in image], LABELS, DEVICE)
    again = dcmread(io.BytesIO(derived.encoded(found)))
    assert again.file_meta.MediaStorageSOPInstanceUID == again.SOPInstanceUID
