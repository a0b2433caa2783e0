"""Which patients a study takes at a site: real folders of DICOM files and label tables."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward_client import catalog
from fedward_client.cohort import Cohort
from fedward_client.cohort_choice import SMALL_SIDE
from fedward_client.freezing import freeze
from fedward_client.site import Site
from fedward_common.errors import DataError, RunError
from fedward_common.events import Event
from fedward_common.study import StudySpec

Folder = Callable[..., Path]
LABELS = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(24)}


def spec(**sections: dict[str, Any]) -> StudySpec:
    content: dict[str, Any] = {
        "study": {"id": "breast", "task": "classification"},
        "cohort": {"modality": "US", "labels": ("benign", "malignant"), "positive": "malignant", "min_patients": 6},
        "input": {"size": (16, 16)},
        "model": {"name": "small-cnn"},
        "split": {} if "kind" in sections.get("split", {}) else {"shares": (1.0, 0.0, 0.0)},
    }
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section} if isinstance(section, dict) else section
    return StudySpec.model_validate(content)


def shape_of(cohort: Cohort) -> tuple[int, int]:
    return len({item.patient for item in cohort.items}), len(cohort.items)


def test_every_labelled_patient_is_in_with_all_images_on_one_side(site_folder: Folder) -> None:
    site = Site.open(site_folder(LABELS, images=3, settings="[privacy]\nmin_cell = 1\n"))
    cohort = freeze(site, spec(split={"shares": (0.7, 0.1, 0.2)}), "run-1")
    assert shape_of(cohort) == (24, 72)
    assert cohort.left_out == {}
    assert [item.image for item in cohort.items] == sorted(item.image for item in cohort.items)
    assert len({(item.patient, item.side, item.label) for item in cohort.items}) == 24
    assert {item.patient: item.label for item in cohort.items} == {
        site.pseudonym("patient", patient): int(label == "malignant") for patient, label in LABELS.items()
    }
    counts = {side: cohort.label_counts(side) for side in ("train", "validation", "test")}
    assert sum(count["benign"] for count in counts.values()) == 12
    assert sum(count["malignant"] for count in counts.values()) == 12
    assert [cohort.patients(side) for side in ("train", "validation", "test")] == [
        sum(count.values()) for count in counts.values()
    ]


def test_the_digest_is_over_the_canonical_json_of_the_items(site_folder: Folder) -> None:
    cohort = freeze(Site.open(site_folder(LABELS)), spec(), "run-1")
    # RFC 8785 of ASCII strings and small integers is this
    text = json.dumps([item.model_dump() for item in cohort.items], sort_keys=True, separators=(",", ":"))
    assert cohort.digest == hashlib.sha256(text.encode()).hexdigest()


def test_a_frozen_cohort_stays_whatever_the_catalog_becomes(site_folder: Folder, write_labels: Folder) -> None:
    folder = site_folder(LABELS)
    site = Site.open(folder)
    first = freeze(site, spec(), "run-1")
    shutil.rmtree(folder / "PID-003")
    write_labels(folder, {**LABELS, "PID-004": "malignant"})
    catalog.scan(site)
    assert freeze(site, spec(), "run-1") == first
    assert freeze(site, spec(), "run-1").digest == first.digest
    assert shape_of(freeze(site, spec(), "run-2")) == (23, 46)


def test_a_run_belongs_to_one_study(site_folder: Folder) -> None:
    site = Site.open(site_folder(LABELS))
    freeze(site, spec(), "run-1")
    with pytest.raises(DataError, match="run 'run-1' is frozen for another study"):
        freeze(site, spec(training={"rounds": 3}), "run-1")


def damaged(text: str) -> str:
    return text[: len(text) // 2]


def edited(text: str) -> str:
    return text.replace('"label":0', '"label":1', 1)


@pytest.mark.parametrize(("change", "words"), [(damaged, "damaged"), (edited, "changed after it was frozen")])
def test_a_frozen_cohort_that_was_changed_is_refused(
    site_folder: Folder, change: Callable[[str], str], words: str
) -> None:
    site = Site.open(site_folder(LABELS))
    freeze(site, spec(), "run-1")
    path = site.state / "runs" / "run-1" / "cohort.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=words):
        freeze(site, spec(), "run-1")


@pytest.mark.parametrize("run", ["", ".", "..", "../up", "a/b", "/etc", ".hidden", "a\n", "a\0b", "a" * 129])
def test_a_path_is_no_run(site_folder: Folder, run: str) -> None:
    site = Site.open(site_folder(LABELS))
    with pytest.raises(RunError, match="cannot name a run"):
        freeze(site, spec(), run)
    assert not (site.state / "runs").exists()


def test_labels_match_exactly_or_else_but_for_case(site_folder: Folder) -> None:
    words = ["benign", " Benign ", "MALIGNANT", "malignant"] * 6
    site = Site.open(site_folder({f"P{number}": word for number, word in enumerate(words)}))
    cohort = freeze(site, spec(), "run-1")
    assert shape_of(cohort)[0] == 24
    assert sum(item.labels == (1,) for item in cohort.items) == 24


def test_labels_that_differ_in_case_alone_match_exactly(site_folder: Folder) -> None:
    words = ["a", "A"] * 12
    site = Site.open(site_folder({f"P{number}": word for number, word in enumerate(words)}, images=1))
    cohort = freeze(site, spec(cohort={"labels": ("A", "a"), "positive": "a"}), "run-1")
    assert sum(item.labels == (1,) for item in cohort.items) == 12


def test_what_is_left_out_is_counted_by_reason(site_folder: Folder, write_dicom: Folder, write_labels: Folder) -> None:
    folder = site_folder(LABELS)
    other = {"PID-000": "normal", "PID-001": "cyst", "PID-002": ""}
    table = write_labels(folder, {**LABELS, **other, "GHOST": "benign"})
    table.write_text(table.read_text() + "PID-003,benign\n")  # malignant above
    write_dicom(folder / "x" / "1.dcm", patient_id="STRANGER", array=np.arange(256, dtype=np.uint8).reshape(16, 16))
    for number in range(3):
        array = np.full((16, 16), number, dtype=np.uint8)
        write_dicom(folder / "ct" / f"{number}.dcm", patient_id="PID-005", array=array, Modality="CT")
    cohort = freeze(Site.open(folder), spec(), "run-1")
    assert shape_of(cohort) == (20, 40)
    assert cohort.left_out == {
        "images of another modality": 3,
        "labelled patients without images": 1,
        "patients with another label": 2,
        "patients without a label, or with two that differ": 3,
    }


def test_any_modality_is_taken_when_the_study_names_none(site_folder: Folder) -> None:
    site = Site.open(site_folder(LABELS, Modality="MG"))
    assert shape_of(freeze(site, spec(cohort={"modality": None}), "run-1")) == (24, 48)
    with pytest.raises(DataError, match=r"fewer than 5 training patients.*48 images of another modality"):
        freeze(site, spec(), "run-2")


def test_too_few_training_patients_are_told_without_small_counts(site_folder: Folder) -> None:
    site = Site.open(site_folder(dict(list(LABELS.items())[:4])))
    with pytest.raises(DataError, match="north has fewer than 5 training patients, the study asks for at least 6"):
        freeze(site, spec(), "run-1")
    assert not (site.state / "runs").exists()


def test_enough_patients_are_told_as_they_are(site_folder: Folder) -> None:
    site = Site.open(site_folder(LABELS))
    study = spec(cohort={"min_patients": 100}, split={"shares": (1.0, 0.0, 0.0)})
    with pytest.raises(DataError, match="north has 24 training patients, the study asks for at least 100"):
        freeze(site, study, "run-1")


def test_every_label_needs_a_training_patient(site_folder: Folder) -> None:
    site = Site.open(site_folder(dict.fromkeys(LABELS, "benign")))
    with pytest.raises(DataError, match=r"no training patient labelled 'malignant'.*\[cohort\] every_label"):
        freeze(site, spec(), "run-1")
    cohort = freeze(site, spec(cohort={"every_label": False}), "run-2")
    assert cohort.label_counts("train")["malignant"] == 0 < cohort.label_counts("train")["benign"]


def test_a_side_that_cannot_be_evaluated_is_logged(site_folder: Folder, every_log: pytest.LogCaptureFixture) -> None:
    benign = [patient for patient, label in LABELS.items() if label == "benign"][:6]
    column = {patient: "test" if patient in benign else "train" for patient in LABELS}
    site = Site.open(site_folder(LABELS, columns={"split": column}))
    freeze(site, spec(split={"kind": "column"}), "run-1")
    assert "no test patient is labelled malignant" in every_log.text
    assert "validation" not in every_log.text


@pytest.mark.parametrize("column", ["split", "fold 1"])
def test_the_label_tables_column_splits(site_folder: Folder, column: str) -> None:
    words = dict(zip(LABELS, ["train", "Train", "val", "test"] * 6, strict=True))
    words["PID-001"] = words["PID-005"] = "train"
    site = Site.open(site_folder(LABELS, columns={column: words}))
    cohort = freeze(site, spec(split={"kind": "column", "column": column}), "run-1")
    sides = {item.patient: item.side for item in cohort.items}
    for patient, word in words.items():
        assert sides[site.pseudonym("patient", patient)][:3] == word.casefold()[:3]


@pytest.mark.parametrize(("few", "left"), [(0, 60), (4, 56), (5, 60)])
@pytest.mark.parametrize("side", ["validation", "test"])
def test_too_few_on_a_side_take_no_part_and_move_to_no_other(
    site_folder: Folder, few: int, left: int, side: str
) -> None:
    """How many they are would be all patients less those of the other sides, which numbers that travel tell."""
    labels = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(60)}
    other = "test" if side == "validation" else "validation"
    words = {patient: side if n < few else other if n < 20 else "train" for n, patient in enumerate(labels)}
    site = Site.open(site_folder(labels, images=1, columns={"split": words}))
    cohort = freeze(site, spec(split={"kind": "column"}), "run-1")
    assert shape_of(cohort) == (left, left)
    assert cohort.left_out == ({SMALL_SIDE: few} if left < 60 else {})
    assert (cohort.patients("train"), cohort.patients(other)) == (40, 20 - few)  # type: ignore[arg-type]


def test_who_only_evaluates_has_no_few_training_patients(site_folder: Folder) -> None:
    words = {patient: "train" if number < 4 else "test" for number, patient in enumerate(LABELS)}
    site = Site.open(site_folder(LABELS, columns={"split": words}))
    study = spec(split={"kind": "column"})
    roster = {"sites": ({"name": "north", "role": "evaluate"}, {"name": "south"}, {"name": "east"})}
    cohort = freeze(site, StudySpec.model_validate({**study.model_dump(), **roster}), "run-1")
    assert (cohort.patients("train"), cohort.patients("test")) == (0, 20)


def test_a_column_that_is_missing_is_named(site_folder: Folder) -> None:
    site = Site.open(site_folder(LABELS))
    with pytest.raises(DataError, match="no column 'split'"):
        freeze(site, spec(split={"kind": "column"}), "run-1")


def test_the_site_that_is_left_out_tests_and_needs_nobody_to_train_on(site_folder: Folder) -> None:
    split = {"kind": "leave-site-out", "site": "north"}
    cohort = freeze(Site.open(site_folder(LABELS)), spec(split=split), "run-1")
    assert cohort.patients("test") == 24


def test_a_site_that_only_evaluates_needs_nobody_to_train_on(site_folder: Folder) -> None:
    labels = dict(list(LABELS.items())[:5])
    few = Site.open(site_folder(labels, columns={"split": dict.fromkeys(labels, "test")}))
    study = spec(split={"kind": "column"})
    roster = {"sites": ({"name": "north", "role": "evaluate"}, {"name": "south"}, {"name": "east"})}
    cohort = freeze(few, StudySpec.model_validate({**study.model_dump(), **roster}), "run-1")
    assert cohort.patients("test") == 5
    with pytest.raises(DataError, match="training patients"):
        freeze(few, study, "run-2")


def test_an_empty_folder_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no readable image"):
        freeze(Site.open(tmp_path), spec(), "run-1")


def test_images_without_a_label_table_are_told_in_words(site_folder: Folder) -> None:
    folder = site_folder(LABELS)
    (folder / "labels.csv").unlink()
    with pytest.raises(DataError, match="label table"):
        freeze(Site.open(folder), spec(), "run-1")


def test_progress_is_told_and_nothing_told_or_written_names_a_patient(
    site_folder: Folder, every_log: pytest.LogCaptureFixture
) -> None:
    site = Site.open(site_folder(LABELS))
    events: list[Event] = []
    freeze(site, spec(), "run-1", events.append)
    told = [(event.done, event.total) for event in events if event.stage == "cohort"]
    assert told == [(0, 1), (1, 1)]
    assert "24 patients, 48 images" in events[-1].note
    text = repr(events) + every_log.text + repr([path.name for path in site.state.rglob("*")])
    written = text.encode() + b"".join(path.read_bytes() for path in (site.state / "runs").rglob("*.json"))
    assert b"PID-" not in written
    assert str(site.data).encode() not in written


def test_single_slices_are_no_volumes(site_folder: Folder) -> None:
    site = Site.open(site_folder(LABELS))
    with pytest.raises(DataError, match="48 slices that do not say where they lie"):
        freeze(site, spec(input={"size": (8, 16, 16)}), "run-1")
