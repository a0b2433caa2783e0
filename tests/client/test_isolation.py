"""Walls that hold: real processes in real namespaces, and what they try to get out."""

import ctypes
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import fedward_client
import fedward_common
from fedward_client.isolation import Walls, behind, impossible, missing, reopened
from fedward_common.errors import SettingsError

FIRST_USER_NAMESPACE = 0xEFFFFFFD  # <linux/proc_ns.h>
PATIENT = "Doe^Jane"
NOBODY = 65534
PACKAGES = [Path(file).parent for file in (fedward_client.__file__, fedward_common.__file__) if file is not None]
CLOSED = Walls(network=False, hidden=())

# What the processes run. `sees` is true where the patient's name comes out of a path.
SEES = f"""
import ctypes, os, socket, sys
from pathlib import Path

def sees(path):
    try:
        return {PATIENT!r} in Path(path).read_text()
    except OSError:
        return False

def fails(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0

libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    return ctypes.get_errno() if libc.syscall(number, *map(ctypes.c_long, arguments)) < 0 else 0
"""


@pytest.fixture(autouse=True, scope="module")
def _machine_allows_walls() -> None:
    if (why := impossible()) is not None:
        pytest.skip(why)


class Hospital:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.patient = self.data / "us" / "patient.dcm"
        self.labels = folder / "labels.csv"
        self.state = folder / ".fedward"
        self.link, self.spool = self.state / "link", self.state / "spool"
        for path in (self.patient.parent, self.link, self.spool):
            path.mkdir(parents=True)
        for path in (self.patient, self.labels, self.state / "catalog.sqlite"):
            path.write_text(PATIENT)
        (self.link / "node.key").write_text("key")

    @property
    def network_side(self) -> Walls:
        return Walls(network=True, hidden=(self.folder,), kept=(self.link, self.spool))

    @property
    def data_side(self) -> Walls:
        return Walls(network=False, hidden=(self.link,))


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path / "hospital")


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", SEES + code, *map(str, arguments)]


def run(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
    settings = {"stdin": subprocess.DEVNULL} | settings
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **settings)


def inside(walls: Walls, code: str, *arguments: object, **settings: Any) -> str:
    """What `code` prints behind the walls."""
    done = run(behind(walls, python(code, *arguments)), **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def servers() -> Iterator[list[tuple[str, int]]]:
    """TCP servers on loopback and, where the machine has one, on another address of its own."""
    addresses = ["127.0.0.1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        if end.connect_ex(("198.51.100.1", 9)) == 0:
            addresses.append(end.getsockname()[0])
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_server((address, 0))).getsockname() for address in addresses]


CONNECT = """
for address, port in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    print(fails(lambda: socket.create_connection((address, port), 5).close()))
"""


def test_without_network_no_address_is_reached(servers: list[tuple[str, int]]) -> None:
    arguments = [part for server in servers for part in server]
    assert run(python(CONNECT, *arguments)).stdout.split() == ["0"] * len(servers)
    assert inside(CLOSED, CONNECT, *arguments).split() == ["101"] * len(servers), "ENETUNREACH"
    assert inside(replace(CLOSED, network=True), CONNECT, *arguments).split() == ["0"] * len(servers)


def test_without_network_no_name_is_found_and_no_packet_leaves(servers: list[tuple[str, int]]) -> None:
    code = """
    print(fails(lambda: socket.getaddrinfo("example.org", 443)) != 0)
    for address, family in (("127.0.0.1", socket.AF_INET), ("192.0.2.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        print(fails(lambda: socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (address, 53))) != 0)
    """
    assert inside(CLOSED, code.replace("\n    ", "\n")).split() == ["True"] * 4


def test_without_network_no_socket_without_a_namespace_is_made() -> None:
    code = """
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_VSOCK, socket.AF_ALG):
    print(fails(lambda: socket.socket(family, socket.SOCK_DGRAM if family != socket.AF_ALG else socket.SOCK_SEQPACKET)))
print(call(425, 1, 0))  # io_uring_setup
"""
    results = inside(CLOSED, code).split()
    assert results[:4] == ["0"] * 4
    assert results[4:] == ["97", "97", "38"], "EAFNOSUPPORT, EAFNOSUPPORT, ENOSYS"


def test_abstract_sockets_and_processes_outside_are_out_of_reach() -> None:
    code = """
print(fails(lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + sys.argv[1])))
print(fails(lambda: os.kill(int(sys.argv[2]), 0)))
"""
    name = f"fedward-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        server.listen()
        assert run(python(code, name, os.getpid())).stdout.split() == ["0", "0"]
        assert inside(CLOSED, code, name, os.getpid()).split()[0] != "0"
        if ctypes.CDLL(None).syscall(444, None, 0, 1) >= 6:  # the version of Landlock
            for network in (True, False):
                results = inside(replace(CLOSED, network=network), code, name, os.getpid()).split()
                assert results[0] != "0"
                assert results[1] == "1", "EPERM"


def test_hidden_folders_show_the_way_to_what_is_kept_and_nothing_else(hospital: Hospital) -> None:
    code = """
folder, patient, labels = sys.argv[1:]
print(sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*")))
print(fails(lambda: os.stat(patient)), fails(lambda: open(labels)), sees(patient), sees(labels))
print([fails(lambda: Path(place, "new").write_text("x")) for place in (folder, folder + "/.fedward")])
"""
    shown, hidden, written = inside(
        hospital.network_side, code, hospital.folder, hospital.patient, hospital.labels
    ).splitlines()
    assert shown == "['.fedward', '.fedward/link', '.fedward/link/node.key', '.fedward/spool']"
    assert hidden == "2 2 False False", "ENOENT"
    assert written == "[30, 30]", "EROFS"
    assert hospital.patient.read_text() == PATIENT


def test_what_is_not_hidden_stays(hospital: Hospital) -> None:
    code = "print(sees(sys.argv[1]), sees(sys.argv[2]), os.listdir(sys.argv[3]))"
    assert inside(hospital.data_side, code, hospital.patient, hospital.labels, hospital.link) == "True True []"


def test_no_way_out_of_a_kept_folder(hospital: Hospital) -> None:
    (hospital.spool / "file").symlink_to(hospital.patient)
    (hospital.spool / "folder").symlink_to("../../data")
    code = """
spool, data = map(Path, sys.argv[1:])
number = os.open(spool, os.O_PATH)
os.chdir(spool)
print(os.listdir(".."), os.listdir("../.."), os.listdir(f"/proc/self/fd/{number}/../.."))
print(any(map(sees, ["file", "folder/us/patient.dcm", "../../data/us/patient.dcm", "../../labels.csv"])))
print(fails(lambda: os.link("file", "mine")), sees("mine"))
"""
    ways, seen, linked = inside(hospital.network_side, code, hospital.spool, hospital.data).splitlines()
    assert (
        ways == "['link', 'spool'] ['.fedward'] ['.fedward']" or ways == "['spool', 'link'] ['.fedward'] ['.fedward']"
    )
    assert (seen, linked) == ("False", "0 False")


def test_what_was_open_or_current_before_is_left_behind(hospital: Hospital) -> None:
    code = """
print(os.getcwd(), sees("us/patient.dcm"), [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 3])
print(any(sees(f"/proc/self/fd/{fd}/us/patient.dcm") for fd in range(3, 100)))
"""
    number = os.open(hospital.data, os.O_RDONLY)
    walls = replace(hospital.network_side, hidden=(hospital.data,), kept=())
    try:
        where, seen = inside(walls, code, cwd=hospital.data, pass_fds=[number]).splitlines()
    finally:
        os.close(number)
    assert where == f"{hospital.data} False []"
    assert seen == "False"
    assert inside(hospital.network_side, "print(os.getcwd())", cwd=hospital.data) == "/"


def test_standard_input_may_be_no_way_around(hospital: Hospital, servers: list[tuple[str, int]]) -> None:
    number = os.open(hospital.data, os.O_RDONLY)
    try:
        done = run(behind(hospital.network_side, python("print('started')")), stdin=number)
    finally:
        os.close(number)
    assert (done.returncode, done.stdout) == (1, "")
    with socket.create_connection(servers[0]) as end:
        done = run(behind(CLOSED, python("print('started')")), stdin=end)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("fedward: standard input, output or error leads into a network")
        assert inside(replace(CLOSED, network=True), "print(1)", stdin=end) == "1"
    one, other = socket.socketpair()
    with one, other:
        assert inside(CLOSED, "print(1)", stdin=one) == "1", "a journal's socket, say"


def test_other_processes_give_nothing_away(hospital: Hospital) -> None:
    """Neither one outside nor one behind other walls, each with the data open and as its current folder."""
    holds = "file = open('us/patient.dcm'); print(os.getpid(), flush=True); sys.stdin.read()"
    tries = """
patient = sys.argv[1]
for pid in map(int, sys.argv[2:]):
    own = f"/proc/{pid}"
    paths = [own + "/root" + patient, own + "/cwd/us/patient.dcm", *(f"{own}/fd/{fd}" for fd in range(10))]
    pidfd = os.pidfd_open(pid)
    print(
        any(map(sees, paths)),
        any(sees(f"{own}/task/{pid}/root{patient}") for _ in "1"),
        fails(lambda: open(own + "/mem")), fails(lambda: open(own + "/environ")), fails(lambda: open(own + "/ns/mnt")),
        call(438, pidfd, 3, 0), libc.setns(pidfd, 0x20000), libc.ptrace(0x4206, pid, 0, 0),  # PTRACE_SEIZE
    )
print(any(sees(f"{folder}/root{patient}") for folder in Path("/proc").glob("[0-9]*")))
"""
    commands = [python(holds), behind(replace(hospital.data_side, kept=()), python(holds))]
    with ExitStack() as stack:
        pids = []
        for command in commands:
            process = stack.enter_context(
                subprocess.Popen(command, cwd=hospital.data, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert process.stdout is not None
            pids.append(int(process.stdout.readline()))
        done = run(python(tries, hospital.patient, *pids)).stdout.splitlines()
        assert [line.split()[0] for line in done] == ["True"] * 3, "outside, it is all there"
        *each, all_ = inside(hospital.network_side, tries, hospital.patient, *pids).splitlines()
    # mem, environ and ns: EACCES; pidfd_getfd: EPERM; setns and ptrace fail
    assert each == ["False False 13 13 13 1 -1 -1"] * 2
    assert all_ == "False"


def test_no_rights_are_left(hospital: Hospital) -> None:
    code = """
status = dict(line.split(":\\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
print([int(status["Cap" + name], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")], status["NoNewPrivs"])
for flags in (0, 2):  # MNT_DETACH
    print(libc.umount2(sys.argv[1].encode(), flags), ctypes.get_errno())
print(os.listdir(sys.argv[1]))
"""
    assert inside(hospital.network_side, code, hospital.folder).splitlines() == [
        "[0, 0, 0, 0, 0] 1",
        "-1 1",  # EPERM
        "-1 1",
        "['.fedward']",
    ]


NESTING = ["unshare", "--user", "--mount", "--keep-caps"]  # not -r: without rights, root may not map itself again
NESTED = """
parent, data, patient, kept = map(Path, sys.argv[1:])
BIND, RECURSIVE, MOVE, REMOUNT, DETACH = 4096, 16384, 8192, 32, 2
target = kept / "m"
target.mkdir()

def mount(source, where, flags=0, kind="", options=""):
    texts = [str(text).encode() for text in (source, where, kind)]
    return libc.mount(*texts, ctypes.c_ulong(flags), options.encode()) == 0

def unmount(path):
    return libc.umount2(str(path).encode(), DETACH) == 0

def seen():
    ways = [patient, Path(f"{target}{patient}"), target / patient.relative_to(parent), target / "us/patient.dcm"]
    return any(map(sees, ways))

def tell(name, *arguments):
    done = mount(*arguments)
    result = seen()
    if done:
        for cover in (target / data.name, Path(f"{target}{data}")):
            while unmount(cover):
                result = result or seen()
        done = "mounted" if unmount(target) else "stuck"
    print(name, done, result)

assert mount("none", target, 0, "tmpfs") and unmount(target)  # it has the right to mount
print("unmount", any([unmount(data), unmount(parent), unmount("/")]), seen())
print("remount", mount("none", data, REMOUNT) or mount("none", data, REMOUNT | BIND), seen())
tell("move", data, target, MOVE)
tell("bind", parent, target, BIND)
tell("rbind", parent, target, BIND | RECURSIVE)
tell("rbind-root", "/", target, BIND | RECURSIVE)
tell("overlay", "overlay", target, 0, "overlay", f"lowerdir={parent}:/usr/lib")
"""

NOTHING_REVEALED = [
    "unmount False False",
    "remount False False",
    "move False False",
    "bind False False",
    "rbind mounted False",
    "rbind-root mounted False",
    "overlay False False",
]

HANDLE = """
class Handle(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128)]

def handle_of(path):
    handle, mount = Handle(128), ctypes.c_int()
    assert libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0) == 0
    return bytes(handle).hex()

def opens(text, mount):
    handle = Handle.from_buffer_copy(bytes.fromhex(text))
    return libc.open_by_handle_at(os.open(mount, os.O_RDONLY), ctypes.byref(handle), os.O_RDONLY | os.O_DIRECTORY)
"""


def test_a_nested_namespace_reveals_nothing(hospital: Hospital, tmp_path: Path) -> None:
    walls = Walls(network=False, hidden=(hospital.data,), kept=(hospital.spool,))
    arguments = [str(path) for path in (hospital.folder, hospital.data, hospital.patient, hospital.spool)]
    nested = [*NESTING, *python(NESTED)]
    outside = Hospital(tmp_path / "control")
    control = [str(path) for path in (outside.folder, outside.data, outside.patient, outside.spool)]
    ways = [line.split() for line in run([*nested, *control]).stdout.splitlines()]
    assert [name for name, done, _ in ways if done == "mounted"] == ["bind", "rbind", "rbind-root", "overlay"]
    assert {seen for *_, seen in ways} == {"True"}
    done = run(behind(walls, [*nested, *arguments]))
    assert done.stdout.splitlines() == NOTHING_REVEALED, done.stderr


def test_a_file_handle_reveals_nothing(hospital: Hospital) -> None:
    walls = Walls(network=False, hidden=(hospital.data,), kept=(hospital.spool,))
    handle = run(python(HANDLE + "print(handle_of(sys.argv[1]))", hospital.patient.parent))
    if handle.returncode != 0:
        pytest.skip("this file system has no handles")
    code = HANDLE + "print([opens(sys.argv[1], mount) for mount in sys.argv[2:]])"
    mounts = ("/", hospital.folder, hospital.data, hospital.spool)
    if os.getuid() == 0:
        assert "-1" not in run(python(code, handle.stdout.strip(), *mounts)).stdout, "outside, root may"
    for nested in ([], NESTING):
        command = [*nested, *python(code, handle.stdout.strip(), *mounts)]
        assert run(behind(walls, command)).stdout.strip() == "[-1, -1, -1, -1]"


def test_hidden_files_links_nested_ones_and_ones_that_are_not_there(hospital: Hospital, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "patient.dcm").write_text(PATIENT)
    (tmp_path / "link").symlink_to(archive)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(tmp_path / "control.sock"))
        server.listen()
        hidden = (
            hospital.patient.parent,
            hospital.data,
            hospital.labels,
            tmp_path / "link",
            tmp_path / "control.sock",
            tmp_path / "nothing" / "here",
        )
        code = """
from_link, archive, patient, labels, control = sys.argv[1:]
print(any(map(sees, (from_link, archive, patient, labels))), Path(labels).read_text() == "")
print(fails(lambda: Path(labels).unlink()), fails(lambda: socket.socket(socket.AF_UNIX).connect(control)))
"""
        arguments = (tmp_path / "link/patient.dcm", archive / "patient.dcm", *hidden[1:3], tmp_path / "control.sock")
        seen, acts = inside(Walls(network=False, hidden=hidden), code, *arguments).splitlines()
    assert seen == "False True"
    assert acts == "16 111", "EBUSY, ECONNREFUSED"
    assert not (tmp_path / "nothing").exists()


def test_hidden_in_kept_in_hidden(hospital: Hospital) -> None:
    keys = hospital.link / "keys"
    (keys / "public").mkdir(parents=True)
    (keys / "private").write_text(PATIENT)
    walls = Walls(network=True, hidden=(keys, hospital.folder), kept=(keys / "public", hospital.link))
    code = "print(os.listdir(sys.argv[1]), sorted(os.listdir(sys.argv[2])), fails(Path(sys.argv[2], 'new').touch))"
    assert inside(walls, code, keys, hospital.link) == "['public'] ['keys', 'node.key'] 0"


def test_a_state_folder_behind_a_link_is_found_by_both_names(hospital: Hospital, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    hospital.state.rename(disk)
    hospital.state.symlink_to(disk)
    walls = Walls(network=True, hidden=(hospital.folder, hospital.state), kept=(hospital.spool,))
    code = """
Path(sys.argv[1], "one").write_text("1")
print(os.listdir(sys.argv[2]), os.listdir(sys.argv[3]), os.listdir(sys.argv[4]))
"""
    shown = inside(walls, code, hospital.spool, disk / "spool", disk, hospital.folder)
    assert shown == "['one'] ['spool'] ['.fedward']"
    assert inside_missing(walls) == []


def test_kept_files_are_the_users_and_show_outside(hospital: Hospital) -> None:
    code = "Path(sys.argv[1], 'out').write_text('update'); print(Path(sys.argv[1], 'in').read_text())"
    (hospital.spool / "in").write_text("model")
    assert inside(hospital.network_side, code, hospital.spool) == "model"
    written = hospital.spool / "out"
    assert written.read_text() == "update"
    assert (written.stat().st_uid, written.stat().st_gid) == (os.getuid(), os.getgid())


def test_the_process_is_the_one_that_was_started(hospital: Hospital) -> None:
    code = """
import signal
print(os.getpid(), signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN, os.getuid(), os.environ["MARK"], flush=True)
signal.pause()
"""
    # -I: Python itself ignores SIGPIPE, so a shell says what it got
    shell = ["sh", "-c", "grep SigIgn /proc/self/status"]
    assert int(run(behind(CLOSED, shell)).stdout.split()[1], 16) & 1 << signal.SIGPIPE - 1 == 0
    with subprocess.Popen(
        behind(hospital.network_side, python(code)),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"MARK": "here"},
    ) as process:
        assert process.stdout is not None
        pid, _, user, mark = process.stdout.readline().split()
        assert (int(pid), int(user), mark) == (process.pid, os.getuid(), "here")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == -signal.SIGTERM


def test_exit_codes_pass_and_a_command_that_is_not_there_is_said() -> None:
    assert run(behind(CLOSED, python("sys.exit(7)"))).returncode == 7
    done = run(behind(CLOSED, ["/nowhere/fedward-nothing"]))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "fedward: 'fedward-nothing' cannot be started behind the walls (No such file or directory)\n"
    )


def test_the_terminal_is_given_up() -> None:
    code = "print(fails(lambda: os.open('/dev/tty', os.O_RDWR)))"
    commands = [python(code), behind(CLOSED, python(code))]
    pid, terminal = pty.fork()
    if pid == 0:  # the shell of the session
        try:
            for command in commands:
                subprocess.run(command, check=False)
        finally:
            os._exit(0)
    said = b""
    while b"\n" not in said or said.count(b"\n") < 2:
        said += os.read(terminal, 1000)
    os.close(terminal)
    os.waitpid(pid, 0)
    assert said.split() == [b"0", b"6"], "ENXIO: there is no controlling terminal"


def test_shared_memory_services_and_core_dumps_are_closed() -> None:
    code = """
import resource
print(os.listdir("/dev/shm"), os.readlink("/proc/self/ns/ipc") != sys.argv[1])
print(resource.getrlimit(resource.RLIMIT_CORE), sorted(os.listdir("/run")))
Path("/dev/shm/own").write_text("x")
"""
    with tempfile.NamedTemporaryFile(dir="/dev/shm"):
        memory, limits = inside(CLOSED, code, Path("/proc/self/ns/ipc").readlink()).splitlines()
    assert memory == "[] True"
    assert limits.startswith("(0, 0) ")
    assert set(json.loads(limits.removeprefix("(0, 0) ").replace("'", '"'))) <= {"media", "opengl-driver"}
    assert not Path("/dev/shm/own").exists()


def test_read_only_leaves_the_kept_and_the_temporary_folders(hospital: Hospital) -> None:
    code = """
print([fails(lambda: tempfile.TemporaryFile(dir=folder)) for folder in sys.argv[1:]], Path("/dev/null").write_text("x"))
"""
    walls = replace(hospital.network_side, read_only=True)
    folders = (hospital.spool, "/tmp", "/dev/shm", PACKAGES[0], sys.prefix, Path.home())
    results = inside(walls, "import tempfile" + code, *folders)
    assert results == "[0, 0, 0, 30, 30, 30] 1", "EROFS"
    assert inside_missing(walls) == []
    open_ = inside_missing(walls, around=replace(walls, read_only=False))
    if os.access(sys.prefix, os.W_OK):
        assert open_ == ["it can change Fedward's own program"]


def test_a_program_in_a_temporary_folder_cannot_be_changed(public_folder: Path) -> None:
    """A clone of Fedward is tried out in /tmp, with the hospitals inside it."""
    clone = public_folder / "clone"
    for package in PACKAGES:
        shutil.copytree(package, clone / package.parent.name / package.name, ignore=shutil.ignore_patterns("*.pyc"))
    hospital = Hospital(clone / "demo-output" / "north")
    walls = replace(hospital.network_side, read_only=True)
    code = f"""
import sys, tempfile
from pathlib import Path, PosixPath
import fedward_client
from fedward_client.isolation import Walls, missing
def fails(act):
    try: act()
    except OSError as error: return error.errno
    return 0
package = Path(fedward_client.__file__).parent
print(package.is_relative_to({str(clone)!r}), missing({walls!r}))
print([fails(lambda: tempfile.TemporaryFile(dir=folder)) for folder in (package, *sys.argv[1:])])
print(fails(lambda: Path({str(public_folder)!r}).rename("/tmp/away")), Path({str(hospital.labels)!r}).exists())
"""
    again = f"""
import sys
from pathlib import Path, PosixPath
from fedward_client.isolation import Walls, behind
import os; command = behind({walls!r}, [sys.executable, "-c", {code!r}, *sys.argv[1:]]); os.execv(command[0], command)
"""
    roots = os.pathsep.join(str(clone / package.parent.name) for package in PACKAGES)
    environment = {**os.environ, "PYTHONPATH": roots, "PYTHONDONTWRITEBYTECODE": "1"}
    done = run([sys.executable, "-c", again, str(clone), str(hospital.spool), "/tmp"], env=environment)
    assert done.stdout.splitlines() == ["True []", "[30, 30, 0, 0]", "16 False"], done.stderr  # EROFS; EBUSY


@pytest.fixture
def health_server(hospital: Hospital) -> Iterator[Path]:
    path = hospital.spool / "work.sock"
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    yield path
    server.stop(None).wait()


def test_sockets_in_kept_folders_work_from_both_sides(hospital: Hospital, health_server: Path) -> None:
    code = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel("unix:" + sys.argv[1]) as channel:
    print(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30).status)
"""
    for walls in (hospital.network_side, replace(hospital.network_side, network=False)):
        done = run(behind(walls, [sys.executable, "-c", code, os.fspath(health_server)]))
        assert done.stdout.strip() == "1", done.stderr


def inside_missing(walls: Walls, *, around: Walls | None = None) -> list[str]:
    """What a process behind the walls (or the walls `around` it) finds missing."""
    code = f"""
import json
from pathlib import Path, PosixPath
from fedward_client.isolation import Walls, missing
print(json.dumps(missing({walls!r})))
"""
    done = run(behind(around or walls, [sys.executable, "-c", code]))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_nothing_is_missing_where_the_walls_are(hospital: Hospital) -> None:
    (hospital.state / "empty").mkdir()
    hidden = (hospital.folder, hospital.labels, hospital.state / "empty", hospital.folder / "nothing")
    for walls in (
        hospital.network_side,
        hospital.data_side,
        CLOSED,
        Walls(network=False, hidden=hidden, kept=(hospital.spool,)),
        Walls(network=True, hidden=(hospital.labels, hospital.data)),
    ):
        assert inside_missing(walls) == []


def test_each_open_wall_is_told(hospital: Hospital, servers: list[tuple[str, int]]) -> None:
    (hospital.state / "empty").mkdir()
    (hospital.folder / "new.csv").touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(hospital.state / "control.sock"))
        names = ("data", "labels.csv", ".fedward/empty", "new.csv", ".fedward/control.sock", "nothing")
        hidden = tuple(hospital.folder / name for name in names)
        found = missing(Walls(network=True, hidden=hidden))
        walled = inside_missing(Walls(network=True, hidden=hidden), around=replace(CLOSED, network=True))
    told = [
        "the folder 'data' is not hidden: what is in it shows",
        "the file 'labels.csv' is not hidden: it can be read",
        "the folder 'empty' is not hidden: it can be written to",
        "the file 'new.csv' is not hidden: it can be written to",
        "the socket 'control.sock' is not hidden",
    ]
    assert walled == told
    assert found[:5] == told
    first = Path("/proc/self/ns/user").stat().st_ino == FIRST_USER_NAMESPACE  # a container may give the tests another
    users = ["it has no user namespace of its own"] if first else []
    assert [sentence.split(" to ")[0].split(",")[0] for sentence in found[5:]] == ["it has rights", *users]
    if len(servers) > 1:  # the machine has a network
        kinds = {sentence.split()[4] for sentence in missing(CLOSED) if sentence.startswith("the network is open")}
        assert {"interface", "there", "a"} <= kinds
        assert any("there is a route" in sentence for sentence in inside_missing(CLOSED, around=hospital.network_side))


def test_what_is_beside_the_kept_is_told(hospital: Hospital) -> None:
    asked = replace(hospital.network_side, kept=(hospital.spool,))
    assert inside_missing(asked, around=hospital.network_side) == [
        "the folder 'hospital' is not hidden: what is in it shows"
    ]


def test_what_is_replaced_outside_is_told_outside(hospital: Hospital) -> None:
    made_later = hospital.folder / "report.csv"
    walls = Walls(network=True, hidden=(hospital.labels, hospital.data, made_later), kept=(hospital.spool,))
    code = "print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        behind(walls, python(code)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert reopened(walls, process.pid) == []
        saved_anew = hospital.folder / "new"
        saved_anew.write_text(PATIENT)
        saved_anew.rename(hospital.labels)
        assert [sentence.split()[0] for sentence in reopened(walls, process.pid)] == ["'labels.csv'"]
        hospital.data.rename(hospital.folder / "old")
        hospital.data.mkdir()
        made_later.touch()
        assert len(reopened(walls, process.pid)) == 3
    assert reopened(walls, process.pid) == [], "it has ended"
    assert reopened(walls, os.getpid()) == [], "it is behind no walls"


@pytest.mark.parametrize(
    ("hidden", "kept", "words"),
    [
        ([Path("data")], [], "absolute"),
        ([Path("/srv")], [Path("srv")], "absolute"),
        ([Path("/nothing")], [Path("/nothing/kept")], "'kept' .* make it first"),
        ([Path("/usr/share")], [Path("/usr/share")], "give it once"),
        ([Path("/")], [], "hides? |holds Fedward"),
        ([Path(sys.prefix)], [], "holds Fedward"),
        ([Path(sys.base_prefix).parent], [], "holds Fedward"),
        ([PACKAGES[0]], [], "holds Fedward"),
        ([PACKAGES[1].parent], [], "holds Fedward"),
        ([PACKAGES[0] / "intake"], [], "holds Fedward"),
    ],
)
def test_walls_that_cannot_stand_are_refused(hidden: list[Path], kept: list[Path], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        behind(Walls(network=True, hidden=tuple(hidden), kept=tuple(kept)), ["true"])


def test_a_home_may_be_hidden_that_holds_python_where_python_is_kept(hospital: Hospital) -> None:
    around = Path(sys.prefix).parent
    kept = {Path(prefix) for prefix in (sys.prefix, sys.base_prefix)}.union(PACKAGES)
    walls = Walls(network=True, hidden=(around,), kept=tuple(kept))
    assert inside_missing(walls) == []


def test_a_machine_that_allows_no_walls_is_told_in_words() -> None:
    code = "from fedward_client.isolation import impossible; print(impossible())"
    script = (
        'echo 0 > /proc/sys/user/max_user_namespaces; exec "$0" -c "$1"'  # in a namespace: this machine keeps its own
    )
    done = run(["unshare", "-Ur", "sh", "-c", script, sys.executable, code])
    assert done.stdout == (
        "this machine does not let this user put up the walls (its limit of namespaces is reached); "
        "raise user.max_user_namespaces with sysctl, or run the site under its systemd units\n"
    )


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are this user's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def ordinary_user() -> tuple[int, int, list[str]]:
    """User, group and the command line of Python as that user: this one, or nobody where this one is root."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid(), [sys.executable]
    prefix = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    for interpreter in (sys.executable, "/usr/bin/python3"):  # this one may be in root's home
        # it starts itself: setpriv has root's rights until then
        again = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', ''])"
        if Path(interpreter).exists() and run([*prefix, interpreter, "-c", again], cwd="/").returncode == 0:
            return NOBODY, NOBODY, [*prefix, interpreter]
    pytest.skip("there is no Python that an ordinary user can start")


def test_an_ordinary_user_can_do_it(public_folder: Path, ordinary_user: tuple[int, int, list[str]]) -> None:
    user, group, interpreter = ordinary_user
    hospital = Hospital(public_folder / "hospital")
    for path in (public_folder, *public_folder.rglob("*")):
        os.chown(path, user, group)
    roots = [*(package.parent for package in PACKAGES), sysconfig.get_path("purelib")]
    settings: Any = {"env": {"PYTHONPATH": os.pathsep.join(map(str, roots)), "PATH": os.environ["PATH"]}, "cwd": "/"}
    own_python = interpreter[-1]

    done = run([*interpreter, "-c", "from fedward_client.isolation import impossible; print(impossible())"], **settings)
    assert done.stdout == "None\n", done.stderr

    walls = Walls(network=False, hidden=(hospital.folder,), kept=(hospital.spool,))
    code = f"""
import os
from pathlib import Path, PosixPath
from fedward_client.isolation import Walls, missing
Path("{hospital.spool}", "out").write_text("update")
print(missing({walls!r}), os.listdir("{hospital.folder}"), os.getuid())
"""
    _, *rest = behind(walls, [own_python, "-c", code])
    done = run([*interpreter, *rest], **settings)
    assert done.stdout == f"[] ['.fedward'] {user}\n", done.stderr
    written = (hospital.spool / "out").stat()
    assert (written.st_uid, written.st_gid) == (user, group)

    walls = replace(walls, hidden=(hospital.data,))
    arguments = [str(path) for path in (hospital.folder, hospital.data, hospital.patient, hospital.spool)]
    for nesting in (NESTING, ["unshare", "-rm"]):
        _, *rest = behind(walls, [*nesting, own_python, *python(NESTED, *arguments)[1:]])
        done = run([*interpreter, *rest], **settings)
        assert done.stdout.splitlines() == NOTHING_REVEALED, done.stderr
        (hospital.spool / "m").rmdir()

    code = f"""
import subprocess, sys
from pathlib import Path, PosixPath
from fedward_client.isolation import Walls, behind, reopened
walls = {walls!r}
command = behind(walls, [sys.executable, "-c", "print('up', flush=True); input()"])
with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
    process.stdout.readline()
    print(reopened(walls, process.pid))
    walls.hidden[0].rename("{hospital.folder}/old")
    walls.hidden[0].mkdir()
    print(len(reopened(walls, process.pid)))
"""
    done = run([*interpreter, "-c", code], **settings)
    assert done.stdout.split() == ["[]", "1"], done.stderr
