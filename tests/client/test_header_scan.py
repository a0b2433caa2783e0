"""What is read without pydicom is what pydicom reads: of its own test files, of generated ones, and of damaged ones."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import data, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from fedward_client.intake import dicom, header_scan, part10, siblings
from fedward_client.intake.dicom import Header, decode, read_header
from fedward_common.errors import UnreadableFile

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
WORDS = st.text("ABCÄÖ日 ^=\\-1.", max_size=12)


def judged(path: Path) -> object:
    """What a file's header says, or why it is refused."""
    try:
        return read_header(path)
    except UnreadableFile as refusal:
        return str(refusal)


def by_pydicom(path: Path, judge: Callable[[Path], object] = judged) -> object:
    with mock.patch.object(header_scan, "scan", return_value=None):
        return judge(path)


def shown(path: Path) -> object:
    """A file's pixels and where they lie, or why it is refused."""
    try:
        volume = decode(path)
    except UnreadableFile as refusal:
        return str(refusal)
    place = None if volume.affine is None else volume.affine.tolist()
    return volume.pixels.shape, volume.pixels.tobytes(), place


def scanned(content: bytes) -> bool:
    return header_scan.scan(io.BytesIO(content), part10.header_tags()) is not None


def test_pydicoms_own_files_are_judged_as_pydicom_reads_them() -> None:
    folder = Path(data.__file__).parent / "test_files"
    paths = [path for path in sorted(folder.rglob("*.dcm")) if path.stat().st_size < 2**20]
    assert len(paths) > 50
    for path in paths:
        assert judged(path) == by_pydicom(path), path.name
        assert shown(path) == by_pydicom(path, shown), path.name
    assert sum(scanned(path.read_bytes()) for path in paths) > len(paths) / 2


def rendered(**elements: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


LUT = rendered(LUTDescriptor=[4, 0, 16], LUTData=bytes((7, 0, 5, 0, 3, 0, 1, 0)))
WINDOW = rendered(WindowCenter="2", WindowWidth="3")
PLACED = rendered(
    PerFrameFunctionalGroupsSequence=Sequence(
        [
            rendered(
                PlanePositionSequence=Sequence([rendered(ImagePositionPatient=[0, 0, 7])]),
                PlaneOrientationSequence=Sequence([rendered(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
                PixelMeasuresSequence=Sequence([rendered(PixelSpacing=[3, 3])]),
            )
        ]
    )
)
RENDERED = [
    rendered(),
    rendered(RescaleSlope="2.5", RescaleIntercept="-3"),
    rendered(WindowCenter="2\\9", WindowWidth="3\\4", VOILUTFunction="SIGMOID"),
    rendered(PixelPaddingValue=0, PixelPaddingRangeLimit=1, PhotometricInterpretation="MONOCHROME1"),
    rendered(ModalityLUTSequence=Sequence([LUT])),
    rendered(VOILUTSequence=Sequence([LUT])),
    rendered(SharedFunctionalGroupsSequence=Sequence([rendered(FrameVOILUTSequence=Sequence([WINDOW]))])),
    rendered(PerFrameFunctionalGroupsSequence=Sequence([rendered(FrameVOILUTSequence=Sequence([WINDOW]))])),
    PLACED,
    rendered(
        PhotometricInterpretation="PALETTE COLOR",
        **{
            f"{color}PaletteColorLookupTable{part}": value
            for color in ("Red", "Green", "Blue")
            for part, value in (("Descriptor", [4, 0, 8]), ("Data", bytes((9, 8, 7, 6))))
        },
    ),
]
PIXELS = st.sampled_from([4, 3, 40_000])


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A small image with nested sequences of either kind of length, and text in a character set."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = draw(st.sampled_from(["ISO_IR 192", "ISO_IR 100", ""]))
    utf8 = dataset.SpecificCharacterSet == "ISO_IR 192"
    text = WORDS if utf8 else WORDS.map(lambda word: word.encode("ascii", "ignore").decode())
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, "1.2.3"
    dataset.PatientID, dataset.Manufacturer = draw(text), draw(text)
    dataset.SeriesDescription, dataset.BodyPartExamined = draw(text), draw(st.sampled_from(["BRAIN", ""]))
    dataset.PixelSpacing = draw(st.sampled_from([[1, 2], "", "0.5\\0.25"]))
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 5.5], [1, 0, 0, 0, 1, 0]
    for keyword in draw(st.sets(st.sampled_from(["ReferencedImageSequence", "RequestAttributesSequence"]))):
        setattr(dataset, keyword, Sequence(draw(st.lists(items(2), max_size=3))))
        dataset[keyword].is_undefined_length = draw(st.booleans())
    dataset.Rows = dataset.Columns = draw(st.sampled_from([2, 200]))
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.update(draw(st.sampled_from(RENDERED)))
    dataset.PixelData = np.arange(dataset.Rows * dataset.Columns).astype(np.uint8).tobytes()[: draw(PIXELS)]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = draw(st.sampled_from(SYNTAXES))
    out = io.BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def items(depth: int) -> st.SearchStrategy[Dataset]:
    def made(uid: str, below: list[Dataset], undefined: bool) -> Dataset:
        item = Dataset()
        item.ReferencedSOPInstanceUID = uid
        if below:
            item.PurposeOfReferenceCodeSequence = Sequence(below)
            item["PurposeOfReferenceCodeSequence"].is_undefined_length = undefined
        item.is_undefined_length_sequence_item = undefined
        return item

    inner = st.lists(items(depth - 1), max_size=2) if depth else st.just([])
    return st.builds(made, st.sampled_from(["1.2", "1.2.3.4"]), inner, st.booleans())


@pytest.mark.filterwarnings("ignore")  # pydicom's, on writing what the standard forbids
@settings(max_examples=60)
@given(content=headers(), cuts=st.lists(st.tuples(st.integers(132, 900), st.integers(0, 255)), max_size=3))
def test_any_file_is_judged_as_pydicom_reads_it_damaged_or_not(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, cuts: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "one.dcm"
    damaged = bytearray(content)
    for at, value in cuts:
        if at < len(damaged):
            damaged[at] = value
    path.write_bytes(damaged)
    assert judged(path) == by_pydicom(path)
    assert shown(path) == by_pydicom(path, shown)
    assert judged(path) == by_pydicom(path), "a header that was judged with its pixels is the same"


def test_a_header_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    dataset = Dataset()
    dataset.PatientID, dataset.Rows, dataset.Columns = "P1", 2, 2
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, "1.2.3"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.add_new((0x0019, 0x0010), "LO", "MAKER")
    dataset.add_new((0x0019, 0x1001), "OB", bytes(3 * header_scan._CHUNK))
    dataset.PixelData = bytes(4)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = tmp_path / "long.dcm"
    dcmwrite(path, dataset, enforce_file_format=True)
    assert scanned(path.read_bytes())
    assert judged(path) == by_pydicom(path)


def test_sequences_that_nest_without_end_are_refused_in_words(tmp_path: Path) -> None:
    opened = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    meta = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"
    path = tmp_path / "deep.dcm"
    path.write_bytes(bytes(128) + b"DICM" + meta + opened * 20_000)
    assert judged(path) == by_pydicom(path) == "its header is damaged"


def test_a_header_is_the_same_after_its_pixels_were_read(tmp_path: Path) -> None:
    """Of implicit VR, where the groups of frames are no sequence at first sight; no pixels were read of the other."""
    dataset = rendered(
        SOPClassUID=MRImageStorage, SOPInstanceUID="1.2.3", PatientID="P1", Rows=2, Columns=2, SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2", BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0,
        PixelData=bytes(4),
    )  # fmt: skip
    dataset.update(PLACED)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    paths = [tmp_path / "shown.dcm", tmp_path / "judged.dcm"]
    for path in paths:
        dcmwrite(path, dataset, enforce_file_format=True)
    shown(paths[0])
    assert judged(paths[0]) == judged(paths[1]) == by_pydicom(paths[1])


# Slices of one series ------------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(["", "1", "-2.50", " 3 ", "7\\8", "x", "nan", "1e400"])
POSITIONS = st.sampled_from(["0\\0\\5", "1.5\\-2\\7", "0\\0", "", "a\\b\\c", "0\\0\\inf", "0\\0\\1e2"])


@st.composite
def slices(draw: st.DrawFn) -> list[bytes]:
    """Files of a series, which differ in what slices differ in, and at times in more."""
    kinds: list[dict[str, str | None]] = [{}, {"PixelSpacing": None}, {"ImageOrientationPatient": "1\\0\\0\\1\\0\\0"}]
    shared = draw(st.sampled_from(kinds))
    syntax = draw(st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
    files = []
    for number in range(draw(st.integers(2, 5))):
        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.SOPClassUID, dataset.PatientID = MRImageStorage, "P1"
        dataset.Modality, dataset.Manufacturer = "MR", draw(st.sampled_from(["Acme", "Acme", "Möller"]))
        dataset.ImageOrientationPatient, dataset.PixelSpacing = "1\\0\\0\\0\\1\\0", "0.5\\0.5"
        own = {"SOPInstanceUID": ("UI", draw(st.sampled_from([f"1.2.{number}", "", "1.2.ö"])))}
        own |= {name: ("IS", draw(NUMBERS)) for name in ("AcquisitionNumber", "InstanceNumber") if draw(st.booleans())}
        if draw(st.integers(0, 4)):
            own["ImagePositionPatient"] = (
                ("LO", draw(POSITIONS)) if draw(st.integers(0, 9)) == 0 else ("DS", draw(POSITIONS))
            )
        own["EchoTime"] = (draw(st.sampled_from(["DS", "DS", "LO"])), draw(NUMBERS))
        for place, (keyword, (vr, _)) in enumerate(own.items()):
            dataset.add_new(keyword, vr, f"{1234567890 + place}")  # pydicom would not write what is drawn
        for keyword, changed in shared.items():
            delattr(dataset, keyword) if changed is None else setattr(dataset, keyword, changed)
        dataset.Rows, dataset.Columns = draw(st.sampled_from([2, 2, 2, 0])), 2
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        dataset.PixelData = bytes(draw(st.sampled_from([4, 4, 4, 2])))
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        out = io.BytesIO()
        dcmwrite(out, dataset, enforce_file_format=True)
        content = out.getvalue()
        for place, (_, text) in enumerate(own.values()):
            content = content.replace(f"{1234567890 + place}".encode(), text.encode().ljust(10)[:10])
        files.append(content)
    return files


@settings(max_examples=200, deadline=None)
@given(slices())
def test_a_slice_is_judged_as_if_it_were_alone(tmp_path_factory: pytest.TempPathFactory, files: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("series")
    paths = [folder / f"{number}.dcm" for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    siblings._known.clear()
    together = [judged(path) for path in paths]
    alone = []
    for path in paths:
        siblings._known.clear()
        alone.append(judged(path))
    assert together == alone == [by_pydicom(path) for path in paths]


def test_the_next_slice_of_a_series_needs_no_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    siblings._known.clear()
    template = (Path(data.__file__).parent / "test_files" / "CT_small.dcm").read_bytes()
    path = tmp_path / "a.dcm"
    path.write_bytes(template)
    first = read_header(path)
    monkeypatch.setattr(dicom, "_judged", lambda *_: pytest.fail("it was read like the first"))
    path.write_bytes(template.replace(b"-158.135803\\-179.035797\\-75.699997", b"-158.135803\\-179.035797\\-70.699997"))
    second = read_header(path)
    assert isinstance(first, Header)
    assert isinstance(second, Header)
    assert first.place_mm is not None
    assert second == replace(first, place_mm=round(first.place_mm + 5, 4))
    path.write_bytes(path.read_bytes()[:-200])
    assert judged(path) == "the pixel data ends early"


def test_few_headers_are_remembered(tmp_path: Path) -> None:
    siblings._known.clear()
    template = (Path(data.__file__).parent / "test_files" / "CT_small.dcm").read_bytes()
    for number in range(siblings.MOST + 10):
        path = tmp_path / "a.dcm"
        path.write_bytes(template.replace(b"1CT1", f"{number:04d}".encode()))
        judged(path)
    assert len(siblings._known) == siblings.MOST
