"""De-identified attributes: nothing planted anywhere comes through, and what research needs stays as it was."""

import re
import zlib
from collections.abc import Callable
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom._dicom_dict import DicomDictionary
from pydicom.charset import convert_encodings
from pydicom.data import get_testdata_file
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
)

from fedward_client.deidentify import Profile, pseudonyms
from fedward_client.deidentify.files import Place, cleaned, place_of
from fedward_client.deidentify.rules import safe_private
from fedward_client.intake.quiet import quiet
from fedward_client.site import Site
from fedward_common.errors import UnreadableFile, UsageError

Make = Callable[..., Dataset]
PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)
MARKER = "planted^marker of a patient"  # too long, or not the letters, for a code string or a number
TEXTS = (
    "AE",
    "AS",
    "CS",
    "DS",
    "IS",
    "LO",
    "LT",
    "PN",
    "SH",
    "ST",
    "TM",
    "UC",
    "UI",
    "UR",
    "UT",
    "DA",
    "DT",
    "OB",
    "UN",
)
UTF8 = convert_encodings("ISO_IR 192")
LITTLE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "site").mkdir()
    return Site.open(tmp_path / "site")


@pytest.fixture
def image(make_dicom: Make) -> Callable[..., Dataset]:
    """`image(**tags)`: an MR image, whose pixels nobody suspects of text."""

    def make(**tags: Any) -> Dataset:
        given: dict[str, Any] = {"patient_id": "007", "array": PIXELS, "SOPClassUID": MRImageStorage, "Modality": "MR"}
        return make_dicom(**{**given, **tags})

    return make


def plant(dataset: Dataset, tag: BaseTag | int, vr: str, value: bytes) -> None:
    """An element with just these bytes, whatever its VR allows."""
    value += b" " * (len(value) % 2)
    implicit = dataset.original_encoding[0]
    dataset[Tag(tag)] = RawDataElement(Tag(tag), None if implicit else vr, len(value), value, 0, bool(implicit), True)


def raw(
    dataset: Dataset | None = None, syntax: str = ExplicitVRLittleEndian, charset: str | list[str] = "iso8859"
) -> Dataset:
    """A data set that elements can be planted in."""
    dataset = Dataset() if dataset is None else dataset
    dataset.set_original_encoding(syntax == ImplicitVRLittleEndian, True, charset)
    return dataset


def deidentified(site: Site, dataset: Dataset, profile: Profile | None = None) -> tuple[FileDataset, bytes]:
    """What becomes of a data set that is written to a file: as it reads again, and as bytes without compression."""
    path = site.folder / "source"
    with quiet():  # pydicom tells of values that are not what their VR says, and these are
        dataset.save_as(path, enforce_file_format=True)
    data = cleaned(site, path, profile or Profile()).data
    found = dcmread(BytesIO(data))
    if found.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        start = 144 + found.file_meta.FileMetaInformationGroupLength
        data = data[:start] + zlib.decompress(data[start:], -zlib.MAX_WBITS)
    return found, data


# what a file needs to be one that is written
NEEDED = {
    tag_for_keyword(keyword) for keyword in ("SOPClassUID", "SOPInstanceUID", "PatientID", "EncapsulatedDocument")
}


# What must go --------------------------------------------------------------------------------------------------------


def is_plantable(profile: Profile, tag: int, vr: str) -> bool:
    """Whether an attribute can hold a text that must go: all but those that are kept as free text."""
    free = {"AE", "LO", "LT", "SH", "ST", "UC", "UR", "UT", "OB", "UN"}
    return vr in TEXTS and tag >> 16 > 4 and not (vr in free and profile.action(Tag(tag)) == "K") and tag != 0x00080005


@pytest.mark.parametrize("syntax", LITTLE)
@pytest.mark.parametrize("dropped", [(), ("dates", "device", "patient")])
def test_a_text_in_every_attribute_is_gone(site: Site, image: Make, syntax: str, dropped: tuple[str, ...]) -> None:
    profile = Profile.without(dropped, burned_in="keep")  # no attribute of the pixels is what it should be
    planted = [(tag, entry[0]) for tag, entry in DicomDictionary.items() if is_plantable(profile, tag, entry[0])]
    assert len(planted) > 2000
    dataset, inner = raw(image(syntax=syntax), syntax), raw(syntax=syntax)
    for tag, vr in planted:
        plant(inner, tag, vr, MARKER.encode())
        if tag not in NEEDED:
            plant(dataset, tag, vr, MARKER.encode())
    dataset.ReferencedSeriesSequence = [inner]
    found, data = deidentified(site, dataset, profile)
    assert b"planted" not in data.lower()
    assert len(found) > 50
    assert "ReferencedSeriesSequence" in found


@pytest.mark.parametrize("syntax", LITTLE)
def test_private_unknown_and_graphic_elements_are_gone(site: Site, image: Make, syntax: str) -> None:
    dataset = raw(image(syntax=syntax), syntax)
    for holder in (dataset, inner := raw(syntax=syntax)):
        plant(holder, 0x00090010, "LO", b"SOME MAKER")
        plant(holder, 0x00091001, "LO", b"planted")
        plant(holder, 0x00091002, "OB", b"planted")
        plant(holder, 0x00191008, "UN", b"planted")  # without a creator
        plant(holder, 0x00290010, "LO", b"planted")  # a creator alone
        plant(holder, 0x00080FFF, "LO", b"planted")  # not in the standard
        plant(holder, 0x50000022, "LO", b"planted")
        plant(holder, 0x50003000, "OW", b"planted")
        plant(holder, 0x60003000, "OW", b"planted")
        plant(holder, 0x60020022, "LO", b"planted")
        plant(holder, 0xFFFCFFFC, "OB", b"planted")
    dataset.add_new(0x00091003, "SQ", [inner])
    dataset.ReferencedSeriesSequence = [inner]
    found, data = deidentified(site, dataset)
    assert b"planted" not in data
    assert not [element for element in found.iterall() if element.tag.is_private or element.tag.group >= 0x8000]


def test_safe_private_elements_stay_if_they_are_what_they_should_be(site: Site, image: Make) -> None:
    dataset = raw(image())
    plant(dataset, 0x00190011, "LO", b"SIEMENS MR HEADER")
    plant(dataset, 0x0019110C, "IS", b"1000")
    plant(dataset, 0x0019110D, "CS", b"planted in a code string")
    plant(dataset, 0x0019110E, "FD", np.array([0.6, 0.8, 0.0]).tobytes())
    plant(dataset, 0x00191127, "LO", b"planted")
    plant(dataset, 0x00191199, "IS", b"1")
    found, data = deidentified(site, dataset)
    assert b"planted" not in data
    assert [element.value for element in found.group_dataset(0x0019)] == ["SIEMENS MR HEADER", 1000, [0.6, 0.8, 0.0]]
    assert set(safe_private().values()) <= {"CS", "DS", "FD", "FL", "IS", "SL", "SS", "US"}


def test_meta_information_and_preamble_are_ours(site: Site, image: Make) -> None:
    dataset = image(SOPInstanceUID="1.2.3.4.5.6.7.8.9")
    dataset.preamble = b"planted".ljust(128)
    meta = dataset.file_meta
    meta.ImplementationVersionName = meta.SourceApplicationEntityTitle = "PLANTED"
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = UID("1.2.3.4.5"), b"planted!"
    found, data = deidentified(site, dataset)
    assert b"planted" not in data.lower()
    assert b"1.2.3.4.5" not in data
    assert data[:128] == bytes(128)
    assert (
        found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID == pseudonyms.uid(site, "1.2.3.4.5.6.7.8.9")
    )
    assert found.file_meta.ImplementationClassUID == PYDICOM_IMPLEMENTATION_UID


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 144", "Люкceмбypг"),  # noqa: RUF001 - it is Cyrillic
        ("ISO_IR 100", "Buc^Jérôme"),
    ],
)
def test_names_in_every_character_set(site: Site, image: Make, charset: str | list[str], name: str) -> None:
    dataset = image(SpecificCharacterSet=charset, PatientName=name, OperatorsName=name, PatientComments=name)
    dataset.ReferencedSeriesSequence = [Dataset()]
    dataset.ReferencedSeriesSequence[0].PersonName = name
    dataset.ReceiveCoilName = "Kopf"
    found, data = deidentified(site, dataset)
    assert found.PatientName == pseudonyms.patient(site, "007")
    assert found.OperatorsName == "REMOVED"
    assert found.ReceiveCoilName == "Kopf"
    assert found.SpecificCharacterSet == charset
    for part in re.split(r"[=^]", name):
        for encoding in ("utf-8", "latin-1", "gb18030", "iso8859_5", "iso2022_jp"):
            assert part.encode(encoding, "ignore") == b"" or part.encode(encoding, "ignore") not in data


PLANTABLE = [
    (tag, entry[0])
    for tag, entry in DicomDictionary.items()
    if is_plantable(Profile(), tag, entry[0]) and tag not in NEEDED
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    planted=st.lists(st.sampled_from(PLANTABLE), min_size=1, max_size=8),
    private=st.lists(st.tuples(st.integers(0x0009, 0x7FFF), st.integers(0x1000, 0x10FF)), max_size=4),
    words=st.text(st.characters(categories=["L", "Nd"]), min_size=4, max_size=12),
    depth=st.integers(0, 3),
    syntax=st.sampled_from(LITTLE),
)
def test_a_marker_anywhere_is_gone(
    site: Site,
    image: Make,
    planted: list[tuple[int, str]],
    private: list[tuple[int, int]],
    words: str,
    depth: int,
    syntax: str,
) -> None:
    marker = f"{words} planted here: {words}".encode()
    dataset = innermost = raw(image(syntax=syntax, SpecificCharacterSet="ISO_IR 192"), syntax, UTF8)
    for _ in range(depth):
        inner = raw(Dataset(parent_encoding=UTF8), syntax, UTF8)
        innermost.ReferencedSeriesSequence = Sequence([inner])
        innermost = inner
    for tag, vr in planted:
        plant(innermost, tag, vr, marker)
    for group, element in private:
        plant(innermost, (group | 1) << 16 | element, "UN", marker)
        plant(innermost, (group | 1) << 16 | element >> 8, "LO", words.encode())
    before = dataset.PixelData
    found, data = deidentified(site, dataset, Profile(burned_in="keep"))
    assert b"planted here" not in data
    assert marker not in data
    assert found.PixelData == before


# What must stay, and what it becomes ---------------------------------------------------------------------------------


def test_the_standards_codes_stay_and_others_go(site: Site, image: Make) -> None:
    dataset = image()
    rows = [
        ("113072", "DCM", "planted"),
        ("T-A0100", "SRT", "Brain"),
        ("007", "99HOSPITAL", "planted"),
        ("x", "SCT", "y"),
    ]
    dataset.ProcedureCodeSequence = dataset.AnatomicRegionSequence = items = []
    for value, scheme, meaning in rows:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning, item.CodingSchemeVersion = (
            value,
            scheme,
            meaning,
            "p",
        )
        items.append(item)
    dataset.AnatomicRegionSequence = items
    found, data = deidentified(site, dataset)
    first, second, *others = found.AnatomicRegionSequence
    assert (first.CodeValue, first.CodingSchemeDesignator, first.CodeMeaning) == (
        "113072",
        "DCM",
        "Multiplanar reformatting",
    )
    assert (second.CodeValue, second.CodeMeaning) == ("T-A0100", "Brain structure (body structure)")
    assert others == [Dataset(), Dataset()]
    assert b"planted" not in data


def test_uids_map_consistently_and_the_standards_stay(site: Site, image: Make) -> None:
    series = "1.2.840.113619.2.5.1762583153"
    dataset = image(SeriesInstanceUID=series, FrameOfReferenceUID="1.2.3.4.5.6.7", SOPInstanceUID="1.2.3.4.5.6.8")
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.SeriesInstanceUID = (
        MRImageStorage,
        "1.2.3.4.5.6.8",
        series,
    )
    dataset.ReferencedImageSequence = [item]
    dataset.RelatedFrameOfReferenceUID = ["1.2.3.4.5.6.7", MRImageStorage]
    found, _ = deidentified(site, dataset)
    [reference] = found.ReferencedImageSequence
    assert reference.ReferencedSOPClassUID == found.SOPClassUID == MRImageStorage
    assert reference.ReferencedSOPInstanceUID == found.SOPInstanceUID
    assert reference.SeriesInstanceUID == found.SeriesInstanceUID == pseudonyms.uid(site, series)
    assert list(found.RelatedFrameOfReferenceUID) == [found.FrameOfReferenceUID, MRImageStorage]
    assert re.fullmatch(r"2\.25\.[1-9]\d{30,38}", found.SOPInstanceUID)


@given(st.text(st.sampled_from("0123456789."), min_size=1, max_size=64))
def test_a_mapped_uid_is_a_uuid_of_version_8(uid: str) -> None:
    number = int(pseudonyms.uid(_FIXED, uid).removeprefix("2.25."))
    assert number >> 76 & 0xF == 8
    assert number >> 62 & 0b11 == 0b10
    assert number < 2**128


class _Fixed(Site):
    key = b"k" * 32  # no folder, no file


_FIXED = _Fixed(name="a", folder=Path(), data=Path(), labels=None, state=Path())  # type: ignore[arg-type]


def test_another_key_makes_other_pseudonyms(tmp_path: Path, site: Site) -> None:
    (tmp_path / "other").mkdir()
    other = Site.open(tmp_path / "other")
    assert pseudonyms.uid(site, "1.2.3") != pseudonyms.uid(other, "1.2.3")
    assert pseudonyms.uid(site, "1.2.3") == pseudonyms.uid(Site.open(site.folder), "1.2.3")
    assert [pseudonyms.days(site, str(n)) for n in range(9)] != [pseudonyms.days(other, str(n)) for n in range(9)]


days = st.dates(date(1900, 1, 1), date(2100, 1, 1))


@given(first=days, second=days, patient=st.text(min_size=1))
def test_intervals_between_dates_stay(first: date, second: date, patient: str) -> None:
    back = pseudonyms.days(_FIXED, patient)
    assert 1 <= back <= pseudonyms.MOST_DAYS
    moved = [pseudonyms.moved_date(f"{day:%Y%m%d}", back) for day in (first, second)]
    assert [date.fromisoformat(text) for text in moved] == [day - timedelta(days=back) for day in (first, second)]
    moment = pseudonyms.moved_moment(f"{first:%Y%m%d}235959.123456+0100", back)
    assert moment == f"{moved[0]}235959.123456+0100"


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("20200301", "20200201"),
        ("2020.03.01", "20200201"),
        ("202003", "202002"),
        ("2020", "2020"),
        ("00010101", ""),
        ("20201301", ""),
        ("yesterday", ""),
        ("", ""),
    ],
)
def test_dates_that_are_dates_move(text: str, moved: str) -> None:
    assert pseudonyms.moved_date(text, 29) == moved


@pytest.mark.parametrize("text", ["2020030", "20200301 12", "2020+01000", "Mon", "202003011"])
def test_moments_that_are_none_are_emptied(text: str) -> None:
    assert pseudonyms.moved_moment(text, 29) in {"", "202002011"}


def test_all_dates_of_a_patient_move_by_one_number_of_days(site: Site, image: Make) -> None:
    dataset = image(
        StudyDate="20200301", AcquisitionDateTime="20200229120000.5+0100", PatientBirthDate="19600101", StudyTime="1201"
    )
    inner = Dataset()
    inner.DateOfSecondaryCapture, inner.ScheduledProcedureStepStartDate = "20200302", ["20200303", "20200304"]
    inner.TimezoneOffsetFromUTC = "+0100"
    dataset.ReferencedSeriesSequence = [inner]
    found, data = deidentified(site, dataset)
    back = timedelta(days=pseudonyms.days(site, "007"))
    [item] = found.ReferencedSeriesSequence
    moved = [found.StudyDate, item.DateOfSecondaryCapture, *item.ScheduledProcedureStepStartDate]
    assert [date.fromisoformat(text) + back for text in moved] == [date(2020, 3, day) for day in (1, 2, 3, 4)]
    assert found.AcquisitionDateTime == f"{date(2020, 2, 29) - back:%Y%m%d}120000.5+0100"
    assert (found.PatientBirthDate, found.StudyTime, item.TimezoneOffsetFromUTC) == ("", "1201", "+0100")
    assert found.LongitudinalTemporalInformationModified == "MODIFIED"
    assert b"202003" not in data


def test_without_options_the_basic_profile_holds(site: Site, image: Make) -> None:
    tags = {"StudyDate": "20200301", "StudyTime": "1201", "PatientAge": "064Y", "PatientSex": "F", "StationName": "CT1"}
    dataset = image(**tags, DeviceSerialNumber="4711", PatientWeight="70", InstitutionName="St. Mary")
    everything, _ = deidentified(site, dataset)
    assert [everything[keyword].value for keyword in ("PatientAge", "PatientSex", "StationName")] == [
        "064Y",
        "F",
        "CT1",
    ]
    nothing, data = deidentified(site, dataset, Profile.without(["dates", "device", "patient"]))
    assert [nothing[keyword].value for keyword in ("StudyDate", "StudyTime", "PatientSex")] == ["", "", ""]
    assert "PatientAge" not in nothing
    assert "PatientWeight" not in nothing
    assert (nothing.StationName, nothing.DeviceSerialNumber, nothing.InstitutionName) == ("REMOVED",) * 3
    assert nothing.LongitudinalTemporalInformationModified == "REMOVED"
    assert b"4711" not in data
    with pytest.raises(UsageError, match="'names' is nothing that can be dropped; dates, device, patient can"):
        Profile.without(["names"])


def test_what_was_done_is_declared(site: Site, image: Make) -> None:
    found, _ = deidentified(site, image(DeidentificationMethod="planted"))
    codes = {item.CodeValue for item in found.DeidentificationMethodCodeSequence}
    assert codes == {"113100", "113107", "113108", "113109", "113111"}
    assert found.PatientIdentityRemoved == "YES"
    assert all(len(text) <= 64 for text in found.DeidentificationMethod)
    found, _ = deidentified(site, image(), Profile.without(["dates", "device", "patient"]))
    assert {item.CodeValue for item in found.DeidentificationMethodCodeSequence} == {"113100", "113111"}


@pytest.mark.parametrize(("age", "written"), [("064Y", "064Y"), ("090Y", "090Y"), ("103Y", "090Y"), ("008M", "008M")])
def test_ages_are_capped(site: Site, image: Make, age: str, written: str) -> None:
    assert deidentified(site, image(PatientAge=age))[0].PatientAge == written


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"])
def test_pixels_and_syntax_are_those_of_the_source(site: Site, name: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    source, data = dcmread(path), cleaned(site, path, Profile(burned_in="keep")).data
    found = dcmread(BytesIO(data))
    assert found.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID
    assert found.PixelData == source.PixelData
    np.testing.assert_array_equal(found.pixel_array, source.pixel_array)


def test_compressed_pixels_are_not_decoded(site: Site, image: Make) -> None:
    frames = encapsulate([b"no JPEG 2000 at all!"])
    dataset = image(syntax=JPEG2000Lossless, PixelData=frames)
    dataset["PixelData"].is_undefined_length = True
    found, _ = deidentified(site, dataset)
    assert found.PixelData == frames
    assert found.file_meta.TransferSyntaxUID == JPEG2000Lossless


def test_doing_it_again_reveals_nothing(site: Site, image: Make) -> None:
    dataset = image(PatientName="Doe^Jane", StudyDate="20200301", SeriesInstanceUID="1.2.3.4.5.6.7.8.9.10")
    once, _ = deidentified(site, dataset)
    twice, data = deidentified(site, once)
    for identifier in (b"Jane", b"20200301", b"1.2.3.4.5.6.7.8.9.10", b"Doe"):
        assert identifier not in data
    for keyword in ("PatientID", "SOPInstanceUID", "SeriesInstanceUID", "StudyDate"):
        assert twice[keyword].value != once[keyword].value
    assert twice.PixelData == dataset.PixelData
    assert twice.file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID


def test_the_same_input_gives_the_same_bytes(site: Site, image: Make) -> None:
    dataset = image(StudyDate="20200301", SeriesInstanceUID="1.2.3.4.5")
    assert deidentified(site, dataset)[1] == deidentified(Site.open(site.folder), dataset)[1]


# What is refused -----------------------------------------------------------------------------------------------------


def deidentify_file(site: Site, path: Path) -> None:
    assert isinstance(place_of(site, path), Place)
    cleaned(site, path, Profile())


def refusal(site: Site, dataset: Dataset) -> str:
    path = site.folder / "DOE_JANE"
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(UnreadableFile) as caught:
        deidentify_file(site, path)
    assert "JANE" not in str(caught.value)
    return str(caught.value)


def test_what_has_no_form_without_identifiers_is_refused(site: Site, image: Make) -> None:
    report = image()
    report.ContentSequence = [Dataset()]
    document = image()
    document.EncapsulatedDocument = b"%PDF"
    for dataset in (report, document):
        assert refusal(site, dataset) == "it is a report or a document, whose text cannot be cleaned"
    overlay = image(BitsAllocated=16, PixelData=bytes(96))
    overlay.add_new(0x60000102, "US", 12)
    assert refusal(site, overlay) == "an overlay is in the unused bits of its pixels"
    overlay.add_new(0x60003000, "OW", bytes(6))
    assert not [element for element in deidentified(site, overlay)[0] if element.tag.group == 0x6000]


def test_what_has_no_place_is_refused(site: Site, image: Make) -> None:
    assert refusal(site, image(PatientID="")) == "no patient id"
    assert refusal(site, image(SOPInstanceUID="")) == "no SOP instance UID"
    damaged = site.folder / "damaged"
    image().save_as(damaged, enforce_file_format=True)
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(UnreadableFile):
        place_of(site, damaged)


def test_big_endian_numbers_stay(site: Site) -> None:
    path = Path(str(get_testdata_file("MR_small_bigendian.dcm", download=False)))
    found = dcmread(BytesIO(cleaned(site, path, Profile()).data))
    assert found.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    assert (found.Rows, found.BitsAllocated) == (64, 16)
