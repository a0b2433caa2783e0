"""A hospital of recordings: from files as their collections publish them to windows that a network sees."""

import math
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_client.cache import load
from fedward_client.catalog import Catalog, scan
from fedward_client.choosing_rows import OTHER_SIGNALS, OTHER_UNIT, SHORT, factor
from fedward_client.freezing import freeze, from_catalog
from fedward_client.intake import recordings
from fedward_client.intake.recording import OUTSIDE, Recording, places, stretched, windows
from fedward_client.intake.series_map import Channel
from fedward_client.intake.wearable import read_daphnet
from fedward_client.site import Site
from fedward_common.errors import DataError, SettingsError
from fedward_common.study import SeriesInput, StudySpec
from fedward_common.testing import tiny_study

SECONDS = 24  # of a recording: 2 outside the experiment, 12 of walking, 10 of freezing


def daphnet(subject: int, seconds: int = SECONDS) -> Iterator[str]:
    """Rows as Daphnet has them: milliseconds rounded down, nine accelerations in mg, an annotation."""
    for i in range(64 * seconds):
        values = " ".join(str(100 * channel + 10 * subject + i % 7) for channel in range(9))
        note = OUTSIDE if i < 128 else 1 if i < 14 * 64 else 2
        yield f"{math.floor((i + 1) * 1000 / 64)} {values} {note}\n"


@pytest.fixture
def hospital(tmp_path: Path) -> Callable[..., Site]:
    """`hospital(subjects, settings=)`: a folder with a recording of each of so many subjects, opened and scanned."""

    def build(subjects: int = 12, settings: str = "") -> Site:
        folder = tmp_path / "north"
        folder.mkdir()
        for subject in range(subjects):
            (folder / f"S{subject:02d}R01.txt").write_text("".join(daphnet(subject)))
        (folder / "site.toml").write_text(settings)
        site = Site.open(folder)
        scan(site)
        return site

    return build


def study(**changes: object) -> StudySpec:
    section = {
        "kind": "series",
        "signals": ["trunk lateral", "ankle forward"],
        "unit": "mg",
        "rate_hz": 64,
        "window_s": 4,
    }
    return tiny_study(
        cohort={"labels": ["no freeze", "freeze"], "positive": "freeze", "min_patients": 1},
        split={"shares": [1.0, 0.0, 0.0]},
        input={**section, **changes},
        model={"name": "cnn-1d"},
    )


def test_windows_of_daphnet_as_it_is(hospital: Callable[..., Site]) -> None:
    """By hand: 128 samples outside, 768 of walking, 640 of freezing; windows of 256 begin at 0, 256, 512, …"""
    site = hospital()
    cohort = from_catalog(site, study())
    assert [item.at for item in cohort.items if item.files == cohort.items[0].files] == [256, 512, 768, 1024, 1280]
    assert [item.label for item in cohort.items[:5]] == [
        0,
        0,
        1,
        1,
        1,
    ]  # of 768 to 1024 a half is each: then the higher
    assert len(cohort.people) == 12
    data = load(site, study(), "run-1")
    assert data.images.dtype == np.float32
    assert data.images.shape == (60, 2, 256)
    subject = (data.images[:, 1, 0] // 10).astype(int)
    assert sorted(set(subject.tolist())) == list(range(12))
    for row, item in zip(data.images, freeze(site, study(), "run-1").items, strict=True):
        expected = np.arange(item.at, item.at + 256) % 7
        np.testing.assert_array_equal(row[1] - 10 * (row[1, 0] // 10), expected)
        np.testing.assert_array_equal(row[0], row[1] + 800)


def test_the_catalog_holds_no_value_and_nobody(hospital: Callable[..., Site], tmp_path: Path) -> None:
    site = hospital(12)
    with Catalog.open(site) as catalog:
        counts, rows = catalog.counts(), catalog.recordings()
    assert (counts.files, counts.recordings, counts.patients, counts.labelled_patients) == (12, 12, 12, 12)
    assert counts.labels == {"freeze": 12, "no freeze": 12}
    assert rows[0].recording.values.shape == (SECONDS * 64, 0)
    with closing(sqlite3.connect(tmp_path / "north" / ".fedward" / "catalog.sqlite")) as connection:
        held = "\n".join(connection.iterdump())  # as text: three bytes of a file's time are a name by accident
    assert held.count("recording") >= 12
    assert not any(f"S{subject:02d}" in held for subject in range(12))


def test_unchanged_recordings_are_not_read_again(
    hospital: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = hospital()
    monkeypatch.setattr(recordings, "read", lambda *_: pytest.fail("a recording was read again"))
    assert scan(site).read == 0
    assert len(from_catalog(site, study(step_s=0.5)).items) > 60


def test_another_unit_another_rate_and_another_scale(hospital: Callable[..., Site]) -> None:
    site = hospital()
    plain, in_g = load(site, study(), "run-1").images, load(site, study(unit="g"), "run-2").images
    np.testing.assert_allclose(in_g, plain / 1000, rtol=1e-6)
    np.testing.assert_allclose(load(site, study(scale=1000.0), "run-3").images, plain / 1000, rtol=1e-6)
    slower = load(site, study(rate_hz=16), "run-4").images
    assert slower.shape == (60, 2, 64)
    np.testing.assert_allclose(slower.mean(axis=2), plain.mean(axis=2), atol=0.5)
    standard = load(site, study(intensity="zscore"), "run-5").images
    np.testing.assert_allclose(standard.mean(axis=2), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(axis=2), 1, atol=1e-5)


def test_what_a_study_cannot_take_is_counted(hospital: Callable[..., Site]) -> None:
    site = hospital()
    with pytest.raises(DataError, match="no patient has a label"):
        from_catalog(site, study(signals=["wrist"]))
    (site.folder / "labels.csv").write_text("patient_id,label\nS00,freeze\n")
    site = Site.open(site.folder)
    scan(site)
    assert from_catalog(site, study(signals=["wrist"])).left_out[OTHER_SIGNALS] == 12
    assert from_catalog(site, study(unit="N")).left_out[OTHER_UNIT] == 12
    assert from_catalog(site, study(window_s=23)).left_out[SHORT] == 12


def test_words_become_the_study_s(hospital: Callable[..., Site]) -> None:
    site = hospital(settings='[labels]\nwords = { "no freeze" = "walking", freeze = "frozen" }\n')
    spec = study()
    cohort = spec.cohort.model_copy(update={"labels": ("walking", "frozen"), "positive": "frozen"})
    found = from_catalog(site, spec.model_copy(update={"cohort": cohort}))
    assert found.label_counts() == {"walking": 12, "frozen": 12}


def test_a_recording_without_annotations_has_its_patient_s_label(tmp_path: Path) -> None:
    """PhysioNet's gait: controls and patients by their files' names, or by a table of the hospital's."""
    row = "\t".join(["{:.2f}", *["10.5"] * 18]) + "\r\n"
    for name in ("JuCo01", "JuPt02", "SiPt03"):
        (tmp_path / f"{name}_01.txt").write_text("".join(row.format(i / 100) for i in range(1000)))
    (tmp_path / "site.toml").write_text('[labels]\nwords = { Co = "control", Pt = "ill" }\n')
    site = Site.open(tmp_path)
    scan(site)
    spec = study(signals=["left total"], unit="N", rate_hz=100)
    cohort = spec.cohort.model_copy(update={"labels": ("control", "ill"), "positive": "ill"})
    spec = spec.model_copy(update={"cohort": cohort})
    found = from_catalog(site, spec)
    assert found.label_counts() == {"control": 1, "ill": 2}
    assert len(found.items) == 6


def test_whoever_opts_out_is_not_there(hospital: Callable[..., Site]) -> None:
    site = hospital()
    load(site, study(), "run-1")
    (site.folder / "opt-out.txt").write_text("S03\n")
    with pytest.raises(DataError, match="who have opted out since it began"):
        load(site, study(), "run-1")
    site = Site.open(site.folder)
    scan(site)
    assert len(load(site, study(), "run-2").images) == 55
    with Catalog.open(site) as catalog:
        assert (catalog.counts().opted_out, catalog.counts().recordings) == (1, 11)


def test_a_recording_that_changed_is_gone_from_a_run(hospital: Callable[..., Site]) -> None:
    site = hospital()
    freeze(site, study(), "run-1")
    (site.folder / "S05R01.txt").write_text("".join(daphnet(5, SECONDS + 1)))
    data = load(site, study(), "run-1")
    assert (len(data.images), data.gone) == (55, 5)


def test_a_site_s_own_recordings_by_a_map(tmp_path: Path) -> None:
    folder = tmp_path / "north"
    for patient in ("P1", "P2"):
        (folder / patient).mkdir(parents=True)
        rows = (f"{i / 50:.2f},{i % 5},{9.80665},{'walk' if i < 300 else 'freeze'}\n" for i in range(600))
        (folder / patient / "watch.csv").write_text("t,x,y,note\n" + "".join(rows))
    (folder / "other.csv").write_text("a,b\n1,2\n")
    (folder / "watch.toml").write_text("""rate_hz = 50
time = "t"
annotation = "note"
annotations = { walk = 1, freeze = 2 }
[channels]
x = { name = "wrist x", unit = "mg" }
y = { name = "wrist y", unit = "m/s2" }
""")
    settings = (
        '[privacy]\nmin_cell = 1\n[data]\npatient = "^([^/]+)/"\n[series]\nfiles = "watch*.csv"\nmap = "watch.toml"\n'
    )
    (folder / "site.toml").write_text(settings + '[labels]\nwords = { walk = "no freeze" }\n')
    site = Site.open(folder)
    assert scan(site).counts.recordings == 2
    spec = study(signals=["Wrist Y", "wrist x"], rate_hz=50, window_s=2)
    data = load(site, spec, "run-1")
    assert Counter(data.labels.tolist()) == {0: 6, 1: 6}
    np.testing.assert_allclose(data.images[:, 0], 1000, rtol=1e-5)  # standard gravity
    np.testing.assert_array_equal(data.images[0, 1], np.arange(100) % 5)
    shutil.rmtree(site.state / "cache")
    renamed = (folder / "watch.toml").read_text().replace("wrist x", "arm x")
    (folder / "watch.toml").write_text(renamed)
    with pytest.raises(DataError, match="none of the cohort's images can be read now"):
        load(Site.open(folder), spec, "run-1")
    (folder / "watch.toml").write_text('rate_hz = 50\nchanels = "x"\n')
    with pytest.raises(SettingsError, match=r"\[series\] map = 'watch.toml' cannot be used: the map of a series"):
        Site.open(folder)
    (folder / "site.toml").write_text('[series]\nmap = "absent"\n')
    with pytest.raises(
        SettingsError, match=r"'absent' is no file of UTF-8 text .* one of Fedward's own: heart-disease"
    ):
        Site.open(folder)


# What the catalog keeps ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_windows_are_placed_as_those_of_the_whole_recording(data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 400))
    notes = data.draw(st.lists(st.sampled_from([0, 1, 1, 2, 3]), min_size=samples, max_size=samples))
    cuts = data.draw(st.sets(st.integers(1, samples), max_size=4))
    whole = Recording(
        values=np.arange(2.0 * samples, dtype=np.float32).reshape(samples, 2),
        rate_hz=data.draw(st.sampled_from([10.0, 64.0, 33.3])),
        channels=(Channel(name="x", unit="g"), Channel(name="y", unit="g")),
        annotation=np.array(notes, np.int8) if data.draw(st.booleans()) else None,
        words={1: "a", 2: "b", 3: "c"},
        gaps=tuple(sorted(cuts - {samples})),
        subject="somebody",
    )
    kept = recordings.facts(whole)
    assert "somebody" not in kept
    seconds, step = data.draw(st.sampled_from([(0.5, 0.5), (1.0, 0.25), (2.0, 1.0)]))
    starts, length, found = places(recordings.of_facts(kept), seconds=seconds, step_seconds=step)
    values, expected = windows(whole, seconds=seconds, step_seconds=step)
    np.testing.assert_array_equal(values, [whole.values[start : start + length].T for start in starts] or values)
    assert len(starts) == len(values)
    assert (found is None) == (expected is None)
    if found is not None:
        np.testing.assert_array_equal(found, expected)


def test_facts_are_small(tmp_path: Path) -> None:
    path = tmp_path / "S01R01.txt"
    path.write_text("".join(daphnet(1, 120)))
    assert len(recordings.facts(read_daphnet(path))) < 1000


@pytest.mark.parametrize(
    ("unit", "into", "expected"),
    [
        ("g", "mg", 1000.0),
        ("mg", "g", 0.001),
        ("m/s2", "g", 1 / 9.80665),
        ("rad/s", "deg/s", 180 / math.pi),
        ("V", "mV", 1000.0),
        ("N", "mg", None),
        ("stones", "N", None),
    ],
)
def test_units(unit: str, into: str, expected: float | None) -> None:
    found = factor(unit, into)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_window_keeps_its_mean_at_another_rate() -> None:
    values = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    assert stretched(values, 200) is values
    np.testing.assert_allclose(stretched(values, 50).mean(axis=0), values.mean(axis=0), atol=0.02)
    constant = np.full((200, 3), 7, np.float32)
    np.testing.assert_allclose(stretched(constant, 333), 7, rtol=1e-6)


def test_an_input_of_recordings_has_no_scale_to_be_measured() -> None:
    section = study().input
    assert isinstance(section, SeriesInput)
    assert section.on_scale(None) is section
    with pytest.raises(ValueError, match="no scale that sites measure"):
        section.on_scale((0.5,) * 9)
