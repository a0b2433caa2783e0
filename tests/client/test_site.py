"""A site's folder, its settings and its key."""

import multiprocessing
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fedward_client.intake.index import FILE as CATALOG
from fedward_client.ledger import FILE as LEDGER
from fedward_client.member import SIGNING_KEY
from fedward_client.site import Site, site_folders
from fedward_common.errors import SettingsError


def settings_error(folder: Path, text: str) -> str:
    (folder / "site.toml").write_text(text, "utf-8")
    with pytest.raises(SettingsError) as caught:
        Site.open(folder)
    return str(caught.value)


def test_a_folder_alone_is_a_site(site_folder: Callable[..., Path]) -> None:
    folder = site_folder({"A": "benign"}, name="Klinikum Süd (2)", keyed=False)
    site = Site.open(folder)
    assert site.name == "klinikum-sud-2"
    assert site.data == folder
    assert site.state == folder / ".fedward"
    assert site.min_cell == 5
    assert (site.labels.file, site.labels.patient, site.labels.label) == (folder / "labels.csv", "patient_id", "label")
    assert not site.state.exists(), "opening a site writes nothing"


def test_settings_change_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "table.csv").write_text("pid,dx\n")
    (tmp_path / "site.toml").write_text(
        '[site]\nname = "north"\nstate = "elsewhere"\n[data]\nfolder = "images"\n'
        '[labels]\nfile = "table.csv"\npatient = "pid"\nlabel = "dx"\n[privacy]\nmin_cell = 10\n'
    )
    site = Site.open(tmp_path)
    assert (site.name, site.data, site.state) == ("north", tmp_path / "images", tmp_path / "elsewhere")
    assert (site.labels.file, site.labels.patient, site.labels.label) == (tmp_path / "table.csv", "pid", "dx")
    assert site.min_cell == 10
    assert Site.open(tmp_path, state=tmp_path / "given").state == tmp_path / "given"


def test_a_site_without_labels_has_none(tmp_path: Path) -> None:
    assert Site.open(tmp_path).labels.file is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[privacy]\nmin_cel = 3\n", ["site.toml", "[privacy] min_cel", "min_cell"]),
        ("[private]\nmin_cell = 3\n", ["site.toml", "[private]", "[site], [data], [labels], [series]"]),
        ("name = 'x'\n", ["site.toml", "[name]"]),
        ('[privacy]\nmin_cell = "3"\n', ["site.toml", "[privacy] min_cell", "'3'"]),
        ("[privacy]\nmin_cell = 0\n", ["[privacy] min_cell", "greater than or equal to 1"]),
        ("[site]\nname = 'North'\n", ["a-z, 0-9", "[site] name", "'North'"]),
        ("[site]\nname = '-north'\n", ["[site] name"]),
        (f"[site]\nname = '{'n' * 64}'\n", ["[site] name"]),
        ("[site]\nname = 'a\\nb'\n", ["[site] name"]),
        ("[data]\nfolder = 'nowhere'\n", ["[data] folder", "exists"]),
        ("[labels]\nfile = 'nowhere.csv'\n", ["[labels] file", "exists"]),
        ("site = 3\n", ["site.toml", "[site]"]),
        ("[site\n", ["site.toml is not TOML", "line 1"]),
    ],
)
def test_wrong_settings_say_the_key_and_what_is_valid(tmp_path: Path, text: str, words: list[str]) -> None:
    message = settings_error(tmp_path, text)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_settings_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_bytes(b"[site]\nname = '\xff'\n")
    with pytest.raises(SettingsError, match="not UTF-8"):
        Site.open(tmp_path)


def test_a_folder_name_without_letters_needs_a_name(tmp_path: Path) -> None:
    (tmp_path / "()").mkdir()
    with pytest.raises(SettingsError, match=r"set \[site\] name"):
        Site.open(tmp_path / "()")


def test_a_long_folder_name_is_cut(tmp_path: Path) -> None:
    (tmp_path / f"{'a' * 62}  b").mkdir()
    assert Site.open(tmp_path / f"{'a' * 62}  b").name == "a" * 62


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        Site.open(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="is a file"):
        Site.open(tmp_path / "file")


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    key = Site.open(tmp_path).key
    path = tmp_path / ".fedward" / "site.key"
    assert len(key) == 32
    assert path.read_bytes() == key == Site.open(tmp_path).key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["site.key"], "no temporary file is left"


def test_two_sites_have_two_keys(tmp_path: Path) -> None:
    keys = {Site.open(tmp_path, state=tmp_path / name).key for name in ("one", "two")}
    assert len(keys) == 2


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_key_of_wrong_length_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ".fedward" / "site.key"
    path.parent.mkdir()
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="restore it from a backup"):
        Site.open(tmp_path).pseudonym("patient", "A")
    assert path.read_bytes() == content


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    _ = Site.open(tmp_path).key
    path = tmp_path / ".fedward" / "site.key"
    path.chmod(0o640)
    with pytest.raises(SettingsError, match=r"site\.key can be read by others: chmod 600 it"):
        _ = Site.open(tmp_path).key
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("left", [SIGNING_KEY, CATALOG, LEDGER])
def test_a_lost_key_is_never_made_anew(tmp_path: Path, left: str) -> None:
    path = tmp_path / ".fedward" / "site.key"
    path.parent.mkdir()
    (path.parent / left).touch()
    with pytest.raises(SettingsError, match=r"site\.key is missing: restore it from a backup"):
        _ = Site.open(tmp_path).key
    assert not path.exists()


def _key_of(folder: Path) -> bytes:
    return Site.open(folder).key


def test_processes_that_race_for_the_key_end_with_the_same(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        keys = pool.map(_key_of, [tmp_path] * 16, chunksize=1)
    assert len(set(keys)) == 1


def test_a_state_folder_that_cannot_be_made_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for state in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingsError, match=r"--state or \[site\] state"):
            _ = Site.open(tmp_path, state=state).key


def test_pseudonyms_are_stable_keyed_and_kept_apart_by_kind(tmp_path: Path) -> None:
    site, other = Site.open(tmp_path), Site.open(tmp_path, state=tmp_path / "other")
    name = site.pseudonym("patient", "A")
    assert name == Site.open(tmp_path).pseudonym("patient", "A")
    assert len(name) == 32
    assert int(name, 16)
    assert (
        len({name, other.pseudonym("patient", "A"), site.pseudonym("file", "A"), site.pseudonym("patient", "B")}) == 4
    )
    assert site.pseudonym("file", "a\udcff") != site.pseudonym("file", "a\udcfe"), "names need not be UTF-8"


def test_the_folders_of_a_folder_of_sites(tmp_path: Path) -> None:
    for name in ("south", "north", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    assert [folder.name for folder in site_folders(tmp_path)] == ["north", "south"]
    with pytest.raises(SettingsError, match="holds no hospital's folder"):
        site_folders(tmp_path / "north")
