"""What is asked of an archive, in which order, what is asked once more, what ends a run. The archive is a list."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from fedward_client.receiver.faults import PartlyFailed, PeerAway
from fedward_client.receiver.fetching import Fetched, fetch, survey
from fedward_client.receiver.inbox import Inbox
from fedward_client.receiver.query import Instance, Question, Series, Study, Wanted
from fedward_client.receiver.session import hushed
from fedward_client.site import Site
from fedward_common.errors import PacsError
from fedward_common.events import Event, ignore

PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)


@dataclass
class ListedArchive:
    """An archive in memory: study UIDs with their days, each with one series; what it is asked is in `asked`."""

    write: Callable[..., Path]
    days: dict[str, date | None]
    objects: int = 3
    says_how_many: bool = True
    bad: frozenset[str] = frozenset()  # objects that it cannot send
    faults: list[PacsError] = field(default_factory=list)  # raised after one object each, one a request
    asked: list[str] = field(default_factory=list)

    def studies(self, question: Question) -> list[Study]:
        self.asked.append(f"studies {question.days}")
        return [Study(uid=uid, patient="A", day=day, description="") for uid, day in self.days.items()]

    def series(self, study: Study) -> list[Series]:
        self.asked.append(f"series {study.uid}")
        count = self.objects if self.says_how_many else None
        return [Series(study=study.uid, uid=f"{study.uid}.1", modality="US", description="", instances=count)]

    def instances(self, series: Series) -> list[Instance]:
        self.asked.append(f"objects {series.uid}")
        return [Instance(uid=f"{series.uid}.{number}", sop_class="") for number in range(self.objects)]

    def fetch(self, series: Series, instances: Sequence[Instance], *, whole: bool, inbox: Inbox) -> None:
        self.asked.append(f"{'whole ' if whole else ''}{' '.join(each.uid for each in instances)}")
        fault = self.faults.pop(0) if self.faults else None
        for each in instances[:1] if fault else instances:
            if each.uid in self.bad:
                raise PartlyFailed("it cannot")
            uids = {"SOPInstanceUID": each.uid, "SeriesInstanceUID": series.uid, "StudyInstanceUID": series.study}
            inbox.take(self.write(inbox.name_file(), patient_id="A", array=PIXELS, **uids), each.uid)
        if fault:
            raise fault


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    (tmp_path / "site.toml").write_text("[pacs]\nmin_free_mib = 1\n")
    with hushed(), Inbox.open(Site.open(tmp_path)) as opened:
        yield opened


@pytest.fixture
def listed(write_dicom: Callable[..., Path]) -> Callable[..., ListedArchive]:
    def make(*studies: str, **settings: object) -> ListedArchive:
        days: dict[str, date | None] = {uid: date(2020, 1, 1) for uid in studies}
        return ListedArchive(write=write_dicom, **{"days": days, **settings})  # type: ignore[arg-type]

    return make


def test_the_oldest_study_is_the_first(inbox: Inbox, listed: Callable[..., ListedArchive]) -> None:
    archive = listed(days={"1.3": date(2021, 1, 1), "1.2": date(2020, 1, 1), "1.4": None})
    events: list[Event] = []
    assert fetch(inbox, archive, Wanted(), events.append) == Fetched(studies=3, series=3, incomplete=0)
    assert [line for line in archive.asked if line.startswith("series")] == ["series 1.4", "series 1.2", "series 1.3"]
    assert [(event.done, event.total) for event in events] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_series_that_is_here_is_not_even_listed(inbox: Inbox, listed: Callable[..., ListedArchive]) -> None:
    archive = listed("1.2")
    fetch(inbox, archive, Wanted(), ignore)
    assert archive.asked == ["studies ", "series 1.2", "objects 1.2.1", "whole 1.2.1.0 1.2.1.1 1.2.1.2"]
    archive.asked.clear()
    fetch(inbox, archive, Wanted(), ignore)
    assert archive.asked == ["studies ", "series 1.2"]
    archive.objects = 4
    archive.asked.clear()
    fetch(inbox, archive, Wanted(), ignore)
    assert archive.asked == ["studies ", "series 1.2", "objects 1.2.1", "1.2.1.3"], "what was added, by its name"


def test_an_archive_that_does_not_say_how_many_is_asked(inbox: Inbox, listed: Callable[..., ListedArchive]) -> None:
    archive = listed("1.2", says_how_many=False)
    for _ in range(2):
        assert fetch(inbox, archive, Wanted(), ignore).incomplete == 0
    assert [line for line in archive.asked if "1.2.1.0" in line] == ["whole 1.2.1.0 1.2.1.1 1.2.1.2"]


def test_an_object_that_cannot_be_sent_keeps_no_other(inbox: Inbox, listed: Callable[..., ListedArchive]) -> None:
    archive = listed("1.2", "1.3", bad=frozenset({"1.2.1.0"}))
    assert fetch(inbox, archive, Wanted(), ignore) == Fetched(studies=2, series=2, incomplete=1)
    assert inbox.tally.new == 5
    assert "1.2.1.0" in archive.asked


def test_as_long_as_anything_comes_it_goes_on(inbox: Inbox, listed: Callable[..., ListedArchive]) -> None:
    archive = listed("1.2", objects=4, faults=[PeerAway("away") for _ in range(3)])
    events: list[Event] = []
    assert fetch(inbox, archive, Wanted(), events.append).incomplete == 0
    assert inbox.tally.again == 0
    notes = [event.note for event in events if event.stage == "wait"]
    assert notes == ["away; trying again in 0.5 s"] * 3
    assert archive.asked[-1] == "1.2.1.3"


def test_what_is_refused_for_good_ends_the_run(inbox: Inbox, listed: Callable[..., ListedArchive]) -> None:
    archive = listed("1.2", "1.3", faults=[PacsError("never")])
    with pytest.raises(PacsError, match="never"):
        fetch(inbox, archive, Wanted(), ignore)
    assert inbox.tally.new == 1
    assert fetch(inbox, archive, Wanted(), ignore).incomplete == 0


def test_a_survey_fetches_nothing(inbox: Inbox, listed: Callable[..., ListedArchive]) -> None:
    archive = listed("1.2", "1.3")
    found = survey(inbox.site, archive, Wanted(modality="US"), ignore)
    assert (found.studies, found.series, found.instances, found.years) == (2, 2, 6, {"2020": 2})
    assert survey(inbox.site, archive, Wanted(modality="MR"), ignore).studies == 0
    assert not any(line.startswith(("whole", "objects")) for line in archive.asked)
