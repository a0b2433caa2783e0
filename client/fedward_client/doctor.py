"""`fedward doctor --site`: whether a hospital's folder is fit to take part, then whether it gets through to its hub.

It reads settings, the modes of folders and keys, and whether there is a catalog: no image, no label. It changes
nothing and makes no key.
"""

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from fedward_client import doctor_way, isolation
from fedward_client.member import CONTROL_SOCKET, HUB_CARD, NODE_KEY, SIGNING_KEY, private_paths
from fedward_client.site import KEY, KEY_BYTES, SETTINGS, Site
from fedward_common import pki
from fedward_common.doctor import MIB, Finding, disk
from fedward_common.errors import FedwardError, SettingsError

FULL = 0.8  # of the spool
HEALTH_LIMIT_S = 2.0

Check = Callable[[str, Site], Finding]  # the finding's name, the site


def examine(folder: Path) -> Iterator[Finding]:
    """Every check of a hospital's folder, then of the way to its hub as far as it goes."""
    try:
        site = Site.open(folder)
    except SettingsError as error:
        advice = "put that right, then run this again"
        yield Finding(name="site settings", status="fail", found=str(error), advice=advice)
        return
    yield Finding(name="site settings", status="ok", found=f"those of site '{site.name}' can be used")
    for name, check in CHECKS.items():
        try:
            yield check(name, site)
        except FedwardError as error:
            yield Finding.refused(name, error)
        except OSError as error:
            yield Finding(
                name=name,
                status="fail",
                found=f"it cannot be looked at ({error.strerror})",
                advice="run this as the user whom the site's daemon runs as",
            )
    if os.access(site.link / HUB_CARD, os.R_OK):
        yield from doctor_way.examine(site.link / HUB_CARD)
    else:
        yield _no_member("hub card", "this site knows no hub yet")


# The folder ----------------------------------------------------------------------------------------------------------


def state(name: str, site: Site) -> Finding:
    """Whether the state folder is the site's user's alone."""
    try:
        found = site.state.stat()
    except FileNotFoundError:
        return _no_member(name, "there is none yet")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        advice = "chmod 700 it: it holds what no other user of this machine may read"
        return Finding(name=name, status="fail", found=f"others can enter it (mode {mode:04o})", advice=advice)
    if os.geteuid() not in {found.st_uid, 0}:
        advice = "run the site as that user, or give the folder to the one who runs it"
        return Finding(name=name, status="fail", found=f"it belongs to user {found.st_uid}", advice=advice)
    return Finding(name=name, status="ok", found=f"mode {mode:04o}, of user {found.st_uid}")


def keys(name: str, site: Site) -> Finding:
    """Whether the site's three keys are there, whole, and read by nobody else. Raises SettingsError."""
    if not any((folder / file).exists() for folder, file in ((site.state, SIGNING_KEY), (site.link, NODE_KEY))):
        return _no_member(name, "there are none yet")
    pki.load_signing_key(site.state / SIGNING_KEY)
    pki.load_node_key(site.link / NODE_KEY)
    if (length := len(pki.read_private(site.state / KEY))) != KEY_BYTES:
        raise SettingsError(f"{KEY} holds {length} bytes instead of {KEY_BYTES}: restore it from a backup")
    return Finding(name=name, status="ok", found=f"{KEY}, {SIGNING_KEY} and {NODE_KEY} are whole and private")


def state_disk(name: str, site: Site) -> Finding:
    """Whether there is room for caches and the spool."""
    place = next(path for path in (site.state, *site.state.parents) if path.exists())
    return disk(place, name=name, where="the state folder")


def spool(name: str, site: Site) -> Finding:
    """Whether the spool is far from full."""
    held = 0
    for path in site.spool.glob("*/*"):
        with suppress(FileNotFoundError):  # delivered meanwhile
            held += path.lstat().st_size
    free = shutil.disk_usage(site.spool).free if site.spool.exists() else site.spool_bytes
    found = f"{held / MIB:.0f} of {site.spool_bytes / MIB:.0f} MiB in use"
    if held > FULL * site.spool_bytes:
        advice = f"raise [limits] spool_mib in {SETTINGS}, or end runs that are over"
        return Finding(name=name, status="warn", found=found, advice=advice)
    if free < site.spool_bytes - held:
        advice = f"free space on its disk, or lower [limits] spool_mib in {SETTINGS}"
        return Finding(name=name, status="warn", found=f"{found}, {free / MIB:.0f} MiB free on its disk", advice=advice)
    return Finding(name=name, status="ok", found=found)


def walls(name: str, site: Site) -> Finding:
    """Whether the two processes can be kept apart on this machine. Raises SettingsError where the folders forbid it."""
    from fedward_client.daemon import executor_walls, supernode_walls

    if reason := isolation.impossible():
        found, _, advice = reason.partition("; ")
        return Finding(name=name, status="fail", found=found, advice=advice)
    if (site.link / HUB_CARD).exists():
        isolation.behind(executor_walls(site), [])
        isolation.behind(supernode_walls(site.link, site.spool, private_paths(site)), [])
    return Finding(name=name, status="ok", found="user namespaces can be made: the two processes are kept apart")


def catalog(name: str, site: Site) -> Finding:
    """Whether the images were scanned. Looks only where that changes nothing: opening a catalog makes a missing key."""
    from fedward_client.catalog import is_scanned

    if site.state.exists():
        if state(name, site).status != "ok":
            advice = "put the state folder right first"
            return Finding(name=name, status="warn", found="it was not looked at", advice=advice)
        pki.read_private(site.state / KEY)
        if is_scanned(site):
            return Finding(name=name, status="ok", found="the images were scanned")
    advice = "run `fedward site scan` on the site's folder"
    return Finding(name=name, status="warn", found="the images were not scanned yet", advice=advice)


def policy(name: str, site: Site) -> Finding:
    """Whether the site lets anything leave."""
    if site.outputs:
        return Finding(name=name, status="ok", found=f"{', '.join(sorted(site.outputs))} may leave once approved")
    advice = f'name what may leave in {SETTINGS}: [policy] outputs = ["counts", "update", "evaluation"]'
    return Finding(name=name, status="fail", found="it is empty, which lets nothing leave", advice=advice)


def daemon(name: str, site: Site) -> Finding:
    """Whether the site's daemon is up and well. Raises SettingsError for a socket that cannot be trusted."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from fedward_client import sockets

    socket = site.state / CONTROL_SOCKET
    if not socket.exists():
        return Finding(name=name, status="warn", found="it is not up", advice="start it with `fedward site up`")
    try:
        with closing(sockets.channel(socket)) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_LIMIT_S)
    except grpc.RpcError:
        advice = "look at `fedward site log`; if the daemon was killed, start it again with `fedward site up`"
        return Finding(name=name, status="fail", found=f"{CONTROL_SOCKET} is there and nobody answers", advice=advice)
    link = _link_status(site)
    if link.get("state") == "waiting":
        found = f"it is up and waits: {link.get('reason')}"
        return Finding(name=name, status="warn", found=found, advice="see below; `fedward site log` tells more")
    return Finding(name=name, status="ok", found=f"it is up, its link is {link.get('state', 'starting')}")


def _link_status(site: Site) -> dict[str, Any]:
    """What the network process last said of itself."""
    from fedward_client.member import LINK_STATUS

    with suppress(OSError, ValueError):
        found = json.loads((site.link / LINK_STATUS).read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def _no_member(name: str, found: str) -> Finding:
    advice = "run `fedward site join` on the site's folder, with the code of the hub's operator"
    return Finding(name=name, status="fail", found=found, advice=advice)


CHECKS: Mapping[str, Check] = {
    "state folder": state,
    "keys": keys,
    "state disk": state_disk,
    "spool": spool,
    "isolation": walls,
    "catalog": catalog,
    "policy": policy,
    "daemon": daemon,
}
