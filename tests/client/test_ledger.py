"""A site's ledger: approvals, answers, what a run is bound to; across processes, restarts and damage."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from fedward_client.ledger import MAX_ASKED, Answered, Ledger
from fedward_common.errors import SettingsError
from fedward_common.testing import tiny_study


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as opened:
        yield opened


def answered(number: int, kind: str = "train", run: str = "run-1") -> Answered:
    return Answered(
        study="ab" * 32,
        run=run,
        kind=kind,
        round=number,
        side="validation",
        question="cd" * 32,
        answer="{}",
        parcel=f"parcel {number}",
    )


def test_it_outlives_the_process(tmp_path: Path) -> None:
    study = tiny_study()
    with Ledger.open(tmp_path) as first:
        first.approve(study, date(2027, 1, 31))
        first.pause("why not")
        assert first.once("run-1", "points", "a") == "a"
    with Ledger.open(tmp_path) as second:
        [approval] = second.approvals()
        assert (approval.digest, approval.until) == (study.digest, date(2027, 1, 31))
        assert second.paused() is not None
        assert second.once("run-1", "points", "b") == "a"
        assert second.once("run-2", "points", "b") == "b"


def test_studies_that_were_asked_for_can_be_read_and_cannot_fill_the_disk(ledger: Ledger) -> None:
    approved = tiny_study(training={"seed": 10**6})
    ledger.approve(approved, date(2027, 1, 31))
    for seed in range(MAX_ASKED + 5):
        ledger.asked(tiny_study(training={"seed": seed}))
    found = [asked.digest for asked in ledger.studies()]
    assert len(found) == MAX_ASKED + 1
    assert found[0] == tiny_study(training={"seed": MAX_ASKED + 4}).digest
    assert found[-1] == approved.digest


def test_of_a_yes_and_a_no_the_last_counts(ledger: Ledger) -> None:
    study = tiny_study()
    assert not ledger.refuse(study.digest, "no hub asked")
    ledger.asked(study)
    assert ledger.refuse(study.digest, "not now")
    [no] = ledger.declined()
    assert (no.digest, no.study_id, no.state, no.reason) == (study.digest, "tiny", "refused", "not now")
    ledger.approve(study, date(2027, 1, 31))
    assert ledger.declined() == []
    assert ledger.withdraw(study.digest)
    assert not ledger.withdraw(study.digest)
    assert [each.state for each in ledger.declined()] == ["withdrawn"]
    ledger.approve(study, date(2027, 1, 31))
    assert ledger.refuse(study.digest, "")
    assert ledger.approvals() == []
    assert [(each.state, each.reason) for each in ledger.declined()] == [("refused", "")]


def test_the_last_two_rounds_of_a_run_are_kept(ledger: Ledger) -> None:
    assert ledger.keep(answered(1)) == []
    assert ledger.keep(answered(2)) == []
    assert ledger.keep(answered(1, run="run-2")) == []
    assert ledger.keep(answered(3)) == ["parcel 1"]

    def held(number: int) -> Answered | None:
        return ledger.answered(study="ab" * 32, run="run-1", kind="train", number=number, side="validation")

    assert held(1) is None
    assert held(2) == answered(2)
    assert sorted(ledger.parcels()) == ["parcel 1", "parcel 2", "parcel 3"]  # parcel 1 is of the other run


def test_two_processes_agree_on_what_a_run_is_bound_to(tmp_path: Path) -> None:
    Ledger.open(tmp_path).close()
    code = (
        "import sys; from pathlib import Path; from fedward_client.ledger import Ledger\n"
        "print(Ledger.open(Path(sys.argv[1])).once('run-1', 'points', sys.argv[2]))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), word], stdout=subprocess.PIPE, text=True)
        for word in ("a", "b")
    ]
    said = {process.communicate(timeout=60)[0].strip() for process in both}
    assert len(said) == 1
    assert said <= {"a", "b"}


def test_a_damaged_ledger_is_told_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(SettingsError, match=r"ledger.sqlite cannot be opened as the site's ledger"):
        Ledger.open(tmp_path)
    assert path.read_bytes() == b"no database at all" * 100
