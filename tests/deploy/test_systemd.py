"""The systemd units ask for the walls that the code tries when a process starts, and for the paths that it has."""

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedward_client.daemon import executor_walls, monitor_walls, supernode_walls
from fedward_client.ledger import FILE as LEDGER
from fedward_client.member import AUDIT, SIGNING_KEY, private_paths
from fedward_client.receiver.inbox import RECEIVED
from fedward_client.site import KEY, Site
from fedward_common import cli

UNITS = Path(__file__).parents[2] / "deploy/systemd"
STATES = Path("/var/lib/fedward")
PROGRAM = "/opt/fedward/bin/fedward"
NAME = "north"

EXECUTOR, SUPERNODE, HUB = "fedward-executor@.service", "fedward-supernode@.service", "fedward-hub@.service"
RECEIVER, MONITOR = "fedward-receiver@.service", "fedward-metrics@.service"
SIDES = [EXECUTOR, SUPERNODE, RECEIVER, MONITOR]
ALL = [*SIDES, HUB]

Unit = dict[str, list[str]]  # by key, the words of all its lines


def read(name: str) -> Unit:
    """A unit's settings. Keys stand in one section only, so sections do not matter."""
    found: Unit = {}
    for line in (UNITS / name).read_text("utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).extend(value.split())
    return found


def paths(unit: Unit, key: str) -> set[Path]:
    """The paths of a setting, for the site `NAME`; options behind a colon and a leading minus are left out."""
    words = (word.removeprefix("-").partition(":")[0].replace("%i", NAME) for word in unit.get(key, ()))
    return {Path(word) for word in words}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A hospital's folder whose state, images and labels are all in places of their own."""
    folder, images = tmp_path / "hospital", tmp_path / "images"
    folder.mkdir()
    images.mkdir()
    (tmp_path / "table.csv").write_text("patient_id,label\n")
    (folder / "site.toml").write_text(
        f'[site]\nname = "{NAME}"\nstate = "{STATES / NAME}"\n[data]\nfolder = "{images}"\n'
        f'[labels]\nfile = "{tmp_path / "table.csv"}"\n'
    )
    return Site.open(folder)


# What `isolation.missing` tries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIDES)
def test_a_side_has_no_rights_and_gets_none(name: str) -> None:
    unit = read(name)
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == []
    assert unit["User"] not in (["root"], [])


@pytest.mark.parametrize("name", [EXECUTOR, MONITOR])
def test_it_has_no_network_and_no_way_to_a_socket_of_one(name: str) -> None:
    unit = read(name)
    assert unit["PrivateNetwork"] == ["yes"]
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX"]  # vsock has no namespace
    assert "io_uring_setup" in unit["SystemCallFilter"]  # its sockets pass the filter
    assert unit["SystemCallFilter"][0].startswith("~")
    assert unit["SystemCallArchitectures"] == ["native"]


def test_the_network_side_has_a_network() -> None:
    unit = read(SUPERNODE)
    assert "PrivateNetwork" not in unit
    assert set(unit["RestrictAddressFamilies"]) == {"AF_UNIX", "AF_INET", "AF_INET6"}


def test_the_data_side_does_not_see_what_its_walls_hide(site: Site) -> None:
    walls = executor_walls(site)
    assert not walls.network
    assert set(walls.hidden) == paths(read(EXECUTOR), "InaccessiblePaths")


def test_the_network_side_sees_of_the_state_what_its_walls_keep(site: Site) -> None:
    walls, unit = supernode_walls(site.link, site.spool, private_paths(site)), read(SUPERNODE)
    assert set(walls.kept) == paths(unit, "BindPaths")
    covers = paths(unit, "TemporaryFileSystem")
    assert STATES in covers
    hidden_by_hand = set(walls.hidden) - {site.state}
    assert hidden_by_hand == {site.folder, site.data, site.labels.file}  # what the text of hospital.conf names
    assert not {path for path in hidden_by_hand if any(path.is_relative_to(cover) for cover in covers)}


@pytest.mark.parametrize("name", SIDES)
def test_covers_are_read_only(name: str) -> None:
    covers = read(name)["TemporaryFileSystem"]
    assert [cover for cover in covers if not cover.startswith("/dev/shm:") and not cover.endswith(":ro")] == []


def test_the_network_side_cannot_write_to_the_program(site: Site) -> None:
    assert supernode_walls(site.link, site.spool, private_paths(site)).read_only
    unit = read(SUPERNODE)
    assert unit["ProtectSystem"] == ["strict"]
    assert "ReadWritePaths" not in unit


# What it does not try ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIDES)
def test_one_side_cannot_look_into_the_other_of_the_same_user(name: str) -> None:
    assert read(name)["PrivateUsers"] == ["yes"]
    assert read(name)["User"] == read(EXECUTOR)["User"]  # work.sock lets in its own user only


@pytest.mark.parametrize("name", SIDES)
def test_services_shared_memory_and_dumps_are_no_way_out(name: str) -> None:
    unit = read(name)
    assert {Path("/run"), Path("/dev/shm")} <= paths(unit, "TemporaryFileSystem")
    assert unit["PrivateTmp"] == unit["PrivateIPC"] == ["yes"]
    assert unit["LimitCORE"] == ["0"]


def test_the_data_side_writes_to_its_state_only(site: Site) -> None:
    unit = read(EXECUTOR)
    assert unit["ProtectSystem"] == ["strict"]
    assert paths(unit, "ReadWritePaths") == {site.state}


def test_the_monitor_writes_to_the_folder_of_metrics_only() -> None:
    walls, unit = monitor_walls(Path("/var/lib/fedward-metrics")), read(MONITOR)
    assert (walls.network, walls.hidden, walls.read_only) == (False, (), True)
    assert unit["ProtectSystem"] == ["strict"]
    assert paths(unit, "ReadWritePaths") == set(walls.kept)
    [made] = [line.split() for line in lines("tmpfiles.conf") if "metrics" in line]
    assert made == ["d", "/var/lib/fedward-metrics", "0755", "fedward", "fedward"]  # node_exporter reads there


def test_the_receiver_sees_nothing_of_the_hub_and_reaches_who_is_named_only(site: Site) -> None:
    unit, drop_in = read(RECEIVER), lines("archive.conf")
    hidden = paths(unit, "InaccessiblePaths")
    federation = {site.link, site.spool, *(site.state / name for name in (SIGNING_KEY, LEDGER, AUDIT))}
    assert federation <= hidden
    assert site.state / KEY not in hidden, "the pseudonyms hang on it"
    assert (unit["IPAddressDeny"], unit["IPAddressAllow"]) == (["any"], ["localhost"])
    assert unit["ProtectSystem"] == ["strict"]
    assert paths(unit, "ReadWritePaths") == {site.state}
    assert f"ReadWritePaths=/srv/hospital/{RECEIVED}" in drop_in


def test_the_hub_speaks_to_loopback_only_and_writes_to_its_folder_only() -> None:
    unit = read(HUB)
    assert (unit["IPAddressDeny"], unit["IPAddressAllow"]) == (["any"], ["localhost"])
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["ReadWritePaths"] == [unit["ExecStart"][-1]]


def test_a_hub_with_a_gateway_may_speak_to_hospitals_and_bind_its_port() -> None:
    drop_in = lines("gateway.conf")
    assert drop_in[0] == "[Service]"
    assert {"IPAddressDeny=", "IPAddressAllow="} <= set(drop_in)  # the unit's own are taken away
    rights = {
        line.partition("=")[0]: line.partition("=")[2] for line in drop_in if "Capab" in line or "Ambient" in line
    }
    assert set(rights.values()) == {"CAP_NET_BIND_SERVICE"}
    assert set(rights) == {"CapabilityBoundingSet", "AmbientCapabilities"}


# What they are made of -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_command_exists_and_takes_one_folder(name: str) -> None:
    program, *words, folder = read(name)["ExecStart"]
    assert program == PROGRAM
    assert folder.startswith(("/", "$"))
    result = CliRunner().invoke(cli.app, [*words, "--help"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", ALL)
def test_its_user_and_its_folder_are_made(name: str) -> None:
    [user] = read(name)["User"]
    users = [line.split()[1] for line in lines("sysusers.conf")]
    made = {(fields[3], fields[1]): fields[2] for fields in map(str.split, lines("tmpfiles.conf"))}
    assert user in users
    assert made[user, f"/var/lib/{user}"] == "0700"


def lines(name: str) -> list[str]:
    return [line for line in (UNITS / name).read_text("utf-8").splitlines() if line and not line.startswith("#")]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_every_line(tmp_path: Path) -> None:
    units = []
    for name in ALL:
        text = (UNITS / name).read_text("utf-8").replace(PROGRAM, "/bin/true")  # it looks whether the program is there
        units.append(tmp_path / name.replace("@", f"@{NAME}"))
        units[-1].write_text(text, "utf-8")
    for name, drop_in in ((SUPERNODE, "hospital.conf"), (RECEIVER, "archive.conf"), (HUB, "gateway.conf")):
        folder = tmp_path / f"{units[ALL.index(name)].name}.d"
        folder.mkdir()
        shutil.copy(UNITS / drop_in, folder)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
