"""A hub's folder and its commands, as an operator meets them before anything runs: made, read, refused in words."""

import json
import os
import socket
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyotp
import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedward_common import certificates, cli, pki
from fedward_common.audit import entries, verify
from fedward_common.cards import HubCard, SiteCard
from fedward_common.errors import RunError, SettingsError, UsageError
from fedward_common.study import SiteEntry, StudySpec
from fedward_common.testing import tiny_study
from fedward_server.hub import Hub
from fedward_server.locks import held
from fedward_server.people import People
from fedward_server.remote import Remote
from fedward_server.runs import chosen, end_run
from fedward_server.store import SiteRow

FACED = '[hub]\nname = "a"\n[gateway]\naddress = "hub:1"\nlisten = "0.0.0.0:1"\n'
PORT = 19092  # nothing listens in these tests


def fedward(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def refusal(*arguments: str | Path) -> str:
    """The one sentence with which a command refuses."""
    done = fedward(*arguments)
    assert done.exit_code in (1, 2), done.stdout
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("fedward: ")
    return line.removeprefix("fedward: ")


def site_card(name: str, folder: Path, node_key: bytes | None = None, signing_key: bytes | None = None) -> SiteCard:
    folder.mkdir(parents=True, exist_ok=True)
    node, signing = folder / f"{name}.node", folder / f"{name}.signing"
    pki.write_private(node, node_key or pki.make_node_key())
    pki.write_private(signing, signing_key or pki.make_signing_key())
    line = pki.node_public_line(pki.load_node_key(node))
    return SiteCard.make(name, line, pki.load_signing_key(signing))


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub.init(tmp_path / "hub", name="alliance", port=PORT)


# The folder ----------------------------------------------------------------------------------------------------------


def test_a_hub_is_made_and_read_again(hub: Hub) -> None:
    assert Hub.open(hub.folder) == hub
    assert (hub.name, hub.port) == ("alliance", PORT)
    assert stat.S_IMODE(hub.folder.stat().st_mode) == 0o700
    private = {path.name for path in hub.keys.iterdir() if stat.S_IMODE(path.stat().st_mode) == 0o600}
    assert private == {"ca.key", "server.key", "hub.key"}
    card = HubCard.read(hub.card)
    assert (card.hub, card.address) == ("alliance", f"127.0.0.1:{PORT}")
    assert card.ca.encode() == hub.tls.authority.read_bytes()
    assert [entry.event for entry in entries(hub.folder / "audit.jsonl")] == ["begun"]
    assert verify(hub.folder / "audit.jsonl").data["public_key"] == card.signing_key
    with hub.store() as store:
        assert store.sites() == {}


def test_a_hub_is_named_after_its_folder(tmp_path: Path) -> None:
    assert Hub.init(tmp_path / "Nördliche Allianz", port=PORT).name == "nordliche-allianz"


def test_folders_that_can_be_no_hub(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    (tmp_path / "file").touch()
    for folder, words in (
        (hub.folder, "is a hub already"),
        (tmp_path / "full", "holds something else"),
        (tmp_path / "file", "no hub can be made in"),
    ):
        with pytest.raises(SettingsError, match=words):
            Hub.init(folder, port=PORT)
    (tmp_path / "empty").mkdir()
    assert Hub.init(tmp_path / "empty", port=PORT).name == "empty"
    with pytest.raises(SettingsError, match=r"full is no hub: make one there with `fedward hub init"):
        Hub.open(tmp_path / "full")


def test_a_hub_that_could_not_be_made_does_not_stand_in_the_way(tmp_path: Path) -> None:
    taken, folder = tmp_path / "taken", tmp_path / "hub"
    taken.mkdir()
    (taken / "root.key").write_text("another hub's")
    init = ("hub", "init", folder, "--port", str(PORT), "--address", "hub.example:8443")
    for root, words in (
        (taken, f"{taken} holds the key of a root already: name another folder with --root"),
        (Path("/proc/x"), "the root's key cannot be put into /proc/x (No such file or directory): name another"),
        (Path("/sys/kernel"), "root.key cannot be written"),
    ):
        assert refusal(*init, "--root", root).startswith(words)
    assert (taken / "root.key").read_text() == "another hub's"
    assert fedward(*init, "--root", tmp_path / "root").exit_code == 0


@pytest.mark.parametrize("name", ["store.sqlite", "audit.jsonl"])
def test_what_is_lost_is_not_begun_anew(hub: Hub, tmp_path: Path, name: str) -> None:
    card = tmp_path / "north.card.json"
    site_card("north", tmp_path).write(card)
    for path in hub.folder.glob(f"{name}*"):
        path.unlink()
    for arguments in (("up", hub.folder), ("up", hub.folder, "--detach"), ("enrol", hub.folder, card)):
        assert refusal("hub", *arguments).startswith(f"{name} is missing: restore it from a backup")
        assert not (hub.folder / name).exists()
    if name == "store.sqlite":
        assert refusal("hub", "status", hub.folder) == "store.sqlite is missing: restore it from a backup"


def test_a_log_without_a_backup_is_begun_anew_by_hand(hub: Hub) -> None:
    hub.audit_file.unlink()
    hub.audit_file.touch()
    assert hub.audit().append("person added", {"person": "ada"}).n == 2


@pytest.mark.parametrize(
    ("name", "mode", "words"),
    [
        ("", 0o755, "others can enter 'hub' (mode 0755): chmod 700 it"),
        ("keys", 0o750, "others can enter 'keys' (mode 0750): chmod 700 it"),
        ("keys/hub.key", 0o644, "hub.key can be read by others: chmod 600 it"),
        ("pages.key", 0o644, "everybody can read what [dashboard] key of hub.toml names: chmod 640 it"),
    ],
)
def test_what_others_can_read_does_not_come_up(tmp_path: Path, name: str, mode: int, words: str) -> None:
    hub = Hub.init(tmp_path / "hub", port=PORT, address="hub:1", dashboard="hub:2")
    (hub.folder / "pages.key").touch(mode=0o640)
    with (hub.folder / "hub.toml").open("a") as settings:
        settings.write('certificate = "../pages.pem"\nkey = "../pages.key"\n')
    (hub.folder / name).chmod(mode)
    assert refusal("hub", "up", hub.folder).startswith(words)


def test_a_hub_without_its_keys_is_told_so(hub: Hub, tmp_path: Path) -> None:
    hub.keys.rename(tmp_path / "keys")
    assert refusal("hub", "up", hub.folder) == "keys is missing: restore it from a backup"


def test_lost_logs_are_begun_anew(hub: Hub) -> None:
    hub.logs.rmdir()
    with socket.create_server(("127.0.0.1", hub.port)):  # so that it does not come up
        for detach in ((), ("--detach",)):
            assert "cannot be used" in refusal("hub", "up", hub.folder, *detach)
            assert stat.S_IMODE(hub.logs.stat().st_mode) == 0o700
            (hub.logs / "hub.log").unlink()
            hub.logs.rmdir()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[hub]\nname = "a"\nhost = "0.0.0.0"\n', "may listen on loopback only: the gateway faces the hospitals"),
        ('[hub]\nname = "a"\nhost = "hub.example.org"\n', "may listen on loopback only"),
        ('[hub]\nname = "a"\ncolour = "red"\n', r"\[hub\] colour is not a setting; \[hub\] takes name, host, port"),
        ('[hub]\nname = "a"\n[web]\n', r"\[web\] is not a setting; known are \[hub\], \[gateway\], \[dashboard\]"),
        (
            '[hub]\nname = "a"\n[gateway]\naddress = "hub"\nlisten = "0.0.0.0:1"\n',
            r"\[gateway\] address: give HOST:PORT, for example hub.example:8443, not 'hub'",
        ),
        (
            '[hub]\nname = "a"\n[gateway]\naddress = "hub:99999"\nlisten = "0.0.0.0:1"\n',
            r"\[gateway\] address: its port is no number from 1 to 65535, not 'hub:99999'",
        ),
        ('[hub]\nname = "a"\n[gateway]\naddress = "hub:1"\n', r"\[gateway\] listen is missing"),
        (
            '[hub]\nname = "a"\n[gateway]\naddress = "hub:1"\nlisten = "0.0.0.0:1"\nport = 1\n',
            r"\[gateway\] port is not a setting; \[gateway\] takes address, listen, certificate_days",
        ),
        (
            '[hub]\nname = "a"\nport = 1\n[gateway]\naddress = "hub:9"\nlisten = "0.0.0.0:1"\n',
            r"\[hub\] port and the gateway's are both 1: choose another",
        ),
        ('[hub]\nname = "A B"\n', r"\[hub\] name is 1 to 63 of a-z"),
        ('[hub]\nname = "a"\nport = 0\n', r"\[hub\] port: .*greater than or equal to 1, not 0"),
        ('[hub]\nname = "a"\nport = "9"\n', r"\[hub\] port: .*valid integer, not '9'"),
        (
            '[hub]\nname = "a"\n[dashboard]\naddress = "hub:2"\nlisten = "0.0.0.0:2"\n',
            r"\[dashboard\] needs a \[gateway\]",
        ),
        (
            f'{FACED}[dashboard]\naddress = "hub:1"\nlisten = "0.0.0.0:1"\n',
            r"\[dashboard\] listen has a port that the hub uses already",
        ),
        (
            f'{FACED}[dashboard]\naddress = "hub:2"\nlisten = "0.0.0.0:2"\nkey = "k"\n',
            r"\[dashboard\] certificate and key come together",
        ),
        (
            '[hub]\nname = "a"\n[metrics]\nlisten = "127.0.0.1:9464"\n',
            r"\[metrics\] needs a \[gateway\]: the process behind it tells them",
        ),
        (
            f'{FACED}[metrics]\nlisten = "0.0.0.0:9464"\n',
            r'\[metrics\] listen is 0.0.0.0:9464, but metrics .* loopback only.* set listen = "127.0.0.1:9464"',
        ),
        (f'{FACED}[metrics]\nlisten = "hub.example:9464"\n', r"\[metrics\] listen is hub.example:9464, but"),
        (f'{FACED}[metrics]\nlisten = "[::]:9464"\n', r"\[metrics\] listen is \[::\]:9464, but"),
        (f'{FACED}[metrics]\nlisten = "127.0.0.1:9092"\n', r"\[metrics\] listen has a port that the hub uses already"),
        ('[hub]\nname = "a"\n[log]\nformat = "xml"\n', r"\[log\] format: .*'text' or 'json', not 'xml'"),
        ("[hub]\n", r"\[hub\] name is missing"),
        ("", r"\[hub\] is missing"),
        ("[hub\n", "is not TOML"),
    ],
)
def test_settings_that_are_wrong(hub: Hub, text: str, words: str) -> None:
    (hub.folder / "hub.toml").write_text(text)
    with pytest.raises(SettingsError, match=f"hub.toml:? .*{words}|hub.toml {words}"):
        Hub.open(hub.folder)


@pytest.mark.parametrize("listen", ["127.0.0.1:9464", "localhost:9464", "[::1]:9464", "127.0.0.53:9464"])
def test_metrics_are_told_on_loopback(hub: Hub, listen: str) -> None:
    (hub.folder / "hub.toml").write_text(f'{FACED}[metrics]\nlisten = "{listen}"\n[log]\nformat = "json"\n')
    settings = Hub.open(hub.folder).settings
    assert settings.metrics is not None
    assert (settings.metrics.listen, settings.log.format) == (listen, "json")


def test_settings_that_are_no_text(hub: Hub) -> None:
    (hub.folder / "hub.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="UTF-8"):
        Hub.open(hub.folder)
    (hub.folder / "hub.toml").unlink()
    (hub.folder / "hub.toml").mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        Hub.open(hub.folder)


def test_a_certificate_that_ends_soon_is_renewed_by_the_same_authority(hub: Hub) -> None:
    assert not hub.renew_certificate()
    authority = certificates.load_authority(pki.read_private(hub.keys / "ca.key"), hub.tls.authority.read_bytes())
    for starts in (datetime.now(UTC) - timedelta(days=1000), datetime.now(UTC) - timedelta(days=800)):
        key, certificate = certificates.issue_server(authority, ["127.0.0.1"], days=825, starts=starts)
        pki.write_private(hub.tls.key, key, replace=True)
        pki.write_public(hub.tls.certificate, certificate)
        assert hub.renew_certificate()
        assert hub.certificate_ends() > datetime.now(UTC) + timedelta(days=700)
    hub.tls.certificate.unlink()  # as a crash in the midst of it leaves it
    assert hub.renew_certificate()
    assert HubCard.read(hub.card).ca.encode() == hub.tls.authority.read_bytes()


def test_another_port_is_another_card(hub: Hub) -> None:
    assert not hub.renew_card()
    (hub.folder / "hub.toml").write_text(f'[hub]\nname = "alliance"\nport = {PORT + 1}\n')
    moved = Hub.open(hub.folder)
    assert moved.renew_card()
    card = HubCard.read(moved.card)
    assert card.address == f"127.0.0.1:{PORT + 1}"
    assert card.fingerprint == HubCard.read(hub.card).fingerprint


# Sites ---------------------------------------------------------------------------------------------------------------


def test_a_site_is_enrolled_once_and_forgotten(hub: Hub, tmp_path: Path) -> None:
    card = site_card("north", tmp_path)
    row = hub.enrol(card)
    assert hub.enrol(card) == row
    with hub.store() as store:
        assert store.sites() == {"north": row}
        store.set_node("north", "17")
        assert store.sites()["north"].node_id == "17"
    assert (row.fingerprint, row.node_key, row.node_id) == (card.fingerprint, card.node_key, None)
    hub.forget("north")
    with pytest.raises(UsageError, match="north is not enrolled at this hub; enrolled are: none yet"):
        hub.forget("north")
    told = [(entry.event, entry.data["fingerprint"]) for entry in list(entries(hub.folder / "audit.jsonl"))[1:]]
    assert told == [("site enrolled", card.fingerprint), ("site forgotten", card.fingerprint)]


def test_a_name_or_a_key_is_one_sites(hub: Hub, tmp_path: Path) -> None:
    node, signing = pki.make_node_key(), pki.make_signing_key()
    hub.enrol(site_card("north", tmp_path / "a", node, signing))
    with pytest.raises(SettingsError, match=r"north is enrolled with other keys .fingerprint [0-9a-f]{64}.*forget"):
        hub.enrol(site_card("north", tmp_path / "b"))
    for folder, keys in (("c", (node, None)), ("d", (None, signing))):
        with pytest.raises(SettingsError, match="the card of west holds a key of north"):
            hub.enrol(site_card("west", tmp_path / folder, *keys))


# Which sites a run has -----------------------------------------------------------------------------------------------


def enrolled(*names: str) -> dict[str, SiteRow]:
    return {
        name: SiteRow(site=name, fingerprint=f"{n:x}" * 64, node_key=f"k{n}", signing_key=f"s{n}", added="2027-01-01")
        for n, name in enumerate(names, 1)
    }


def with_sites(*entries: SiteEntry, **sections: dict[str, object]) -> StudySpec:
    return tiny_study(**sections).model_copy(update={"sites": entries})


def test_a_roster_is_the_studys_own_or_the_operators_choice_or_everybody() -> None:
    sites = enrolled("north", "valley", "west")
    assert [entry.name for entry in chosen(tiny_study(), sites, ())] == ["north", "valley", "west"]
    assert [entry.name for entry in chosen(tiny_study(), sites, ("west", "north", "west"))] == ["west", "north"]
    study = with_sites(SiteEntry(name="north"), SiteEntry(name="west", role="evaluate"))
    assert [(entry.name, entry.role) for entry in chosen(study, sites, ())] == [
        ("north", "train"),
        ("west", "evaluate"),
    ]
    assert [entry.fingerprint for entry in chosen(study, sites, ("north",))] == ["1" * 64]


@pytest.mark.parametrize(
    ("study", "names", "words"),
    [
        (tiny_study(), ("south",), "south is not enrolled at this hub; enrolled are: north, valley"),
        (with_sites(SiteEntry(name="south")), (), "south is not enrolled at this hub"),
        (
            with_sites(SiteEntry(name="north")),
            ("valley",),
            r"valley is not in the study's \[\[sites\]\], which are north",
        ),
        (
            with_sites(SiteEntry(name="north", fingerprint="9" * 64)),
            (),
            "names north with fingerprint 9999999999999999…",
        ),
        (tiny_study(strategy={"min_sites": 3}), (), "at least 3 sites that train, and 2 would"),
        (tiny_study(strategy={"min_sites": 2}), ("north",), "at least 2 sites that train, and 1 would"),
        (with_sites(SiteEntry(name="north", role="evaluate")), (), "at least 1 sites that train, and 0 would"),
        (tiny_study(split={"kind": "leave-site-out", "site": "north"}), ("north",), "and 0 would"),
    ],
)
def test_rosters_that_cannot_be(study: StudySpec, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        chosen(study, enrolled("north", "valley"), names)


def test_a_hub_without_sites_has_no_roster() -> None:
    with pytest.raises(
        UsageError, match="no site is enrolled at this hub: let one in first, with `fedward hub invite`"
    ):
        chosen(tiny_study(), {}, ())


# Commands ------------------------------------------------------------------------------------------------------------


def test_init_card_enrol_and_status_say_what_people_need(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    made = fedward("hub", "init", folder, "--name", "alliance", "--port", str(PORT))
    assert made.exit_code == 0, made.stderr
    fingerprint = HubCard.read(folder / "hub.json").fingerprint
    assert str(folder / "hub.json") in made.stdout
    assert pki.grouped(fingerprint) in made.stderr
    shown = fedward("hub", "card", folder)
    assert shown.stdout.strip() == str(folder / "hub.json")
    card = site_card("north", tmp_path / "north")
    card.write(tmp_path / "north.card.json")
    enrolled_now = fedward("hub", "enrol", folder, tmp_path / "north.card.json")
    assert pki.grouped(card.fingerprint) in enrolled_now.stdout
    assert "telephone" in enrolled_now.stderr
    found = json.loads(fedward("hub", "status", folder, "--json").stdout)
    assert (found["hub"], found["up"], found["runs"]) == ("alliance", False, [])
    assert [(site["name"], site["connection"]) for site in found["sites"]] == [("north", "unknown")]
    table = fedward("hub", "status", folder)
    assert "not up" in table.stdout
    assert "north" in table.stdout
    with Hub.open(folder).store() as store:
        People(store).add("sten", "steward", "correct horse battery", site="north")
    assert fedward("hub", "forget", folder, "north").stdout.splitlines() == [
        "north is forgotten.",
        "Its stewards were removed from the people with it: sten.",
    ]


def test_commands_refuse_in_one_sentence(hub: Hub, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text("[study]\nid = 'x'\nnope = 1\n")
    card = site_card("north", tmp_path / "north")
    card.write(tmp_path / "card.json")
    forged = json.loads((tmp_path / "card.json").read_text()) | {"site": "south"}
    (tmp_path / "forged.json").write_text(json.dumps(forged))
    elsewhere = "which works on the hub's own machine: give its folder"
    up = f"the hub is not up: start it with `fedward hub up {hub.folder}`"
    hub.enrol(card)
    for arguments, words in (
        (("hub", "status", tmp_path), "is no hub: make one there"),
        (("hub", "up", tmp_path / "nowhere"), "is no hub: make one there"),
        (("hub", "down", hub.folder), "the hub is not up"),
        (("hub", "log", hub.folder), "the hub has not been up yet"),
        (("hub", "init", hub.folder), "is a hub already"),
        (("hub", "init", tmp_path / "new", "--name", "A B"), "name is 1 to 63"),
        (("hub", "init", tmp_path / "new", "--address", "hub.example"), "give HOST:PORT, for example hub.example:8443"),
        (("hub", "init", tmp_path / "new", "--address", "https://hub.example:8443"), "address: give HOST:PORT"),
        (("hub", "init", tmp_path / "new", "--address", "0.0.0.0:8443"), "nobody can connect to an address"),
        (("hub", "init", tmp_path / "new", "--address", "[0::0]:8443"), "nobody can connect to an address"),
        (("hub", "invite", "https://hub:8444", "north"), elsewhere),
        (("study", "stats", "breast-ultrasound", "--hub", "https://hub:8444"), elsewhere),
        (("model", "list", "--hub", "https://hub:8444"), elsewhere),
        (("model", "remove", "heart", "--hub", "https://hub:8444"), elsewhere),
        (("hub", "enrol", hub.folder, tmp_path / "forged.json"), "was changed after it was made, or is forged"),
        (("hub", "enrol", hub.folder, study), "is no site's card"),
        (("hub", "forget", hub.folder, "south"), "south is not enrolled at this hub; enrolled are: north"),
        (("study", "start", "breast-ultrasound", "--hub", hub.folder), up),
        (("study", "stop", "run-9", "--hub", hub.folder), "run run-9 is not known here"),
        (("study", "resume", "run-9", "--hub", hub.folder), "run run-9 is not known here"),
        (("study", "status", "run-9", "--hub", hub.folder), "run run-9 is not known here"),
        (
            ("study", "status", "--follow", "--hub", hub.folder),
            f"--follow needs a RUN: `fedward study status --hub {hub.folder}`",
        ),
    ):
        assert words in refusal(*arguments)
    done = fedward("study", "start", study, "--hub", hub.folder)
    assert done.exit_code == 1
    assert "nope" in done.stderr
    assert not (tmp_path / "new").exists() or not any((tmp_path / "new").iterdir())


def test_who_logs_in_is_asked_nothing_where_the_address_or_the_root_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("a letter")
    for address in ("http://hub:8444", "hub:8444", "https://hub:eight", "hub"):
        assert "is no address of a hub's dashboard, which is https://HOST:PORT" in refusal(
            "hub", "login", address, "--name", "ivy"
        )
    for name, words in (("nope.pem", "nope.pem cannot be read (No such file"), ("text.pem", "holds no certificate")):
        assert words in refusal("hub", "login", "https://hub:8444", "--name", "ivy", "--authority", tmp_path / name)


def test_a_certificate_for_another_name_is_not_one_of_another_authority(tmp_path: Path) -> None:
    authority = certificates.make_authority("alliance")
    (tmp_path / "root.pem").write_bytes(certificates.pem(authority.certificate))
    (tmp_path / "own.pem").write_bytes(b"".join(certificates.issue_server(authority, ["hub.example"])))
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(tmp_path / "own.pem")
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        for authority_pem, words in (
            ((tmp_path / "root.pem").read_text(), "is for another name: use the address"),
            ("", "name the hub's root with --authority"),
        ):
            met = pool.submit(lambda: trust.wrap_socket(server.accept()[0], server_side=True))
            with pytest.raises(RunError, match=words):
                Remote.log_in(url, "ivy", "correct horse battery", "000000", authority_pem)
            assert isinstance(met.exception(), ssl.SSLError)


def test_who_is_locked_out_is_let_try_again(hub: Hub) -> None:
    with hub.store() as store:
        people = People(store)
        secret = people.add("ada", "operator", "correct horse battery")
        for _ in range(5):
            assert people.log_in("ada", "guess guess guess", "", "") is None
        assert fedward("hub", "people", "unlock", hub.folder, "ada").exit_code == 0
        assert people.log_in("ada", "correct horse battery", pyotp.TOTP(secret).now(), "") is not None
    assert "there is no person 'eve'" in refusal("hub", "people", "unlock", hub.folder, "eve")
    last = list(entries(hub.audit_file))[-1]
    assert (last.event, last.data) == ("person unlocked", {"person": "ada"})


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        hub = Hub.init(tmp_path / "hub", port=port)
        for detach in ((), ("--detach",)):
            words = refusal("hub", "up", hub.folder, *detach)
            assert words.startswith(f"port {port} of 127.0.0.1 cannot be used (Address already in use)")
    assert "cannot be used" in fedward("hub", "log", hub.folder).stdout


def test_a_hub_that_is_up_is_not_started_again(hub: Hub) -> None:
    with held(hub.lock):
        for detach in ((), ("--detach",)):
            assert fedward("hub", "up", hub.folder, *detach).exit_code == 2
            words = refusal("hub", "up", hub.folder, *detach)
            assert (
                words == f"the hub is up already (process {os.getpid()}): stop it with `fedward hub down {hub.folder}`"
            )
        assert hub.pid() == os.getpid()
    assert hub.pid() is None


def test_runs_are_listed_and_only_what_can_go_on_is_resumed(hub: Hub) -> None:
    study = tiny_study().model_copy(update={"sites": (SiteEntry(name="north"),)})
    with hub.store() as store:
        for run in ("run-1", "run-2", "run-3"):
            store.start_run(run, "tiny", study.digest, study.canonical_json().decode(), "deployment")
            (hub.runs / run).mkdir()
        store.finish_run("run-1", "finished", "e" * 64)
        end_run(hub, store, "run-2", "failed", "too few sites")
    found = json.loads(fedward("study", "status", "--hub", hub.folder, "--json").stdout)
    assert [(run["run"], run["status"], run["reason"]) for run in found] == [
        ("run-1", "finished", None),
        ("run-2", "failed", "too few sites"),
        ("run-3", "running", None),
    ]
    one = json.loads(fedward("study", "status", "run-2", "--hub", hub.folder, "--json").stdout)
    assert (one["status"], one["rounds"], one["history"]) == ("failed", 2, [])
    assert "too few sites" in fedward("study", "status", "run-2", "--hub", hub.folder).stdout
    assert refusal("study", "resume", "run-1", "--hub", hub.folder) == "run run-1 has finished: start a new run"
    assert f"follow it with `fedward study status run-3 --hub {hub.folder} --follow`" in refusal(
        "study", "resume", "run-3", "--hub", hub.folder
    )
    assert "the hub is not up" in refusal("study", "resume", "run-2", "--hub", hub.folder)
    assert "run run-1 is not running: it has finished" in refusal("study", "stop", "run-1", "--hub", hub.folder)
    assert "it failed (too few sites)" in refusal("study", "stop", "run-2", "--hub", hub.folder)
    assert fedward("study", "pause", "run-3", "--hub", hub.folder).exit_code == 0
    assert f"`fedward study resume run-3 --hub {hub.folder}` lets it go on" in refusal(
        "study", "pause", "run-3", "--hub", hub.folder
    )
    for command in (("study", "status"), ("study", "status", "run-3"), ("hub", "status")):
        place = ("--hub", hub.folder) if command[0] == "study" else (hub.folder,)
        shown = fedward(*command, *place).stdout
        assert "paused" in shown
        assert "running" not in shown
    assert "the hub is not up any more" in refusal("study", "status", "run-3", "--follow", "--hub", hub.folder)
    failed = [entry.data for entry in entries(hub.folder / "audit.jsonl", event="run failed")]
    assert failed == [{"run": "run-2", "study": study.digest, "reason": "too few sites"}]


def test_a_study_that_has_ended_does_not_start(hub: Hub, tmp_path: Path) -> None:
    hub.enrol(site_card("north", tmp_path))
    ended = tmp_path / "ended.toml"
    text = fedward("study", "show", "breast-ultrasound", "--toml").stdout
    ended.write_text(text.replace("[study]\n", "[study]\nends = 2020-01-31\n"))
    assert "the study ended on 2020-01-31" in refusal("study", "start", ended, "--hub", hub.folder)
