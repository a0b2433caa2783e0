"""The site's own door for objects: whom it lets in, what it refuses, and peers that hang, flood or lie."""

import logging
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from fedward_client.receiver.inbox import Inbox
from fedward_client.receiver.listener import listening
from fedward_client.receiver.query import Question
from fedward_client.receiver.session import hushed, peer_of
from fedward_client.site import Site
from fedward_common.disk import sync
from fedward_common.errors import PacsError, SettingsError

Listen = Callable[..., Inbox]
SOON_S = 10.0  # on a busy machine


def program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, "the tests need Debian's dcmtk: `make test` says how to install it"
    return found


@pytest.fixture
def site(tmp_path: Path, free_port: int) -> Callable[..., Site]:
    """`site(settings)`: a hospital that listens on loopback; `settings` are further lines of [pacs]."""

    def make(settings: str = "", *, free_mib: int = 1, object_mib: int = 4, timeout_s: int = 60) -> Site:
        folder = tmp_path / "north"
        folder.mkdir(exist_ok=True)
        (folder / "site.toml").write_text(
            f'[pacs]\nlisten_host = "127.0.0.1"\nlisten_port = {free_port}\nallowed = ["SENDER"]\n'
            f"timeout_s = {timeout_s}\nmin_free_mib = {free_mib}\nmax_object_mib = {object_mib}\n{settings}\n"
        )
        return Site.open(folder)

    return make


@contextmanager
def door(site: Site) -> Iterator[Inbox]:
    with hushed(), Inbox.open(site) as inbox, listening(inbox):
        yield inbox


@pytest.fixture
def image(tmp_path: Path, write_dicom: Callable[..., Path]) -> Callable[..., Path]:
    """`image(mib=)`: a file to be sent."""

    def make(number: int = 1, *, mib: int = 1) -> Path:
        uids = {
            "StudyInstanceUID": "1.2.77777",
            "SeriesInstanceUID": "1.3.77777",
            "SOPInstanceUID": f"1.4.77777.{number}",
        }
        array = np.random.default_rng(number).integers(0, 255, (mib, 1024, 1024), np.uint8)
        return write_dicom(tmp_path / f"{number}-{mib}.dcm", patient_id="ID77777", array=array, **uids)

    return make


def store(site: Site, *paths: Path, calling: str = "SENDER", called: str = "FEDWARD") -> str:
    """What dcmtk's storescu says of sending files: its responses and its errors."""
    command = [program("storescu"), "-v", "-aet", calling, "-aec", called, "127.0.0.1", str(site.pacs.listen_port)]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=False, timeout=60)
    lines = (done.stdout + done.stderr).splitlines()
    return "\n".join(line for line in lines if "Response" in line or line.startswith(("E:", "F:")))


def files(site: Site) -> list[Path]:
    return sorted(site.data.glob("received/*/*/*.dcm"))


def on_their_way(site: Site) -> list[Path]:
    return list(site.data.glob("received/.incoming-*/[!.]*"))


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_an_allowed_peer_sends_is_there_with_its_bytes(
    site: Callable[..., Site], image: Callable[..., Path]
) -> None:
    here, path = site(), image()
    with door(here) as inbox:
        assert "Success" in store(here, path, image(2))
        assert "Success" in store(here, path)
        assert (inbox.tally.new, inbox.tally.again) == (2, 1)
    assert len(files(here)) == 2
    data = path.read_bytes()[-(2**20) :]
    assert sorted(file.read_bytes()[-(2**20) :] == data for file in files(here)) == [False, True]


def test_others_are_turned_away(site: Callable[..., Site], image: Callable[..., Path]) -> None:
    here = site()
    with door(here):
        assert "Calling AE Title Not Recognized" in store(here, image(), calling="STRANGER")
        assert "Called AE Title Not Recognized" in store(here, image(), called="OTHER")
        find = [program("findscu"), "-S", "-aet", "SENDER", "-aec", "FEDWARD", "-k", "QueryRetrieveLevel=STUDY"]
        done = subprocess.run(
            [*find, "127.0.0.1", str(here.pacs.listen_port)], capture_output=True, text=True, check=False, timeout=60
        )
        assert "No Acceptable Presentation Contexts" in done.stderr, "nothing can be asked of it"
    assert files(here) == []


@pytest.mark.parametrize(
    ("own", "words"), [("STRANGER", "does not know this site's AE title 'STRANGER'"), ("SENDER", "not offer C-FIND")]
)
def test_an_archive_that_turns_this_site_away(tmp_path: Path, site: Callable[..., Site], own: str, words: str) -> None:
    """What a site tells of a peer that refuses it; the peer is another site's door."""
    with door(here := site()):
        peer = f'host = "127.0.0.1"\nport = {here.pacs.listen_port}\nae_title = "FEDWARD"'
        (tmp_path / "site.toml").write_text(f'[pacs]\n{peer}\nown_ae_title = "{own}"\n')
        with peer_of(Site.open(tmp_path)) as archive, pytest.raises(PacsError, match=words):
            archive.studies(Question(patient=None, since=None, until=None, modality=None))


def test_an_echo_is_answered(site: Callable[..., Site]) -> None:
    here = site()
    with door(here):
        command = [program("echoscu"), "-aet", "SENDER", "-aec", "FEDWARD", "127.0.0.1", str(here.pacs.listen_port)]
        assert subprocess.run(command, check=False, timeout=60).returncode == 0


def test_a_full_disk_and_a_large_object_are_refused_as_out_of_resources(
    site: Callable[..., Site], image: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    with door(here := site()) as inbox:
        assert "Refused: OutOfResources" in store(here, image(mib=6))
        assert inbox.tally.refused == {"too large": 1}
        assert "Success" in store(here, image()), "the next one is not refused"
    with door(here := site(free_mib=10**9)) as inbox:
        assert "Refused: OutOfResources" in store(here, image(2))
        assert inbox.tally.refused == {"no room is left": 1}
    assert len(files(here)) == 1
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "north: an object was refused: too large",
        "north: an object was refused: no room is left",
    ]
    assert "77777" not in caplog.text


def test_an_object_that_cannot_be_read_is_refused(
    site: Callable[..., Site], image: Callable[..., Path], write_dicom: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_dicom(tmp_path / "bare.dcm", patient_id="A", array=np.zeros((4, 4), np.uint8), StudyInstanceUID="1.2")
    with door(here := site()) as inbox:
        assert "CannotUnderstand" in store(here, path)
        assert inbox.tally.refused == {"unreadable": 1}
        assert "Success" in store(here, image())


def test_many_senders_at_once(site: Callable[..., Site], image: Callable[..., Path]) -> None:
    here, paths = site(), [image(number) for number in range(1, 9)]
    with door(here) as inbox:
        threads = [threading.Thread(target=store, args=(here, *paths)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (inbox.tally.new, inbox.tally.again) == (8, 16)


def test_a_slow_disk_is_not_held_against_the_sender(
    site: Callable[..., Site], image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that waits for an answer is silent, and that for longer than a silent peer is heard."""

    def sync_slowly(path: Path) -> None:
        if path.is_file():
            time.sleep(1.5)
        sync(path)

    monkeypatch.setattr("fedward_client.receiver.inbox.sync", sync_slowly)
    with door(here := site(timeout_s=1)) as inbox:
        assert store(here, image(), image(2)).count("Success") == 2
        assert inbox.tally.new == 2


def test_two_doors_do_not_fit_on_one_port(site: Callable[..., Site]) -> None:
    here = site()
    with door(here), pytest.raises(SettingsError, match="another program"), Inbox.open(here) as inbox, listening(inbox):
        pass


@pytest.mark.parametrize(
    ("line", "words"), [('listen_host = ""', "listen_host is missing"), ("allowed = []", "allowed")]
)
def test_a_door_needs_an_address_and_somebody_to_let_in(
    tmp_path: Path, site: Callable[..., Site], line: str, words: str
) -> None:
    here = site()
    text = (here.folder / "site.toml").read_text().splitlines()
    key = line.split(maxsplit=1)[0]
    (here.folder / "site.toml").write_text("\n".join(line if each.startswith(key) else each for each in text))
    with pytest.raises(SettingsError, match=words), door(Site.open(here.folder)):
        pass


# Hostile peers -------------------------------------------------------------------------------------------------------


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(content)) + content


def association() -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2) for ultrasound images and echoes, in implicit little endian."""
    syntax = item(0x40, b"1.2.840.10008.1.2")
    contexts = b"".join(
        item(0x20, bytes([number, 0, 0, 0]) + item(0x30, uid) + syntax)
        for number, uid in ((1, b"1.2.840.10008.5.1.4.1.1.6.1"), (3, b"1.2.840.10008.1.1"))
    )
    user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
    head = struct.pack(">HH", 1, 0) + b"FEDWARD".ljust(16) + b"SENDER".ljust(16) + bytes(32)
    return pdu(1, head + item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user)


def fragment(content: bytes, control: int, context: int = 1) -> bytes:
    """A P-DATA-TF with one value; control: 1 command, 0 data, plus 2 for the last (PS3.8 E.2)."""
    return pdu(4, struct.pack(">LBB", len(content) + 2, context, control) + content)


def store_request(number: int = 1) -> bytes:
    """The command of a C-STORE-RQ with a data set to follow (PS3.7 9.3.1.1)."""

    def element(tag: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, tag, len(value)) + value

    body = (
        element(0x0002, b"1.2.840.10008.5.1.4.1.1.6.1\0")
        + element(0x0100, struct.pack("<H", 1))
        + element(0x0110, struct.pack("<H", number))
        + element(0x0700, struct.pack("<H", 0))
        + element(0x0800, struct.pack("<H", 1))
        + element(0x1000, b"1.4.77777.9\0")
    )
    return fragment(element(0x0000, struct.pack("<L", len(body))) + body, 3)


@contextmanager
def calling(site: Site) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", site.pacs.listen_port), SOON_S) as peer:
        yield peer


def ended(peer: socket.socket) -> bool:
    """Whether the other end closes soon, having said whatever it says."""
    with suppress(ConnectionResetError, BrokenPipeError):
        try:
            while peer.recv(65536):
                pass
        except TimeoutError:
            return False
    return True


def helloed(peer: socket.socket) -> None:
    peer.sendall(association())
    assert peer.recv(65536)[:1] == b"\x02", "A-ASSOCIATE-AC"


FIRST_WORDS = {
    "nothing": b"",
    "half a head": b"\x01\x00\x00",
    "half a PDU": association()[:60],
    "a PDU of 4 GiB": b"\x01\x00\xff\xff\xff\xff" + b"x" * 100,
    "another protocol": b"GET / HTTP/1.0\r\n\r\n",
    "data before hello": fragment(b"x" * 100, 0),
    "an empty hello": pdu(1, b""),
    "junk for a hello": pdu(1, bytes(range(256)) * 4),
}


def test_who_does_not_say_hello_is_dropped(site: Callable[..., Site]) -> None:
    with door(here := site("max_associations = 16", timeout_s=1)), ExitStack() as peers:
        callers = {}
        for name, words in FIRST_WORDS.items():  # each at once: who waits for its turn is dropped for its silence
            callers[name] = peers.enter_context(calling(here))
            callers[name].sendall(words)
        assert [name for name, peer in callers.items() if not ended(peer)] == []


LATER_WORDS = {
    "nothing": b"",
    "half a command": store_request()[:40],
    "a command and no data": store_request(),
    "half an object": store_request() + fragment(b"x" * 8000, 0),
    "half a fragment": store_request() + fragment(b"x" * 8000, 0)[:1000],
    "data without a command": fragment(b"x" * 8000, 2),
    "junk for a command": fragment(b"\xff" * 100, 3),
    "a context that was not agreed": fragment(b"x" * 100, 3, context=77),
    "a fragment of 4 GiB": b"\x04\x00\xff\xff\xff\xff" + b"x" * 100,
    "hello again": association(),
}


def test_who_hangs_or_babbles_is_dropped_and_nothing_of_it_stays(
    site: Callable[..., Site], image: Callable[..., Path]
) -> None:
    with door(here := site("max_associations = 16", timeout_s=1)):
        with ExitStack() as peers:
            callers = {}
            for name, words in LATER_WORDS.items():
                callers[name] = peers.enter_context(calling(here))
                helloed(callers[name])
                callers[name].sendall(words)
            assert [name for name, peer in callers.items() if not ended(peer)] == []
        wait_until(lambda: not on_their_way(here))
        assert "Success" in store(here, image())
    assert len(files(here)) == 1


@pytest.mark.long
@pytest.mark.parametrize("control", [1, 0], ids=["a command", "data in memory"])
def test_who_floods_memory_is_dropped(site: Callable[..., Site], control: int) -> None:
    before = resident_mib()
    with door(here := site()), calling(here) as peer:
        helloed(peer)
        sent = 0
        with suppress(ConnectionResetError, BrokenPipeError):
            while sent < 64 * 2**20:
                peer.sendall(fragment(b"x" * 16000, control))
                sent += 16000
        assert sent < 64 * 2**20
        assert resident_mib() - before < 24


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.long
def test_a_large_object_is_not_held_in_memory(site: Callable[..., Site], image: Callable[..., Path]) -> None:
    here, path = site(object_mib=100), image(2, mib=60)
    with door(here):
        store(here, image())  # what is loaded once is loaded
        before = resident_mib()
        assert "Success" in store(here, path)
        assert resident_mib() - before < 20


def test_a_crowd_that_says_nothing_does_not_keep_others_out(
    site: Callable[..., Site], image: Callable[..., Path]
) -> None:
    with door(here := site("max_associations = 2", timeout_s=1)), ExitStack() as crowd:
        for _ in range(12):
            with suppress(ConnectionResetError):
                crowd.enter_context(calling(here))
        wait_until(lambda: "Success" in store(here, image()))
    assert len(files(here)) == 1


def test_a_peer_that_keeps_a_handshake_waiting_keeps_nobody_else(
    tmp_path: Path, site: Callable[..., Site], certificates: Callable[[Path], Path]
) -> None:
    folder = certificates(tmp_path / "north")
    here = site('ca = "ca.pem"\ncertificate = "own.pem"\nkey = "own.key"', timeout_s=1)
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "peer.pem", folder / "peer.key")
    with door(here), calling(here) as silent, calling(here) as peer:
        with context.wrap_socket(peer, server_hostname="127.0.0.1") as spoken:
            helloed(spoken)
        assert ended(silent)
