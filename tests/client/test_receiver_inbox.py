"""Objects that come: where they are put, what is refused, what a kill leaves, what is remembered."""

import hashlib
import multiprocessing
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fedward_client import catalog
from fedward_client.receiver.inbox import DIFFERS, NO_ROOM, NOT_WRITTEN, TOO_LARGE, UNREADABLE, Inbox, Reason, Refused
from fedward_client.receiver.journal import Journal
from fedward_client.receiver.session import hushed
from fedward_client.site import Site
from fedward_common.errors import DataError, SettingsError

Write = Callable[..., Path]
PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)
STUDY, SERIES, INSTANCE = "1.2.826.77777.2", "1.2.826.77777.3", "1.2.826.77777.1"
UIDS = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": INSTANCE}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "north"
    path.mkdir()
    (path / "site.toml").write_text("[pacs]\nmin_free_mib = 1\nmax_object_mib = 1\n")
    return path


@pytest.fixture
def site(folder: Path) -> Site:
    return Site.open(folder)


@pytest.fixture
def inbox(site: Site) -> Iterator[Inbox]:
    with hushed(), Inbox.open(site) as opened:
        yield opened


@pytest.fixture
def coming(inbox: Inbox, write_dicom: Write) -> Callable[..., Path]:
    """`coming(**tags)`: a file on its way, as the receiving side has written it."""

    def write(**tags: object) -> Path:
        return write_dicom(inbox.name_file(), patient_id="ID77777", array=PIXELS, **{**UIDS, **tags})

    return write


def received(site: Site) -> list[Path]:
    return sorted(site.data.glob("received/*/*/*.dcm"))


def refusal(inbox: Inbox, path: Path, instance: str | None = None) -> Reason:
    with pytest.raises(Refused) as caught:
        inbox.take(path, instance)
    assert not path.exists(), "nothing is kept of what is refused"
    return caught.value.reason


def test_an_object_has_pseudonyms_for_a_name_and_its_own_bytes(inbox: Inbox, coming: Callable[..., Path]) -> None:
    path = coming()
    before = path.read_bytes()
    inbox.take(path, INSTANCE)
    site = inbox.site
    [file] = received(site)
    names = [site.pseudonym(*pair) for pair in (("study", STUDY), ("series", SERIES), ("instance", INSTANCE))]
    assert list(file.relative_to(site.data).parts) == ["received", *names[:2], f"{names[2]}.dcm"]
    assert file.read_bytes() == before
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert (inbox.tally.new, inbox.tally.again, inbox.tally.size) == (1, 0, len(before))
    assert inbox.journal.instances(names[1]) == {names[2]}


def test_the_next_scan_finds_it_and_not_what_is_on_its_way(inbox: Inbox, coming: Callable[..., Path]) -> None:
    inbox.take(coming())
    coming(SOPInstanceUID="1.2.3")
    counts = catalog.scan(inbox.site).counts
    assert (counts.files, counts.images, counts.patients) == (1, 1, 1)


def test_the_same_object_again_is_taken_and_not_written(inbox: Inbox, coming: Callable[..., Path]) -> None:
    inbox.take(coming())
    [file] = received(inbox.site)
    before = file.stat()
    path = coming()
    content = bytearray(path.read_bytes())
    content[0:128] = b"x" * 128  # the preamble, and who sent it when, are not the object's
    path.write_bytes(content)
    inbox.take(path)
    assert not path.exists()
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (inbox.tally.new, inbox.tally.again) == (1, 1)


def test_another_object_of_the_same_uid_is_refused_and_the_first_stays(
    inbox: Inbox, coming: Callable[..., Path]
) -> None:
    inbox.take(coming())
    [file] = received(inbox.site)
    before = file.read_bytes()
    assert refusal(inbox, coming(PatientID="ID88888")) == DIFFERS
    assert file.read_bytes() == before
    assert inbox.tally.refused == {DIFFERS: 1}


def test_what_was_moved_on_can_come_again(inbox: Inbox, coming: Callable[..., Path]) -> None:
    inbox.take(coming())
    received(inbox.site)[0].unlink()
    inbox.take(coming())
    assert len(received(inbox.site)) == 1


@pytest.mark.parametrize("keyword", UIDS)
@pytest.mark.parametrize("value", [None, "", "1." * 40])
def test_an_object_without_its_three_uids_is_refused(
    inbox: Inbox, coming: Callable[..., Path], keyword: str, value: str | None
) -> None:
    path = coming()
    dataset = dcmread(path)
    delattr(dataset, keyword)
    if value is not None:
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    assert refusal(inbox, path) == UNREADABLE
    assert received(inbox.site) == []


def test_an_object_that_is_not_the_promised_one_is_refused(inbox: Inbox, coming: Callable[..., Path]) -> None:
    assert refusal(inbox, coming(), "1.2.3") == UNREADABLE


def test_a_deflated_object_is_refused(inbox: Inbox, coming: Callable[..., Path]) -> None:
    assert refusal(inbox, coming(syntax=DeflatedExplicitVRLittleEndian)) == UNREADABLE


def test_what_is_too_large_is_refused(inbox: Inbox, write_dicom: Write) -> None:
    path = write_dicom(inbox.name_file(), patient_id="A", array=np.zeros((1024, 1024), np.uint8), **UIDS)
    assert refusal(inbox, path) == TOO_LARGE
    assert inbox.objection(2**20) is None
    assert inbox.objection(2**20 + 1) == TOO_LARGE


def test_a_disk_without_room_refuses(folder: Path, write_dicom: Write) -> None:
    (folder / "site.toml").write_text("[pacs]\nmin_free_mib = 1000000000\n")
    with Inbox.open(Site.open(folder)) as inbox:
        assert refusal(inbox, write_dicom(inbox.name_file(), patient_id="A", array=PIXELS, **UIDS)) == NO_ROOM


def test_a_place_that_cannot_be_written_refuses(inbox: Inbox, coming: Callable[..., Path]) -> None:
    inbox.site.data.joinpath(
        "received", inbox.site.pseudonym("study", STUDY)
    ).touch()  # a file where a folder has to be
    assert refusal(inbox, coming()) == NOT_WRITTEN


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    at=st.integers(128, 500),
    junk=st.binary(min_size=1, max_size=40),
    cut=st.integers(0, 900),
    syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
)
def test_damaged_objects_are_taken_or_refused_and_nothing_else(
    inbox: Inbox, coming: Callable[..., Path], at: int, junk: bytes, cut: int, syntax: str
) -> None:
    path = coming(syntax=syntax)
    content = bytearray(path.read_bytes())
    content[at : at + len(junk)] = junk
    path.write_bytes(content[: len(content) - cut])
    with suppress(Refused):
        inbox.take(path)
    assert not path.exists()
    assert inbox.tally.refused.keys() <= {UNREADABLE, DIFFERS}


@pytest.mark.parametrize(
    "content", [b"", b"x" * 200, b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\xff\xff\xff\xff"]
)
def test_what_is_no_dicom_is_refused(inbox: Inbox, content: bytes) -> None:
    path = inbox.name_file()
    path.write_bytes(content)
    assert refusal(inbox, path) == UNREADABLE


def test_many_threads_bring_the_same_object_once(inbox: Inbox, coming: Callable[..., Path]) -> None:
    paths = [coming() for _ in range(8)]
    threads = [threading.Thread(target=inbox.take, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inbox.tally.new, inbox.tally.again) == (1, 7)
    assert len(received(inbox.site)) == 1


# What is left --------------------------------------------------------------------------------------------------------


def test_nothing_on_its_way_is_left(site: Site) -> None:
    with Inbox.open(site) as inbox:
        inbox.name_file().write_bytes(b"half")
    assert [path.name for path in site.data.joinpath("received").iterdir()] == [".lock"]


def halves(folder: Path) -> list[Path]:
    return sorted(folder.glob("received/.incoming-*/[!.]*"))


def _wait_with_half(folder: Path) -> None:
    with Inbox.open(Site.open(folder)) as inbox:
        inbox.name_file().write_bytes(b"half")
        time.sleep(60)


def test_what_a_killed_receiver_left_goes_and_what_one_at_work_has_stays(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_wait_with_half, args=(folder,))
    process.start()
    while not halves(folder):
        assert process.is_alive()
        time.sleep(0.02)
    with Inbox.open(Site.open(folder)):
        assert len(halves(folder)) == 1
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with Inbox.open(Site.open(folder)):
        assert halves(folder) == []


def test_a_data_folder_that_is_read_only_is_said_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "received").touch()
    with pytest.raises(SettingsError, match="cannot be written to") as caught, Inbox.open(Site.open(tmp_path)):
        pass
    assert str(tmp_path) not in str(caught.value)


# The journal ---------------------------------------------------------------------------------------------------------


def test_the_journal_remembers(site: Site) -> None:
    with Journal.open(site) as journal:
        for instance in ("a", "b", "a"):
            journal.add(study="s", series="t", instance=instance, size=1)
        journal.add(study="s", series="u", instance="c", size=1)
        with Journal.open(site) as other:
            other.add(study="s", series="t", instance="d", size=1)
        assert journal.instances("t") == {"a", "b", "d"}
    with Journal.open(site) as journal:
        assert journal.instances("t") == {"a", "b", "d"}
        assert journal.instances("v") == set()


def test_a_damaged_journal_is_said_in_words(site: Site) -> None:
    path = site.ensure_state() / "receiver" / "journal.sqlite"
    path.parent.mkdir()
    path.write_bytes(b"no database" * 100)
    with pytest.raises(DataError, match=r"delete receiver/ in the state folder"), Journal.open(site):
        pass


def test_nothing_in_state_or_names_is_an_identifier(inbox: Inbox, coming: Callable[..., Path]) -> None:
    inbox.take(coming())
    told = b"".join(path.read_bytes() for path in inbox.site.state.rglob("*") if path.is_file())
    told += " ".join(str(path) for path in inbox.site.folder.rglob("*")).encode()
    assert len(told) > 1000
    for secret in (STUDY, SERIES, INSTANCE, "77777", hashlib.sha256(STUDY.encode()).hexdigest()):
        assert secret.encode() not in told
