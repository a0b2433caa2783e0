"""A BIDS folder as it stands is a hospital: ages, sexes, scanners and labels come from beside the images."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedward_client import catalog
from fedward_client.cache import load
from fedward_client.catalog import Catalog
from fedward_client.catalog_rows import ImageRow
from fedward_client.freezing import from_catalog
from fedward_client.site import Site
from fedward_common.errors import DataError
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

Bids = Callable[..., Path]
TABLE = "participant_id\tage\tsex\tgroup\tscore\n"


def image(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 99, (6, 7, 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 subjects: ages 40 to 63, every sixth n/a; sexes M, F, n/a in turn; patients and controls in turn."""
    root, rows = tmp_path / "north", [TABLE]
    for number in range(24):
        name = f"sub-{number:02}"
        image(root / name / "anat" / f"{name}_T1w.nii.gz", number)
        age = "n/a" if number % 6 == 5 else str(40 + number)
        rows.append(f"{name}\t{age}\t{('M', 'F', 'n/a')[number % 3]}\t{('control', 'patient')[number % 2]}\t{number}\n")
    (root / "participants.tsv").write_text("".join(rows))
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    return root


def scanned(folder: Path) -> tuple[Site, dict[str, ImageRow]]:
    """The site, and its images by patient pseudonym."""
    site = Site.open(folder)
    catalog.scan(site)
    with Catalog.open(site) as opened:
        return site, {row.patient: row for row in opened.images()}


def study(**sections: dict[str, object]) -> StudySpec:
    cohort = {"modality": "MR", "labels": ["control", "patient"], "positive": "patient", "min_patients": 5}
    return tiny_study(
        cohort={**cohort, **sections.pop("cohort", {})},
        input={"size": [8, 8]},
        split={"shares": [1.0, 0.0, 0.0]},
        **sections,
    )


def test_it_trains_without_any_other_file(folder: Path) -> None:
    site = Site.open(folder)
    data = load(site, study(), "run-1")
    assert (data.images.shape, data.unreadable) == ((24, 1, 8, 8), 0)
    assert sorted(data.labels.tolist()) == [0] * 12 + [1] * 12


def test_what_participants_say_is_in_the_catalog_and_what_they_do_not_is_missing(folder: Path) -> None:
    site, rows = scanned(folder)
    first, sixth = rows[site.pseudonym("patient", "00")], rows[site.pseudonym("patient", "05")]
    assert (first.age, first.sex, first.modality, first.sequence) == (40, "M", "MR", "T1")
    assert (sixth.age, sixth.sex) == (None, "")
    cohort = from_catalog(site, study(cohort={"age": [45, 60]}))
    assert len(cohort.items) == 24 - 5 - 3 - 3  # too young, too old, not said
    assert cohort.left_out["images of patients of another age"] == 11
    women = from_catalog(site, study(cohort={"sex": "F"}))
    assert {item.patient for item in women.items} == {site.pseudonym("patient", f"{n:02}") for n in range(1, 24, 3)}


def test_a_change_of_participants_is_seen_and_no_image_is_read_again(folder: Path) -> None:
    scanned(folder)
    table = folder / "participants.tsv"
    table.write_text(table.read_text().replace("sub-00\t40\tM\tcontrol", "sub-00\t95\tF\tpatient"))
    site = Site.open(folder)
    report = catalog.scan(site)
    assert report.read == 1, "the table itself"
    with Catalog.open(site) as opened:
        row = next(row for row in opened.images() if row.patient == site.pseudonym("patient", "00"))
        assert (row.age, row.sex) == (90, "F"), "above, an age tells who it is"
        assert opened.labels()[row.patient] == {"group": "patient"}


def test_a_column_of_participants_is_the_label(folder: Path) -> None:
    table = folder / "participants.tsv"
    table.write_text(table.read_text().replace("group", "diagnosis"))
    site = Site.open(folder)
    assert site.labels.file is None, "nothing says which column holds labels"
    catalog.scan(site)
    with pytest.raises(DataError, match="no patient has a label"):
        from_catalog(site, study())
    (folder / "site.toml").write_text('[labels]\nlabel = "diagnosis"\n')
    site, _ = scanned(folder)
    assert len(from_catalog(site, study()).items) == 24
    table.write_text(table.read_text().replace("\tcontrol\t0\n", "\tn/a\t0\n"))
    site, _ = scanned(folder)
    cohort = from_catalog(site, study())
    assert len(cohort.items) == 23
    assert cohort.left_out == {"patients without a label, or with two that differ": 1}
    (folder / "site.toml").write_text('[labels]\nlabel = "dx"\n')
    with pytest.raises(DataError, match="no column 'dx'"):
        catalog.scan(Site.open(folder))


def test_a_table_of_its_own_comes_first(folder: Path) -> None:
    rows = [
        f"{'sub-' if number % 2 else ''}{number:02},{'control' if number < 12 else 'patient'}" for number in range(24)
    ]
    (folder / "labels.csv").write_text("\n".join(["patient_id,label", *rows]))
    site, _ = scanned(folder)
    cohort = from_catalog(site, study())
    by_patient = {item.patient: item.label for item in cohort.items}
    assert by_patient == {site.pseudonym("patient", f"{number:02}"): int(number >= 12) for number in range(24)}


def test_sessions_say_how_old_a_patient_was(folder: Path) -> None:
    for session, seed in (("pre", 100), ("post", 101)):
        image(folder / "sub-01" / f"ses-{session}" / "anat" / f"sub-01_ses-{session}_FLAIR.nii", seed)
    (folder / "sub-01" / "sub-01_sessions.tsv").write_text("session_id\tage\nses-pre\t38\nses-post\tn/a\nses-x y\t1\n")
    site = Site.open(folder)
    catalog.scan(site)
    with Catalog.open(site) as opened:
        rows = {row.study: row for row in opened.images() if row.patient == site.pseudonym("patient", "01")}
    found = {name: rows[site.pseudonym("study", f"sub-01_ses-{name}")] for name in ("pre", "post")}
    assert [(row.age, row.sex, row.sequence) for row in found.values()] == [(38, "F", "FLAIR"), (41, "F", "FLAIR")]
    assert rows[""].age == 41


def test_sidecars_say_the_scanner(folder: Path) -> None:
    sidecar = {"Manufacturer": "Acme", "ManufacturersModelName": "Magnet 3", "MagneticFieldStrength": 2.8936}
    (folder / "T1w.json").write_text(json.dumps(sidecar))
    (folder / "sub-02" / "anat" / "sub-02_T1w.json").write_text(json.dumps({"Manufacturer": "Other"}))
    site, rows = scanned(folder)
    first, third = rows[site.pseudonym("patient", "00")], rows[site.pseudonym("patient", "02")]
    assert (first.manufacturer, first.device, first.tesla) == ("Acme", "Magnet 3", 2.89)
    assert (third.manufacturer, third.device) == ("Other", "Magnet 3")
    assert len(from_catalog(site, study(cohort={"vendors": ["acme"]})).items) == 23


def test_only_raw_images_of_the_standard_are_taken(folder: Path, every_log: pytest.LogCaptureFixture) -> None:
    for name in ("derivatives/seg/sub-01", "sourcedata/sub-01", "code"):
        image(folder / name / "anat" / "sub-01_T1w.nii", 7)
    image(folder / "sub-01" / "anat" / "sub-02_T1w.nii", 8)
    image(folder / "sub-01" / "brains" / "sub-01_T1w.nii", 9)
    image(folder / "sub-01" / "anat" / "sub-01_weird-x_T1w.nii", 10)
    site = Site.open(folder)
    counts = catalog.scan(site).counts
    assert counts.images == 24
    assert counts.quarantine == {
        "its name is of another subject or session than its folder": 1,
        "it lies where BIDS has no such file or folder": 1,
        "its name has an entity that BIDS does not know": 1,
    }
    assert counts.files == 24 + 3 + 2, "derivatives and what they were made from are not looked at"
    assert "sub-01" not in every_log.text
    assert catalog.scan(site).counts == counts


def test_the_opt_out_list_takes_both_spellings(folder: Path, every_log: pytest.LogCaptureFixture) -> None:
    (folder / "opt-out.txt").write_text("sub-03\n04\n")
    (folder / "site.toml").write_text("")
    site, rows = scanned(folder)
    assert "left out" not in every_log.text, "files of this program are no part of the standard"
    assert len(rows) == 22
    assert {site.pseudonym("patient", one) for one in ("03", "04")}.isdisjoint(rows)


def test_a_site_may_name_its_subjects_otherwise(folder: Path) -> None:
    (folder / "site.toml").write_text("[data]\npatient = '(sub-[^/_]+)'\nmodality = \"OT\"\n")
    site, rows = scanned(folder)
    row = rows[site.pseudonym("patient", "sub-01")]
    assert (row.age, row.modality) == (41, "OT")
    assert len(from_catalog(site, study(cohort={"modality": "OT"})).items) == 24


def test_damaged_tables_are_told_and_the_images_stay(folder: Path, every_log: pytest.LogCaptureFixture) -> None:
    table = folder / "participants.tsv"
    table.write_text(table.read_text().replace("sub-00\t40", "JANE\t40").replace("sub-01\t41", "sub-01\tJANE"))
    _, rows = scanned(folder)
    assert len(rows) == 24
    assert "row 2 names no subject (sub-01)" in every_log.text
    assert "row 3 has an age that is no number" in every_log.text
    assert "JANE" not in every_log.text


def test_a_folder_that_becomes_one_is_scanned_anew(folder: Path) -> None:
    text = (folder / "participants.tsv").read_text()
    (folder / "participants.tsv").unlink()
    (folder / "dataset_description.json").unlink()
    _, rows = scanned(folder)
    assert {row.age for row in rows.values()} == {None}
    (folder / "participants.tsv").write_text(text)
    _, rows = scanned(folder)
    assert {row.age for row in rows.values()} > {None, 40}
