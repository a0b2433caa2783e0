"""`fedward site up | down`, and the two sides by themselves: the processes of a site."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fedward_client.cli_common import LOOK_S, Folder, State
from fedward_client.site import Site
from fedward_common.errors import SettingsError
from fedward_common.logs import process_to, to_terminal

START_LIMIT_S = 120.0

Unsafe = Annotated[bool, typer.Option("--unsafe-no-walls", hidden=True)]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


def up(
    folder: Folder,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the site is ready; it goes on.")] = False,
    unsafe_no_walls: Unsafe = False,
    state: State = None,
) -> None:
    """Run this site: the data side and the network side, each behind its walls, until Ctrl-C or `fedward site down`.

    Example: fedward site up /srv/hospital --detach
    """
    from fedward_client import daemon
    from fedward_client.member import private_paths

    site = Site.open(folder, state=state)
    if detach:
        _detach(site, unsafe=unsafe_no_walls)
        return
    keeper = daemon.Daemon(site, unsafe=unsafe_no_walls)
    keeper.require()
    daemon.log_to(site.ensure_state() / "daemon.log", site.log_format, private_paths(site))
    shown = Console(stderr=True)
    if unsafe_no_walls:
        shown.print("NOT ISOLATED: the two sides of this site can see each other's files and networks.", style="bold")
    shown.print(f"Site {site.name} is starting. `fedward site status` says how it is, Ctrl-C ends it.", highlight=False)
    keeper()


def _detach(site: Site, *, unsafe: bool) -> None:
    from fedward_client import daemon

    if (found := daemon.pid(site)) is not None:
        raise SettingsError(f"another daemon (process {found}) serves site '{site.name}': it is up already")
    command = [sys.executable, "-m", "fedward_common", "site", "up", str(site.folder), "--state", str(site.state)]
    with (site.ensure_state() / "daemon.out").open("wb") as output:
        process = subprocess.Popen(
            [*command, *(["--unsafe-no-walls"] if unsafe else [])],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    started = time.monotonic()
    while not _healthy(site):
        if process.poll() is not None:
            said = (site.state / "daemon.out").read_text("utf-8", "replace").strip().splitlines()
            raise SettingsError(said[-1].removeprefix("fedward: ") if said else "the daemon ended at its start")
        if time.monotonic() - started > START_LIMIT_S:
            process.terminate()
            process.wait()
            raise SettingsError(
                f"site '{site.name}' was not ready within {START_LIMIT_S:g} s and is down again; `fedward site log` "
                "says why"
            )
        time.sleep(LOOK_S)
    print(f"Site {site.name} is up (process {process.pid}).")


def _healthy(site: Site) -> bool:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from fedward_client.member import CONTROL_SOCKET
    from fedward_client.sockets import channel

    try:
        with closing(channel(site.state / CONTROL_SOCKET)) as connection:
            stub: Any = health_pb2_grpc.HealthStub(connection)
            found = stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
    except (SettingsError, grpc.RpcError):
        return False
    return bool(found.status == health_pb2.HealthCheckResponse.SERVING)


def down(folder: Folder, state: State = None) -> None:
    """End this site's daemon, and wait until it has ended.

    Example: fedward site down /srv/hospital
    """
    from fedward_client import daemon

    site = Site.open(folder, state=state)
    found = daemon.pid(site)
    if found is None:
        raise SettingsError(f"no daemon serves site '{site.name}'")
    os.kill(found, signal.SIGTERM)
    started = time.monotonic()
    while daemon.pid(site) is not None:
        if time.monotonic() - started > START_LIMIT_S:
            raise SettingsError(f"the daemon (process {found}) did not end within {START_LIMIT_S:g} s")
        time.sleep(LOOK_S)
    print(f"Site {site.name} is down.")


def executor(
    folder: Folder, state: State = None, supervised: Supervised = False, unsafe_no_walls: Unsafe = False
) -> None:
    """Run the data side alone, as a systemd unit does; `fedward site up` runs both.

    Example: fedward site executor /srv/hospital
    """
    from fedward_client import daemon
    from fedward_client.executor import serve
    from fedward_client.member import private_paths

    daemon.end_with_parent(supervised)
    site = Site.open(folder, state=state)
    daemon.log_to(site.ensure_state() / "executor.log", site.log_format, private_paths(site))
    with daemon.told():
        daemon.require_walls(daemon.executor_walls(site), unsafe=unsafe_no_walls)
        serve(site)


def supernode(
    link: Annotated[Path, typer.Argument(help="The link folder in the site's state folder.")],
    supervised: Supervised = False,
    unsafe_no_walls: Unsafe = False,
) -> None:
    """Run the network side alone, as a systemd unit does; `fedward site up` runs both.

    Example: fedward site supernode /srv/hospital/.fedward/link
    """
    from fedward_client import daemon
    from fedward_client.member import LinkSettings
    from fedward_client.supernode import serve

    daemon.end_with_parent(supervised)
    settings = LinkSettings.read(link)
    daemon.log_to(link / "supernode.log", settings.log_format, settings.hidden)
    with daemon.told():
        daemon.require_walls(daemon.supernode_walls(link, settings.spool, settings.hidden), unsafe=unsafe_no_walls)
        serve(link)


def metrics(
    folder: Folder, state: State = None, supervised: Supervised = False, unsafe_no_walls: Unsafe = False
) -> None:
    """Write this site's metrics for Prometheus, as a systemd unit does; `fedward site up` does it too.

    Example: fedward site metrics /srv/hospital
    """
    from fedward_client import daemon
    from fedward_client.member import private_paths
    from fedward_client.monitoring import keep_writing

    daemon.end_with_parent(supervised)
    site = Site.open(folder, state=state)
    process_to(to_terminal(site.log_format, private_paths(site)))
    with daemon.told():
        folder = daemon.textfiles(site)
        daemon.require_walls(daemon.monitor_walls(folder), unsafe=unsafe_no_walls)
        keep_writing(site, folder)
