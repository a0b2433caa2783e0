"""A hub as one sealed file, and the hub that comes of it."""

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedward_common import cli, pki
from fedward_common.audit import entries, verify
from fedward_common.errors import AuditError, SettingsError, UsageError
from fedward_common.sealing import Sealer, Unsealer
from fedward_server.backup import Manifest, backup, restore
from fedward_server.hub import Hub
from fedward_server.joining import Joining

WORDS, COST = "correct horse battery", 4


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    made = Hub.init(tmp_path / "hub", name="alliance", port=19094, address="hub.example:443", root=tmp_path / "root")
    made.renew_gateway()
    with made.store() as store:
        Joining(made, store).invite("north")
        store.start_run("run-1", "breast", "d" * 64, '{"study": {"id": "breast"}}', "deployment")
    run = made.runs / "run-1"
    (run / ".updates").mkdir(parents=True)
    for name in ("study.json", "events.jsonl", "round-3.json", "round-3.safetensors", "lock", ".updates/x"):
        (run / name).write_text(name)
    (run / "notes of the (second) try.txt").write_text("a person's own")
    (made.folder / "models").mkdir()
    (made.folder / "models" / "breast.safetensors").write_bytes(b"weights")
    (made.folder / "bulk").mkdir()
    (made.folder / "bulk" / "chunk").write_bytes(b"c")
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_hub_comes_back(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "hub.backup"
    assert backup(hub, path, WORDS, cost=COST) == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = files(hub.folder)
    again, made = restore(tmp_path / "new", path, WORDS)
    assert made.startswith("20")
    after = files(again.folder)
    assert again.settings == hub.settings
    same = {name for name in before if name.startswith(("keys/", "runs/", "models/", "hub."))}
    same -= {"keys/gateway.pem", "runs/run-1/lock", "runs/run-1/.updates/x"}
    assert {name: after.get(name) for name in same} == {name: before[name] for name in same}
    assert not [name for name in after if name.startswith(("bulk/", "flower/", "logs/", ".backup"))]
    assert not {"keys/gateway.pem", "runs/run-1/lock"} & set(after)
    with again.store() as store:
        assert [row.run for row in store.runs()] == ["run-1"]
        assert [row.site for row in Joining(again, store).register.invitations()] == ["north"]
    key = pki.load_signing_key(again.keys / "hub.key").public_key()
    verify(again.folder / "audit.jsonl", public_key=key)
    assert [entry.event for entry in entries(again.folder / "audit.jsonl")][-2:] == ["backed up", "restored"]
    assert stat.S_IMODE(again.folder.stat().st_mode) == 0o700
    assert again.issuing.current().certificate == hub.issuing.current().certificate
    assert not (again.folder / "root").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_is_there_stays(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "hub.backup"
    backup(hub, path, WORDS, cost=COST)
    with pytest.raises(UsageError, match="is there already"):
        backup(hub, path, WORDS, cost=COST)
    with pytest.raises(SettingsError, match="holds something else"):
        restore(hub.folder, path, WORDS)
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "empty", path, WORDS)
    assert list(hub.folder.glob(".backup-*")) == []


def test_a_log_that_was_changed_is_not_backed_up(hub: Hub, tmp_path: Path) -> None:
    log = hub.folder / "audit.jsonl"
    log.write_text(log.read_text().replace("north", "south"))
    with pytest.raises(AuditError):
        backup(hub, tmp_path / "hub.backup", WORDS, cost=COST)
    assert not (tmp_path / "hub.backup").exists()


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: data[:200], lambda data: data + b"x", bytes])
def test_a_file_that_is_not_whole_changes_nothing(hub: Hub, tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "hub.backup"
    backup(hub, path, WORDS, cost=COST)
    path.write_bytes(harm(path.read_bytes())[: -1 if harm is bytes else None])
    with pytest.raises(SettingsError):
        restore(tmp_path / "new", path, WORDS)
    assert not (tmp_path / "new").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_another_passphrase(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "hub.backup"
    backup(hub, path, WORDS, cost=COST)
    with pytest.raises(SettingsError, match="another passphrase"):
        restore(tmp_path / "new", path, WORDS + "!")


def repacked(path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    """Seal other members under the same words."""
    with path.open("rb") as file, tarfile.open(fileobj=Unsealer(file, WORDS), mode="r|") as tar:
        members = {info.name: content.read() for info in tar if (content := tar.extractfile(info)) is not None}
    with path.open("wb") as target:
        sealer = Sealer(target, WORDS, cost=COST)
        with tarfile.open(fileobj=sealer, mode="w|") as tar:
            for name, data in change(members).items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        sealer.finish()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: {**found, "../evil": b"x"}, "holds what no backup of a hub does"),
        (lambda found: {**found, "runs/../../evil": b"x"}, "holds what no backup of a hub does"),
        (lambda found: {**found, "runs/.hidden": b"x"}, "holds what no backup of a hub does"),
        (lambda found: {**found, "bulk/x": b"x"}, "holds what no backup of a hub does"),
        (lambda found: {k: v for k, v in found.items() if k != "keys/hub.key"}, "it lacks keys/hub.key"),
        (lambda found: {k: v for k, v in found.items() if k != "manifest.json"}, "where manifest.json should be"),
        (lambda found: {**found, "manifest.json": b"{}"}, "made by a newer Fedward"),
        (
            lambda found: {
                **found,
                "manifest.json": b'{"format":1,"fedward":"0.1","site":"north","made":"2027-01-31T00:00:00+00:00"}',
            },
            "it is the backup of a site: use `fedward site restore`",
        ),
        (lambda found: {**found, "store.sqlite": b"no database"}, "store.sqlite is damaged"),
        (lambda found: {**found, "hub.toml": b"[hub]\n"}, "name is missing"),
    ],
)
def test_what_is_no_backup_of_a_hub_is_refused(
    hub: Hub, tmp_path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], words: str
) -> None:
    path = tmp_path / "hub.backup"
    backup(hub, path, WORDS, cost=COST)
    repacked(path, change)
    with pytest.raises(SettingsError, match=words):
        restore(tmp_path / "new", path, WORDS)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "evil").exists()


def test_a_checkpoint_that_goes_meanwhile_is_looked_for_anew(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, link = hub.runs / "run-1", os.link
    done: list[Path] = []

    def next_round(source: Path, target: Path) -> None:
        if source.name == "round-3.safetensors" and not done:
            done.append(source)
            for name in ("round-4.json", "round-4.safetensors"):
                (run / name).write_text(name)
            for name in ("round-3.json", "round-3.safetensors"):
                (run / name).unlink()
        link(source, target)

    monkeypatch.setattr("os.link", next_round)
    backup(hub, tmp_path / "hub.backup", WORDS, cost=COST)
    monkeypatch.undo()
    again, _ = restore(tmp_path / "new", tmp_path / "hub.backup", WORDS)
    rounds = {path.name for path in (again.runs / "run-1").iterdir() if path.name.startswith("round")}
    assert rounds == {"round-4.json", "round-4.safetensors"}


def test_what_never_holds_still_is_no_backup(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(source: Path, target: Path) -> None:
        raise FileNotFoundError(source)

    monkeypatch.setattr("os.link", gone)
    with pytest.raises(SettingsError, match="changes faster than it can be copied"):
        backup(hub, tmp_path / "hub.backup", WORDS, cost=COST)
    assert not (tmp_path / "hub.backup").exists()


def test_on_the_command_line(hub: Hub, tmp_path: Path) -> None:
    words = tmp_path / "words"
    pki.write_private(words, WORDS.encode())
    path = tmp_path / "hub.backup"

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(cli.app, ["hub", *map(str, arguments), "--passphrase-file", str(words)])
        assert done.exit_code == 0, done.output
        assert WORDS not in done.output
        return done.stdout

    assert run("backup", hub.folder, path).startswith(f"Hub alliance is backed up: {path}, ")
    assert run("restore", tmp_path / "new", path).startswith("Hub alliance is as it was on 20")


def test_a_manifest_says_what_it_is() -> None:
    assert Manifest(fedward="0", hub="a", made="now").format == 1
