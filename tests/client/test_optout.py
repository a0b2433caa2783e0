"""Who opted out is used by nothing: not by a scan, not by a run, whichever came first."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward_client import catalog
from fedward_client.cache import load
from fedward_client.catalog import Catalog
from fedward_client.catalog_counts import Counts
from fedward_client.desk import Desk
from fedward_client.freezing import freeze
from fedward_client.handlers import Hospital
from fedward_client.member import Member
from fedward_client.site import Site
from fedward_client.source import SiteSource
from fedward_client.steward import approve
from fedward_common import audit, models
from fedward_common.errors import DataError, SettingsError
from fedward_common.events import Event
from fedward_common.records import Question, question_record
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

Folder = Callable[..., Path]
LABELS = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(24)}
STUDY = tiny_study(input={"size": [8, 8]}, cohort={"min_patients": 5}, split={"shares": [1.0, 0.0, 0.0]})


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


def cached(site: Site) -> list[str]:
    """The patients of whom the cache holds images, by what lies on the disk."""
    found = [path.read_text() for path in (site.state / "cache").glob("*/index.json")]
    return [name for name in LABELS if any(site.pseudonym("patient", name) in text for text in found)]


def test_tensors_of_who_opted_out_are_removed_by_a_scan_and_by_a_run(site_folder: Folder) -> None:
    folder = site_folder(LABELS)
    load(Site.open(folder), STUDY, "run-1")
    assert cached(Site.open(folder)) == list(LABELS)
    (folder / "opt-out.txt").write_text("PID-003\n")
    counts(folder)
    assert list((folder / ".fedward" / "cache").iterdir()) == [folder / ".fedward" / "cache" / ".lock"]
    site = Site.open(folder)
    data = load(site, STUDY, "run-2")
    assert (len(data.images), len(cached(site))) == (46, 23)
    (folder / "opt-out.txt").write_text("PID-003\nPID-004\n")
    load(site, STUDY, "run-3")
    assert cached(site) == [name for name in LABELS if name not in {"PID-003", "PID-004"}]
    (folder / "opt-out.txt").write_text("PID-003\nPID-004\nPID-999\n")  # of whom the cache holds nothing
    events: list[Event] = []
    load(site, STUDY, "run-4", events.append)
    assert not [event for event in events if event.stage == "cache" and event.done < event.total], "nothing is decoded"


# While a site is up --------------------------------------------------------------------------------------------------


@pytest.fixture
def up(member: Callable[..., Member], roster_study: Callable[..., StudySpec]) -> tuple[Member, StudySpec]:
    """A site that has no opt-out list yet, and a study that it approved."""
    at = member()
    study = roster_study(at)
    approve(at, study, datetime.now(UTC).date())
    return at, study


def desk_of(at: Member, listener: Callable[[Event], None] = lambda _event: None) -> Desk:
    return Desk(Hospital(SiteSource(at.site), listener), at.outbox(spool=True), at.ledger)


def asked(study: StudySpec, kind: Any, number: int = 1) -> dict[str, Any]:
    record = question_record(Question(kind=kind, study=study, run="run-1"), None)
    return {**record.config_records["config"], "server-round": number}


def model(study: StudySpec) -> dict[str, np.ndarray]:
    return dict(models.initial_state(study, study.training.seed))


SAYS = "north has patients in run 'run-1' who have opted out since it began: stop the run and start a new one"


def test_every_question_of_a_run_looks_at_the_list(up: tuple[Member, StudySpec]) -> None:
    at, study = up
    desk = desk_of(at)
    assert desk.answer(asked(study, "prepare"), dict).answer is not None
    first = desk.answer(asked(study, "train"), lambda: model(study), "cd" * 32)
    assert first.answer is not None
    (at.site.folder / "opt-out.txt").write_text("P3\n")  # there was none when the site started
    for kind, number, sha256 in (("train", 2, "cd"), ("evaluate", 1, "cd"), ("prepare", 1, "cd"), ("train", 1, "cd")):
        refused = desk.answer(asked(study, kind, number), lambda: model(study), sha256 * 32)
        assert refused.answer is None
        assert refused.refusal.startswith(SAYS), "a stored answer is not given again either"
    assert not list((at.site.state / "cache").glob("*/images.npy"))
    (at.site.folder / "opt-out.txt").write_text("")
    assert desk.answer(asked(study, "train", 2), lambda: model(study), "cd" * 32).answer is not None


def test_an_answer_in_the_making_is_not_given(up: tuple[Member, StudySpec]) -> None:
    at, study = up

    def opt_out(event: Event) -> None:
        if event.stage == "train":
            (at.site.folder / "opt-out.txt").write_text("P3\n")

    reply = desk_of(at, opt_out).answer(asked(study, "train"), lambda: model(study), "cd" * 32)
    assert reply.refusal.startswith(SAYS)
    assert (reply.answer, reply.arrays, reply.parcel) == (None, {}, None)
    assert not list(audit.entries(at.site.state / "audit.jsonl", event="left"))
    assert at.ledger.parcels() == []


def test_who_is_not_in_the_run_does_not_stop_it(up: tuple[Member, StudySpec]) -> None:
    at, study = up
    desk = desk_of(at)
    assert desk.answer(asked(study, "prepare"), dict).answer is not None
    (at.site.folder / "opt-out.txt").write_text("somebody else\n")
    assert desk.answer(asked(study, "train"), lambda: model(study), "cd" * 32).answer is not None


def test_a_list_that_went_lets_nobody_be_used(site_folder: Folder) -> None:
    folder = site_folder(LABELS)
    (folder / "opt-out.txt").write_text("PID-003\n")
    site = Site.open(folder)
    load(site, STUDY, "run-1")
    (folder / "opt-out.txt").unlink()
    with pytest.raises(DataError, match="nobody is used until it can"):
        SiteSource(site).check_opted_out("run-1")
