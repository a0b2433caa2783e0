"""Who opted out is used by nothing: not by a scan, not by a run, whichever came first."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedward_client import catalog
from fedward_client.cache import load
from fedward_client.catalog import Catalog, Counts
from fedward_client.cohort import freeze
from fedward_client.site import Site
from fedward_common.errors import DataError, SettingsError
from fedward_common.testing import tiny_study

Folder = Callable[..., Path]
LABELS = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(24)}
STUDY = tiny_study(input={"size": [8, 8]}, cohort={"min_patients": 5})


def counts(folder: Path) -> Counts:
    return catalog.scan(Site.open(folder)).counts


def test_a_scan_counts_them_and_uses_none(site_folder: Folder) -> None:
    folder = site_folder(LABELS)
    (folder / "opt-out.txt").write_text("# asked on the phone\nPID-003\n\n  PID-004  \nPID-999\n")
    found = counts(folder)
    assert (found.images, found.opted_out, found.patients, found.labelled_patients) == (44, 4, 22, 22)
    site = Site.open(folder)
    with Catalog.open(site) as opened:
        assert {site.pseudonym("patient", one) for one in ("PID-003", "PID-004")}.isdisjoint(
            {row.patient for row in opened.images()} | opened.labels().keys()
        )
    assert b"PID-003" not in (site.state / "catalog.sqlite").read_bytes()


def test_who_is_taken_off_the_list_is_used_again_and_nothing_is_read_anew(site_folder: Folder) -> None:
    folder = site_folder(LABELS)
    (folder / "opt-out.txt").write_text("PID-003\n")
    assert counts(folder).opted_out == 2
    (folder / "opt-out.txt").write_text("")
    report = catalog.scan(Site.open(folder))
    assert (report.counts.opted_out, report.counts.patients, report.read) == (0, 24, 0)


def test_a_run_leaves_out_who_opted_out_after_the_scan(site_folder: Folder) -> None:
    folder = site_folder(LABELS)
    catalog.scan(Site.open(folder))
    (folder / "opt-out.txt").write_text("PID-003\n")
    site = Site.open(folder)
    patients = {item.patient for item in freeze(site, STUDY, "run-1").items}
    assert len(patients) == 23
    assert site.pseudonym("patient", "PID-003") not in patients


def test_a_run_that_holds_them_already_goes_on_no_further(site_folder: Folder) -> None:
    folder = site_folder(LABELS)
    load(Site.open(folder), STUDY, "run-1")
    (folder / "opt-out.txt").write_text("PID-003\n")
    with pytest.raises(DataError, match="opted out since it began: stop the run and start a new one") as caught:
        load(Site.open(folder), STUDY, "run-1")
    assert "PID" not in str(caught.value)
    assert len(set(load(Site.open(folder), STUDY, "run-2").patients)) == 23


def test_a_list_that_cannot_be_read_lets_nobody_be_used(site_folder: Folder) -> None:
    folder = site_folder(LABELS)
    (folder / "opt-out.txt").write_bytes("Jos\u00e9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"not utf-8 text.*nobody is used until it can be read"):
        catalog.scan(Site.open(folder))


def test_a_list_that_is_named_must_be_there(site_folder: Folder) -> None:
    folder = site_folder(LABELS, settings='[privacy]\nopt_out = "refusals.csv"\n')
    with pytest.raises(SettingsError, match="opt_out names no file that exists"):
        Site.open(folder)
    (folder / "refusals.csv").write_text("\ufeffPID-001\r\nPID-002\r\n", encoding="utf-8")
    assert counts(folder).opted_out == 4
