"""The four limits of the field, on invented patients in the formats of the collections: hospitals, page, figures."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fedward_server.figures.drawing import SERIES
from fedward_simulations import plots
from fedward_simulations.studies import Trial, limits, limits_page, running
from fedward_simulations.studies.limits import LIMITS
from fedward_simulations.studies.lung_malignancy import MAKERS

PATIENTS, SIDE = 16, 71
RATINGS = ("malignancy", "lobulation", "spiculation")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nodules that are brighter where they are malignant, of as many patients of each maker."""
    root = tmp_path_factory.mktemp("data")
    source = root / "lidc_nodules"
    source.mkdir()
    rng, images, rows = np.random.default_rng(7), [], []
    for place, maker in enumerate(name for name in MAKERS for _ in range(PATIENTS)):
        ratings = (1 + 4 * (place % 2), 1 + place % 3, 1 + place // 2 % 2)
        images.append(rng.normal(200 + 100 * ratings[0], 60, (SIDE, SIDE)).astype(np.int16))
        rows.append([place, f"P{place:03}", maker, 0.7, *ratings])
    np.savez(source / "nodules_71x71_int16.npz", image=np.stack(images), noduleID=np.arange(len(rows)))
    with (source / "nodules.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["noduleID", "patient", "manufacturer", "PixelSpacing", *RATINGS], *rows])
    return root


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_every_trial_is_a_study_of_its_own_folder(limit: limits.Limit) -> None:
    trials = {trial.name: trial for trial in limit.trials}
    assert all(trials[trial.name] is trial for trial in limit.trials)
    for trial in trials.values():
        trial.study()
    places = [tuple(trials) for trials in limit.ways.values()]
    assert set(places) == {places[0]}


def table(hospital: Path) -> dict[str, Mapping[str, str]]:
    with (hospital / "labels.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_fewer_patients_are_among_more_and_the_tested_are_the_same(data: Path, tmp_path: Path) -> None:
    for most in (5, 10):
        limits.write_nodules(data / "lidc_nodules", tmp_path / str(most), most=most)
    few, more = ({name: table(tmp_path / most / name) for name in MAKERS.values()} for most in ("5", "10"))
    assert few["ge"] == more["ge"]
    assert len(few["ge"]) == PATIENTS
    for name in ("siemens", "philips"):
        assert (len(few[name]), len(more[name])) == (5, 10)
        assert few[name].items() < more[name].items()


def test_labels_are_unknown_where_a_hospital_trains(data: Path, tmp_path: Path) -> None:
    limits.write_nodules(data / "lidc_nodules", tmp_path / "whole")
    limits.write_nodules(data / "lidc_nodules", tmp_path / "half", known=0.5)
    assert table(tmp_path / "half" / "ge") == table(tmp_path / "whole" / "ge")
    whole, half = (
        [row[name] for row in table(tmp_path / kind / "siemens").values() for name in limits.FINDINGS]
        for kind in ("whole", "half")
    )
    assert all(there in ("", true) for there, true in zip(half, whole, strict=True))
    assert 0.3 < half.count("") / len(half) < 0.7


def test_a_hospital_may_have_no_label_and_all_its_patients(data: Path, tmp_path: Path) -> None:
    limits.write_nodules(data / "lidc_nodules", tmp_path / "known")
    limits.write_nodules(data / "lidc_nodules", tmp_path / "withheld", unlabelled="philips")
    known, withheld = (
        {name: table(tmp_path / kind / name) for name in MAKERS.values()} for kind in ("known", "withheld")
    )
    assert {name for name in known if known[name] == withheld[name]} == {"ge", "siemens"}
    assert known["philips"].keys() == withheld["philips"].keys()
    assert not any(row[name] for row in withheld["philips"].values() for name in limits.FINDINGS)


def test_a_coarse_hospital_has_as_many_millimetres_in_half_the_pixels(data: Path, tmp_path: Path) -> None:
    limits.write_nodules(data / "lidc_nodules", tmp_path, coarse=True)
    for name, side, size in (("ge", 35, 1.4), ("siemens", SIDE, 0.7), ("philips", SIDE, 0.7)):
        image = nibabel.Nifti1Image.from_filename(next((tmp_path / name).rglob("*.nii")))
        assert image.shape == (side, side, 1)
        assert image.header.get_zooms()[0] == pytest.approx(size)


def test_hospitals_of_skin(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    rows = [
        ("L1", "I1", "mel", "rosendahl"),
        ("L1", "I2", "mel", "rosendahl"),
        ("L2", "I3", "nv", "vienna_dias"),
        ("L3", "I4", "bcc", "rosendahl"),
    ]
    for _, name, *_ in rows:
        Image.new("RGB", (8, 8)).save(source / "images" / f"{name}.jpg")
    with (source / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("lesion_id", "image_id", "dx", "source"), *rows])
    limits.write_skin(source, tmp_path)
    assert (tmp_path / "rosendahl" / "labels.csv").read_text() == "patient_id,label\nL1,melanoma\n"
    assert (tmp_path / "vienna-dias" / "labels.csv").read_text() == "patient_id,label\nL2,naevus\n"
    assert len(list(tmp_path.glob("rosendahl/L1/*.jpg"))) == 2


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_every_way_is_drawn(limit: limits.Limit) -> None:
    areas = {way: dict.fromkeys(places, (0.5, 0.75)) for way, places in limit.ways.items()}
    figure = ElementTree.fromstring(plots.ways("figure", areas, axis=limit.axis, joined=limit.joined))
    colours = set(re.findall(r"#[0-9a-f]{6}", ElementTree.tostring(figure, "unicode")))
    assert len({look.colour for look in SERIES} & colours) == len(areas)


@pytest.mark.long
def test_a_limit_is_run_once_and_has_a_figure_and_a_table(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(trial: Trial) -> Trial:
        training = {**trial.changes["training"], "rounds": 2, "local_steps": 4}
        return replace(trial, seeds=range(42, 44), changes={**trial.changes, "training": training})

    [resolution] = [limit for limit in LIMITS if limit.name == "low-resolution"]
    full, half = (short(trial) for trial in resolution.ways["spacing of 1.4 mm, 36 x 36 pixels"].values())
    ways = {"there": {"full": full, "half": half}, "back": {"full": half, "half": full}}
    monkeypatch.setattr(limits_page, "LIMITS", (LIMITS[0], replace(resolution, ways=ways)))
    said = io.StringIO()
    page = tmp_path / "docs" / "limits.md"
    page.parent.mkdir()

    def draw() -> None:
        found = running.run_all((full, half), data, tmp_path / "out", Console(file=said), by_name=True)
        limits_page.write_page(dict(found), page)

    draw()
    text, figure = page.read_text(), page.parent / "images" / "limits-low-resolution.svg"
    assert "Not run to its end yet" in text.partition("## Low resolution")[0]
    assert "(images/limits-low-resolution.svg)" in text
    assert "small-cnn, 2 rounds of 4 steps" in text
    [there, back] = [line.split(" | ")[1:] for line in text.splitlines() if line.startswith(("| there", "| back"))]
    assert [cell.strip(" |") for cell in there] == [cell.strip(" |") for cell in reversed(back)]
    change = re.search(r"- there, from full to half: (.*), higher with . of 2 seeds\.", text)
    assert change is not None
    before, after = (float(cell.split()[0]) for cell in there)
    assert float(change[1]) == pytest.approx(after - before, abs=0.0015)
    assert f"- back, beside there: full: {change[1]}" in text
    assert ElementTree.fromstring(figure.read_text()).tag == "{http://www.w3.org/2000/svg}svg"
    told, drawn = said.getvalue(), figure.read_bytes()
    draw()
    assert (said.getvalue(), figure.read_bytes()) == (told, drawn), "its results stand there"
