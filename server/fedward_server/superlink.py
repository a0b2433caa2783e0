"""Flower's SuperLink as a process on loopback, and the stock `flwr` command line that steers it.

Whatever a SuperLink starts ends with it, and it ends with the process that started it, however that ends. The bundle
handed to it holds a pyproject.toml and a README, no code: server and hospitals run what is installed. It is never told
to listen on another address than loopback, nor to install anything, nor to send telemetry.
"""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fedward_common import __version__
from fedward_common.errors import RunError

HOST = "127.0.0.1"
CONNECTION = "fedward"
START_LIMIT_S = 60.0
CALL_LIMIT_S = 120.0  # of one `flwr` command; it takes two seconds to start
POLL_S = 0.2
TASK_POLL_S = 1.0  # how often it looks for a run to start, which costs it 15 ms of CPU each time

_BUNDLE = """\
[project]
name = "fedward-run"
version = "{version}"

[tool.flwr.app]
publisher = "fedward"
fab-include = ["README.md"]

[tool.flwr.app.components]
serverapp = "fedward_server.app:app"
clientapp = "fedward_client.app:app"

[tool.flwr.app.config]
{config}
"""

RunConfig = Mapping[str, bool | float | int | str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """PEM files: the server's certificate and private key, and the authority that issued it."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperLink:
    """One SuperLink. `home` is a folder of its own; `options` are added to its command line; without `tls`, no TLS.

    With `stock` it is `flower-superlink` as Flower starts it: for comparisons.
    """

    home: Path
    port: int
    log_file: Path
    options: tuple[str, ...]
    tls: Tls | None = None
    log_level: str = "INFO"
    stock: bool = False

    @property
    def mark(self) -> str:
        """What stands in the environment of everything that it starts."""
        return f"FEDWARD_MARK={self.home}"

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Start it and wait until it answers; nothing of what it started outlives the block, nor this process.

        Raises RunError where it does not start.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        (self.home / "config.toml").write_text(self._connection(), encoding="utf-8")
        watchdog = subprocess.Popen(
            [sys.executable, "-m", "fedward_server.marked", self.mark], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            with self._start() as process:
                try:
                    self._wait_for(process)
                    yield process
                finally:
                    watchdog.communicate()  # closes its input: it ends what is marked, as if this process had died
        finally:
            watchdog.communicate()

    def healthy(self) -> bool:
        """Whether it answers, and shows a certificate of its authority."""
        scheme = "http" if self.tls is None else "https"
        verify = True if self.tls is None else ssl.create_default_context(cafile=self.tls.authority)
        try:
            with httpx.Client(verify=verify, timeout=2.0, trust_env=False) as client:
                return client.get(f"{scheme}://{HOST}:{self.port}/health").is_success
        except httpx.HTTPError:
            return False

    def flwr(self, *arguments: str) -> dict[str, Any]:
        """The JSON that a `flwr` command prints; RunError with its words where it fails."""
        command = [str(_programs() / "flwr"), *arguments, "--format", "json"]
        return _answer(arguments[0], self._called(command, late=f"`flwr {arguments[0]}` did not end within"))

    def let_in(self, keys: list[str]) -> dict[str, Any]:
        """Let in the nodes of these keys (OpenSSH lines) and no others.

        Gives the ids of the nodes by their keys, and why a key was not let in. Raises RunError where that fails.
        """
        assert self.tls is not None
        command = [sys.executable, "-m", "fedward_server.nodes", f"{HOST}:{self.port}", str(self.tls.authority)]
        late = "the SuperLink did not say which nodes it lets in within"
        done = self._called(command, late=late, given="\n".join(keys))
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["it does not say why"]
            raise RunError(f"the SuperLink does not say which nodes it lets in: {said[-1]}; see {self.log_file}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def _called(self, command: list[str], *, late: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        """A command that has ended; RunError, which begins with `late`, where it takes too long."""
        environment = self._environment()
        try:
            return subprocess.run(
                command, env=environment, input=given, capture_output=True, text=True, check=False, timeout=CALL_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            raise RunError(f"{late} {CALL_LIMIT_S:g} s; see {self.log_file}") from None

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log_file.open("ab") as output:
            return subprocess.Popen(
                [
                    *self._program,
                    *("--isolation", "subprocess", "--disable-runtime-dependency-installation"),
                    *("--host", HOST, "--port", str(self.port)),
                    *self._security(),
                    *self.options,
                ],
                env={**self._environment(), **dict([self.mark.split("=", 1)])},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def _program(self) -> tuple[str, ...]:
        if self.stock:
            return (str(_programs() / "flower-superlink"),)
        return (sys.executable, "-m", "fedward_server.superlink_process")

    def _wait_for(self, process: "subprocess.Popen[bytes]") -> None:
        started = time.monotonic()
        while time.monotonic() - started < START_LIMIT_S:
            if process.poll() is not None:
                raise RunError(
                    f"the SuperLink ended at its start (exit code {process.returncode}); see {self.log_file}"
                )
            if self.healthy():
                return
            time.sleep(POLL_S)
        raise RunError(f"the SuperLink did not answer within {START_LIMIT_S:g} s; see {self.log_file}")

    def _security(self) -> tuple[str, ...]:
        if self.tls is None:
            return ("--insecure",)
        files = {"--ssl-certfile": self.tls.certificate, "--ssl-keyfile": self.tls.key}
        files["--ssl-ca-certfile"] = self.tls.authority
        return tuple(word for name, path in files.items() for word in (name, str(path)))

    def _connection(self) -> str:
        """What `flwr` reads: where this SuperLink is."""
        trust = "insecure = true" if self.tls is None else f"root-certificates = {json.dumps(str(self.tls.authority))}"
        name = CONNECTION
        return f'[superlink]\ndefault = "{name}"\n\n[superlink.{name}]\naddress = "{HOST}:{self.port}"\n{trust}\n'

    def _environment(self) -> dict[str, str]:
        proxied = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
        direct = ",".join(filter(None, (proxied, HOST, "localhost")))  # no proxy between this machine and itself
        return {
            **os.environ,
            "FLWR_HOME": str(self.home),
            "FLWR_LOG_LEVEL": self.log_level,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(TASK_POLL_S),
            "MALLOC_ARENA_MAX": "1",  # Python runs one thread at a time; each arena keeps pieces that were freed in it
            "RAY_USAGE_STATS_ENABLED": "0",
            "NO_PROXY": direct,
            "no_proxy": direct,
            "PATH": f"{_programs()}{os.pathsep}{os.environ.get('PATH', '')}",
        }


def _programs() -> Path:
    return Path(sys.executable).parent


def _answer(command: str, done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise RunError(f"`flwr {command}` failed: {done.stderr.strip() or done.stdout.strip()}") from None
    if not answer.get("success"):
        said = str(answer.get("error-message", "")).strip().splitlines() or ["it does not say why"]
        raise RunError(f"`flwr {command}` failed: {said[-1]}")  # the lines before tell what it was about to do
    return answer


def write_bundle(folder: Path, config: RunConfig) -> Path:
    """The thin bundle: a pyproject.toml that names installed components, and a README."""
    folder.mkdir(parents=True)
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in config.items())
    (folder / "pyproject.toml").write_text(_BUNDLE.format(version=__version__, config=lines), encoding="utf-8")
    (folder / "README.md").write_text("A Fedward run. The code is what each machine has installed.\n", encoding="utf-8")
    return folder


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
