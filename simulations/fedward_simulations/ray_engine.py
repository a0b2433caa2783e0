"""The Ray engine: the same study through Flower's own simulation runtime, on this machine or a Ray cluster.

A private `flower-superlink --simulation` is started on a free loopback port; the bundle handed to it holds a
pyproject.toml and a README, no code: server and hospitals run what is installed. Everything is ended with the run.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from fedward_common import __version__
from fedward_common.errors import RunError
from fedward_server.result import FILE, RunResult

START_LIMIT_S = 60.0
POLL_S = 0.2
CONNECTION = "fedward"

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

_CONNECTIONS = """\
[superlink]
default = "{name}"

[superlink.{name}]
address = "127.0.0.1:{port}"
insecure = true
"""

RunConfig = Mapping[str, bool | float | int | str]


def run_on_ray(
    config: RunConfig, *, sites: int, workers: int, log_file: Path, on_wait: Callable[[], None]
) -> RunResult:
    """Run a study on Flower's simulation runtime with `sites` virtual nodes, `workers` of them at a time.

    `config` is the run config of server and client app; `on_wait` is called a few times a second.
    """
    folder = Path(str(config["folder"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="fedward-ray-") as scratch, _superlink(Path(scratch), log_file) as flwr:
        bundle = write_bundle(Path(scratch) / "bundle", config)
        federation = f"num-supernodes={sites} client-resources-num-cpus=1"
        if "RAY_ADDRESS" not in os.environ:  # a cluster that is there already knows its size
            federation += f" init-args-num-cpus={workers}"
        run_id = flwr("run", str(bundle), CONNECTION, "--federation-config", federation)["run-id"]
        while not (folder / FILE).exists():
            status = flwr("list", CONNECTION, "--run-id", run_id)["runs"][0]["status"]
            if status.startswith("finished") and not (folder / FILE).exists():
                raise RunError(f"the run on Ray ended as {status} without a result; its log is {log_file}")
            on_wait()
            time.sleep(POLL_S)
    return RunResult.read(folder)


def write_bundle(folder: Path, config: RunConfig) -> Path:
    """The thin bundle: a pyproject.toml that names installed components, and a README."""
    folder.mkdir(parents=True)
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in config.items())
    (folder / "pyproject.toml").write_text(_BUNDLE.format(version=__version__, config=lines), encoding="utf-8")
    (folder / "README.md").write_text("A Fedward run. The code is what each machine has installed.\n", encoding="utf-8")
    return folder


@contextmanager
def _superlink(home: Path, log_file: Path) -> Iterator[Callable[..., Any]]:
    """A SuperLink of our own; gives a function that calls `flwr` against it and returns its JSON."""
    port = _free_port()
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    (home / "config.toml").write_text(_CONNECTIONS.format(name=CONNECTION, port=port), encoding="utf-8")
    command = [
        str(programs / "flower-superlink"),
        *("--insecure", "--simulation", "--isolation", "subprocess", "--disable-runtime-dependency-installation"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]

    def flwr(*arguments: str) -> Any:  # the JSON of any of its commands
        done = subprocess.run(
            [str(programs / "flwr"), *arguments, "--format", "json"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            raise RunError(f"`flwr {arguments[0]}` failed: {done.stderr.strip() or done.stdout.strip()}") from None

    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as output:
        superlink = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "fedward_simulations.marked", f"FLWR_HOME={home}"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _wait_for(superlink, port, log_file)
        yield flwr
    finally:
        watchdog.communicate()  # closes its input: it ends what this run started, as it would had this process died
        superlink.wait()


def _wait_for(superlink: subprocess.Popen[bytes], port: int, log_file: Path) -> None:
    started = time.monotonic()
    while time.monotonic() - started < START_LIMIT_S:
        if superlink.poll() is not None:
            raise RunError(f"flower-superlink ended at its start (exit code {superlink.returncode}); see {log_file}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).is_success:
                return
        except httpx.HTTPError:
            time.sleep(POLL_S)
    raise RunError(f"flower-superlink did not answer within {START_LIMIT_S:g} s; see {log_file}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
