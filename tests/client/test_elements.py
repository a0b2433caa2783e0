"""Values of a header as they stand in the file are what pydicom makes of them, in every encoding."""

import io
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag

from fedward_client.intake import elements
from fedward_client.intake.quiet import quiet
from fedward_common.errors import UnreadableFile

ENCODINGS = [(implicit, little) for implicit in (True, False) for little in (True, False) if little or not implicit]
words = st.text("ABZ019_ ", max_size=16)
decimals = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: f"{value:.6g}")


def read_again(dataset: Dataset, encoding: tuple[bool, bool]) -> FileDataset:
    implicit, little = encoding
    file = io.BytesIO()
    dataset.save_as(file, implicit_vr=implicit, little_endian=little)
    file.seek(0)
    found = dcmread(file, force=True)
    assert isinstance(found.get_item("Modality"), RawDataElement), "the fast way is what is tested"
    return found


@given(st.sampled_from(ENCODINGS), st.lists(words, min_size=1, max_size=3))
def test_text_is_what_pydicom_reads(encoding: tuple[bool, bool], parts: list[str]) -> None:
    dataset = Dataset()
    dataset.Modality = "MR"
    dataset.ImageType = parts
    expected = "\\".join(part.strip() for part in parts).strip()
    with quiet():
        assert elements.text(read_again(dataset, encoding), "ImageType") == expected


@given(st.sampled_from(ENCODINGS), st.lists(decimals, min_size=1, max_size=6), st.integers(0, 65535))
def test_numbers_are_what_pydicom_reads(encoding: tuple[bool, bool], values: list[str], rows: int) -> None:
    dataset = Dataset()
    dataset.Modality = "MR"
    dataset.ImageOrientationPatient = values
    dataset.Rows = rows
    dataset.EchoTime = values[0]
    dataset.DiffusionBValue = float(values[0])
    with quiet():
        found, slow = read_again(dataset, encoding), read_again(dataset, encoding)
        for keyword in ("Rows", "EchoTime", "DiffusionBValue"):
            assert elements.number(found, keyword) == float(getattr(slow, keyword))
        assert elements.integer(found, "Rows") == rows
        listed = slow.ImageOrientationPatient
        assert elements.numbers(found, "ImageOrientationPatient") == tuple(
            map(float, listed if len(values) > 1 else [listed])
        )


@pytest.mark.parametrize("value", [None, ""])
def test_what_is_empty_is_nothing(value: Any) -> None:
    dataset = Dataset()
    dataset.Modality, dataset.EchoTime, dataset.PatientAge = "MR", value, value
    found = read_again(dataset, (False, True))
    with quiet():
        assert elements.number(found, "EchoTime") is None
        assert elements.text(found, "PatientAge") == ""
        assert elements.numbers(found, "EchoTime") == ()
        assert elements.number(found, "RepetitionTime") is None


def test_text_beyond_ascii_is_decoded_as_its_character_set_says() -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet, dataset.Modality, dataset.PatientID = "ISO_IR 192", "MR", "Jos\u00e9-\u5f20"
    with quiet():
        assert elements.text(read_again(dataset, (False, True)), "PatientID") == "Jos\u00e9-\u5f20"


@pytest.mark.parametrize(
    ("keyword", "vr", "data"),
    [
        ("EchoTime", "DS", b"two"),
        ("EchoTime", "DS", b"inf"),
        ("EchoTime", "DS", b"nan "),
        ("Rows", "US", b"\1"),
        ("DiffusionBValue", "FD", struct.pack("<d", float("inf"))),
        ("DiffusionBValue", "FD", b"\0\0\0"),
    ],
)
def test_what_is_no_number_is_said_with_its_name_only(keyword: str, vr: str, data: bytes) -> None:
    dataset, tag = Dataset(), elements.tag_of(keyword)
    raw = RawDataElement(Tag(tag), vr, len(data), data, 0, is_implicit_VR=False, is_little_endian=True)
    dataset[tag] = raw
    with quiet(), pytest.raises(UnreadableFile) as caught:
        elements.number(dataset, keyword)
    assert "cannot be read" in str(caught.value)
    assert "two" not in str(caught.value)


def test_a_sequence_that_ends_early_cannot_be_read() -> None:
    dataset, tag = Dataset(), Tag("ReferencedSeriesSequence")
    dataset[tag] = RawDataElement(tag, "SQ", 4, b"\xfe\xff\x00\xe0", 0, False, True)
    with quiet(), pytest.raises(UnreadableFile, match="Referenced Series Sequence cannot be read"):
        elements.items(dataset, "ReferencedSeriesSequence")
