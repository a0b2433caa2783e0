"""Keys as the programs that use them see them: OpenSSL, OpenSSH, Flower."""

import os
import stat
import subprocess
import sys
import threading
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.supercore.primitives.asymmetric import uses_nist_ec_curve
from hypothesis import given
from hypothesis import strategies as st

from fedward_common import certificates, pki
from fedward_common.errors import RecordError, SettingsError

# Keys ----------------------------------------------------------------------------------------------------------------


def test_flower_takes_the_node_key(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    pki.write_private(path, pki.make_node_key())
    key = pki.load_node_key(path)
    stock = load_ssh_private_key(path.read_bytes(), None)  # as flower-supernode reads it
    assert uses_nist_ec_curve(key.public_key())
    assert stock.public_key() == key.public_key()
    line = pki.node_public_line(key)
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert load_ssh_public_key(line.encode()) == key.public_key()
    assert pki.node_public_from_line(line) == key.public_key()


def test_openssh_takes_the_node_key(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    pki.write_private(path, pki.make_node_key())
    shown = subprocess.run(["ssh-keygen", "-y", "-f", str(path)], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == pki.node_public_line(pki.load_node_key(path))


@pytest.mark.parametrize("change", ["{} comment", "{}\n", " {}", "{} \n{}", "", "ssh-ed25519 AAAA", "{}é", "--help"])
def test_a_line_that_is_no_node_key_is_refused(tmp_path: Path, change: str) -> None:
    pki.write_private(tmp_path / "node.key", pki.make_node_key())
    line = pki.node_public_line(pki.load_node_key(tmp_path / "node.key"))
    with pytest.raises(RecordError, match="no line of an OpenSSH P-384 public key"):
        pki.node_public_from_line(change.format(line, line))


def test_a_node_key_whose_point_is_compressed_is_refused(tmp_path: Path) -> None:
    pki.write_private(tmp_path / "node.key", pki.make_node_key())
    kind, text = pki.node_public_line(pki.load_node_key(tmp_path / "node.key")).split()
    key = bytearray(b64decode(text))
    assert key[-97] == 4  # of an uncompressed point of P-384: SEC 1, 2.3.3
    key[-97] = 2
    with pytest.raises(RecordError, match="no line of an OpenSSH P-384 public key"):
        pki.node_public_from_line(f"{kind} {b64encode(key).decode()}")


def test_signing_keys(tmp_path: Path) -> None:
    pki.write_private(tmp_path / "signing.key", pki.make_signing_key())
    key = pki.load_signing_key(tmp_path / "signing.key").public_key()
    assert pki.public_from_hex(pki.public_hex(key)) == key
    assert len(pki.fingerprint(key)) == 64
    other = Ed25519PrivateKey.generate().public_key()
    assert pki.fingerprint(other) != pki.fingerprint(key)


def test_a_fingerprint_is_the_sha256_of_the_raw_key() -> None:
    key = pki.public_from_hex("00" * 31 + "01")
    assert pki.fingerprint(key) == "ec4916dd28fc4c10d78e287ca5d9cc51ee1ae73cbfde08c6b37324cbfaac8bc5"


@given(st.text(max_size=70))
def test_only_64_digits_are_a_public_key(text: str) -> None:
    for wrong in (text, "0A" * 32, "0" * 63, "0" * 64 + "\n"):
        with pytest.raises(RecordError, match="64 lower-case hexadecimal digits"):
            pki.public_from_hex(wrong)


def test_the_wrong_kind_of_key_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "secret-folder"
    folder.mkdir()
    pki.write_private(folder / "node.key", pki.make_signing_key())
    pki.write_private(folder / "signing.key", certificates.authority_pem(certificates.make_authority("x"))[0])
    pki.write_private(folder / "rubbish.key", os.urandom(64))
    ed25519 = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "ed25519.key")]
    sealed = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "a password", "-f", str(folder / "sealed.key")]
    short = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-f", str(folder / "short.key")]
    for command in (ed25519, sealed, short):
        subprocess.run(command, check=True)
    for load, name in (
        (pki.load_node_key, "node.key"),
        (pki.load_node_key, "rubbish.key"),
        (pki.load_node_key, "ed25519.key"),
        (pki.load_node_key, "sealed.key"),
        (pki.load_node_key, "short.key"),
        (pki.load_signing_key, "signing.key"),
        (pki.load_signing_key, "rubbish.key"),
        (pki.load_signing_key, "sealed.key"),
    ):
        with pytest.raises(SettingsError, match=f"^{name} .*restore it from a backup$") as refused:
            load(folder / name)
        assert "secret-folder" not in str(refused.value)


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
def test_modes_do_not_hang_on_the_umask(tmp_path: Path, mask: int) -> None:
    writing = (
        "import os, sys; from pathlib import Path; from fedward_common import pki; os.umask(int(sys.argv[1])); "
        "pki.write_private(Path('private'), b'a'); pki.write_public(Path('public'), b'b')"
    )
    subprocess.run([sys.executable, "-c", writing, str(mask)], cwd=tmp_path, check=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "public": 0o644}
    assert pki.read_private(tmp_path / "private") == b"a"


def test_a_private_file_is_not_replaced_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    pki.write_private(path, b"one")
    with pytest.raises(SettingsError, match=r"^signing\.key is there already and was left as it is"):
        pki.write_private(path, b"two")
    assert pki.read_private(path) == b"one"
    pki.write_private(path, b"three", replace=True)
    assert pki.read_private(path) == b"three"
    assert [file.name for file in tmp_path.iterdir()] == ["signing.key"]


def test_of_several_that_make_a_key_at_once_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    ready = threading.Barrier(8)
    won: list[bytes] = []

    def make(data: bytes) -> None:
        ready.wait(20)
        try:
            pki.write_private(path, data)
        except SettingsError:
            return
        won.append(data)

    threads = [threading.Thread(target=make, args=(bytes([number]),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert won == [pki.read_private(path)]
    assert [file.name for file in tmp_path.iterdir()] == ["signing.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    pki.write_private(path, pki.make_node_key())
    path.chmod(mode)
    for read in (pki.read_private, pki.load_node_key):
        with pytest.raises(SettingsError, match=r"^node\.key can be read by others: chmod 600 it$"):
            read(path)
    path.chmod(0o400)
    pki.load_node_key(path)


def test_what_is_no_private_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    pki.write_private(tmp_path / "long", b"x" * (pki.MAX_KEY_BYTES + 1))
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in {
        "nothing": "is missing",
        "folder": "cannot be read",
        "fifo": "is no file",
        "long": "is too long for a key",
        "loop": "cannot be read",
    }.items():
        with pytest.raises(SettingsError, match=f"^{name} {reason}"):
            pki.read_private(tmp_path / name)


def test_a_folder_that_takes_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^ca\.key cannot be written \(No such file or directory\)"):
        pki.write_private(tmp_path / "nothing" / "ca.key", b"")
    (tmp_path / "ca.pem").mkdir()
    with pytest.raises(SettingsError, match=r"^ca\.pem cannot be written \(Is a directory\)"):
        pki.write_public(tmp_path / "ca.pem", b"")
    assert [file.name for file in tmp_path.iterdir()] == ["ca.pem"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    writing = (
        "import resource; from pathlib import Path; from fedward_common import certificates, pki, errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try:\n    pki.write_private(Path('a.key'), b'x' * 100)\n"
        "except errors.SettingsError as error:\n    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", writing], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert result.stdout == "a.key cannot be written (File too large): put that right\n"
    assert list(tmp_path.iterdir()) == []
