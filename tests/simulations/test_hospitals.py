"""The planted hospitals as a reader finds them: real DICOM, known identifiers, known faults, the same bytes."""

import csv
import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UltrasoundImageStorage

from fedward_client.site import Site
from fedward_common.errors import UsageError
from fedward_common.streams import stream
from fedward_simulations import busi
from fedward_simulations.hospitals import PlantedHospital, plant
from fedward_simulations.partition import SEED
from fedward_simulations.plans import Plan, make_plans

SYNTAXES = {
    "north": {"Explicit VR Little Endian", "RLE Lossless"},
    "harbour": {"Implicit VR Little Endian", "JPEG 2000 Image Compression (Lossless Only)"},
    "valley": {
        "Deflated Explicit VR Little Endian",
        "JPEG-LS Lossless Image Compression",
    },
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> list[PlantedHospital]:
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module", params=["north", "harbour", "valley"])
def hospital(planted: list[PlantedHospital], request: pytest.FixtureRequest) -> PlantedHospital:
    return next(hospital for hospital in planted if hospital.name == request.param)


def files(hospital: PlantedHospital) -> list[Path]:
    return sorted(path for path in (hospital.folder / "export").rglob("*") if path.is_file())


def readable(hospital: PlantedHospital) -> Iterator[pydicom.FileDataset]:
    """Every file that can be read to its last pixel."""
    for path in files(hospital):
        try:
            dataset = pydicom.dcmread(path)
            assert dataset.pixel_array.size
        except Exception:  # noqa: BLE001 - whatever a broken file does to pydicom
            continue
        yield dataset


def labels(hospital: PlantedHospital) -> dict[str, dict[str, str]]:
    site = Site.open(hospital.folder)
    assert site.labels.file is not None
    with site.labels.file.open(newline="", encoding="utf-8") as lines:
        return {row[site.labels.patient]: row for row in csv.DictReader(lines)}


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(folder)): (
            stat.S_IMODE(path.stat().st_mode),
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_sizes_and_classes_differ_between_the_hospitals(planted: list[PlantedHospital]) -> None:
    counts = [(hospital.name, hospital.patients, hospital.positives, hospital.images) for hospital in planted]
    assert counts == [("north", 220, 61, 299), ("harbour", 153, 62, 193), ("valley", 105, 52, 134)]


def test_every_public_image_is_planted_once(planted: list[PlantedHospital]) -> None:
    plans = make_plans(planted[0].folder.parent, None)
    sources = [shot.source for plan in plans for shot in plan.shots]
    assert sorted(sources) == [row.file for row in busi.load_index()]
    assert sum(hospital.images + hospital.faults.images_without_label for hospital in planted) == len(sources)


def test_planting_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        plant(tmp_path / name, limit=5)
    assert tree(tmp_path / "one") == tree(tmp_path / "two") != {}


def test_what_is_planted_does_not_depend_on_the_limit(planted: list[PlantedHospital], tmp_path: Path) -> None:
    few = {hospital.name: hospital for hospital in plant(tmp_path, limit=5)}
    for hospital in planted:
        rows, all_rows = labels(few[hospital.name]), labels(hospital)
        assert len(rows) == 6
        assert all(all_rows[patient] == row for patient, row in rows.items())


def test_good_patients_and_images_are_those_that_a_reader_finds(hospital: PlantedHospital) -> None:
    found = [str(dataset.PatientID) for dataset in readable(hospital)]
    table = labels(hospital)
    good = [patient for patient in found if patient in table]
    assert len(good) == hospital.images
    assert len(set(good)) == hospital.patients
    column = Site.open(hospital.folder).labels.label
    assert sum(table[patient][column] == "malignant" for patient in set(good)) == hospital.positives


def test_faults_are_those_that_a_reader_finds(hospital: PlantedHospital) -> None:
    found = [str(dataset.PatientID) for dataset in readable(hospital)]
    table, faults = labels(hospital), hospital.faults
    assert len(set(table) - set(found)) == faults.labels_without_images == 1
    assert len(set(found) - set(table)) == faults.patients_without_label == 1
    assert sum(patient not in table for patient in found) == faults.images_without_label >= 1
    texts = [path for path in files(hospital) if b"DICM" not in path.read_bytes()[:132]]
    assert len(texts) == faults.texts == 1
    assert len(files(hospital)) - len(found) - len(texts) == faults.truncated == 1


def test_pixels_come_back_exactly_from_every_transfer_syntax(hospital: PlantedHospital) -> None:
    plan = plan_of(hospital)
    levels = 4095 if plan.style.pixels == "12-bit" else 255
    seen = set()
    for shot in plan.shots[:12]:
        dataset = pydicom.dcmread(shot.path)
        seen.add(dataset.file_meta.TransferSyntaxUID.name)
        random = stream(SEED, "scanner", hospital.name, shot.source)
        shown = plan.style.scanner.show(busi.read_image(shot.source), random)
        pixels = dataset.pixel_array if dataset.SamplesPerPixel == 1 else dataset.pixel_array.transpose(2, 0, 1)
        np.testing.assert_array_equal(pixels, np.broadcast_to(np.rint(shown * levels), pixels.shape))
    assert seen == SYNTAXES[hospital.name]


def plan_of(hospital: PlantedHospital) -> Plan:
    return next(plan for plan in make_plans(hospital.folder.parent, None) if plan.style.name == hospital.name)


def test_images_look_different_in_each_hospital(planted: list[PlantedHospital]) -> None:
    images = {
        (d.Rows, d.Columns, str(d.PhotometricInterpretation), d.BitsStored, "WindowWidth" in d, str(d.Manufacturer))
        for hospital in planted
        for d in readable(hospital)
    }
    assert images == {
        (128, 128, "RGB", 8, False, "Invented Aurora"),
        (160, 160, "MONOCHROME2", 12, False, "Invented Meridian"),
        (112, 112, "MONOCHROME2", 8, True, "Invented Kestrel"),
    }


def test_scanners_use_the_grey_scale_without_drowning_it(hospital: PlantedHospital) -> None:
    for shot in plan_of(hospital).shots[:20]:
        dataset = pydicom.dcmread(shot.path)
        pixels = dataset.pixel_array / (2**dataset.BitsStored - 1)
        assert pixels.std() > 0.05
        assert np.mean(pixels == 1.0) < 0.2


def test_files_are_valid_ultrasound_images(hospital: PlantedHospital, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    uids = set()
    for dataset in readable(hospital):
        assert dataset.SOPClassUID == dataset.file_meta.MediaStorageSOPClassUID == UltrasoundImageStorage
        assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
        assert dataset.SOPInstanceUID.is_valid
        assert len(str(dataset)) > 1000  # every element is decoded, so a value against its VR would raise
        uids.add(dataset.SOPInstanceUID)
    assert len(uids) == hospital.images + hospital.faults.images_without_label


def test_images_of_a_patient_share_study_and_identity(hospital: PlantedHospital) -> None:
    patients: dict[str, tuple[str, ...]] = {}
    for d in readable(hospital):
        whole = (
            str(d.PatientName),
            str(d.PatientBirthDate),
            d.StudyInstanceUID,
            d.SeriesInstanceUID,
            d.AccessionNumber,
        )
        assert patients.setdefault(d.PatientID, whole) == whole
    assert len(set(patients.values())) == len(patients)


def test_every_identifier_in_the_files_is_reported(hospital: PlantedHospital) -> None:
    for d in readable(hospital):
        name = d.PatientName
        identifiers = [
            d.PatientName,
            name.family_name,
            name.given_name,
            d.PatientID,
            d.PatientBirthDate,
            d.AccessionNumber,
        ]
        identifiers += [d.StudyInstanceUID, d.SeriesInstanceUID, d.SOPInstanceUID, d.PatientTelephoneNumbers]
        identifiers += [d.ReferringPhysicianName, d.InstitutionName, d[0x0009, 0x1001].value]
        values = {value.decode() if isinstance(value, bytes) else str(value) for value in identifiers}
        assert values <= hospital.identifiers
        assert any(value in d.PatientComments for value in hospital.identifiers)


def test_every_identifier_in_the_label_table_is_reported(hospital: PlantedHospital) -> None:
    for row in labels(hospital).values():
        assert len(set(row.values()) - {"benign", "malignant"}) == 3
        assert set(row.values()) - {"benign", "malignant"} <= hospital.identifiers


def test_nothing_short_or_common_is_called_an_identifier(planted: list[PlantedHospital]) -> None:
    common = {"north", "harbour", "valley", "benign", "malignant", "DICOM", "ST000001", "export", "US", "F"}
    for hospital in planted:
        assert not common & hospital.identifiers
        assert min(len(identifier.encode()) for identifier in hospital.identifiers) > 3


def test_folders_and_names_are_laid_out_as_each_hospital_does(planted: list[PlantedHospital]) -> None:
    places = {
        hospital.name: [path.relative_to(hospital.folder / "export") for path in files(hospital)]
        for hospital in planted
    }
    north, harbour, valley = (
        [place for place in places[hospital.name] if place.name != "notes.txt"] for hospital in planted
    )
    assert {place.parts[0] for place in north} <= planted[0].identifiers
    assert all(place.parts[0].split("_")[2].isdigit() and place.suffix == ".dcm" for place in north)
    assert {place.parts[0] for place in harbour} == {"DICOM"}
    assert {place.parts[1] for place in harbour} <= planted[1].identifiers
    assert all(place.name.startswith("IM0") and not place.suffix for place in harbour)
    assert {place.stem for place in valley} <= planted[2].identifiers
    assert all(len(place.parts) == 1 for place in valley)


def test_names_are_written_in_their_character_sets(planted: list[PlantedHospital]) -> None:
    _, harbour, valley = (list(readable(hospital))[:30] for hospital in planted)
    assert all(dataset.SpecificCharacterSet == "ISO_IR 192" for dataset in harbour)
    assert all(not dataset.PatientName.ideographic.isascii() for dataset in harbour)
    assert all(not str(dataset.PatientName).isascii() for dataset in valley)


def test_the_site_opens_with_its_settings_and_its_planted_key(hospital: PlantedHospital) -> None:
    site = Site.open(hospital.folder)
    assert (site.name, site.data) == (hospital.name, (hospital.folder / "export").resolve())
    assert site.state == hospital.folder / ".fedward"
    key = site.state / "site.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert site.key == key.read_bytes() == hashlib.sha256(f"planted site key of {hospital.name}".encode()).digest()


@pytest.mark.parametrize("limit", [2, 7])
def test_a_limit_keeps_both_labels(tmp_path: Path, limit: int) -> None:
    for hospital in plant(tmp_path, limit=limit):
        assert hospital.patients == limit
        assert 0 < hospital.positives < limit


def test_progress_counts_every_image(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    hospitals = plant(tmp_path, limit=2, progress=lambda done, total: told.append((done, total)))
    total = sum(hospital.images + hospital.faults.images_without_label for hospital in hospitals)
    assert told == [(done, total) for done in range(1, total + 1)]


def test_a_limit_below_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give 2 or more"):
        plant(tmp_path, limit=1)
    assert not list(tmp_path.iterdir())


def test_planting_over_a_hospital_is_refused(tmp_path: Path) -> None:
    (tmp_path / "valley").mkdir()
    with pytest.raises(UsageError, match="stands here already"):
        plant(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["valley"]
