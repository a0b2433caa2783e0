"""The one entrance for hospitals: Debian's nginx, with settings that are written here, started by `fedward hub up`.

    gateway/nginx.conf    four prefixes and nothing else; a certificate of this hub where one is needed
    gateway/nodes.map     which node key goes with which certificate's name
    gateway/revoked.pem   what every authority of the hub took back
    gateway/nginx.pid     of nginx's first process
    gateway/taken         what that process goes by: its id, and a digest of what it read when it was told to
    logs/gateway.log      a line a request, without addresses; logs/gateway-errors.log is nginx's own, of no request

nginx reads all of it when it is told to; until then, and when something in it is wrong, it goes on with what it had.
"""

import hashlib
import os
import pwd
import re
import shutil
import signal
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import jinja2
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedward_common import pki
from fedward_common.bulk import CHUNK_BYTES
from fedward_common.errors import RunError, SettingsError
from fedward_common.joining import JOIN
from fedward_server.hub import Hub
from fedward_server.hub_settings import read_file
from fedward_server.joining import gateway as settings_of
from fedward_server.locks import turn
from fedward_server.register import Register
from fedward_server.store import SiteRow, Store

FOLDER = "gateway"
API_SOCKET = f"{FOLDER}/api.sock"  # relative to the hub's folder, which may be longer than a socket's name
CUT_S = 60  # how long a request may go on that an earlier nginx process took
LOG_BYTES, LOGS_KEPT = 50 * 2**20, 5
_PID = "nginx.pid"
_CHECK_LIMIT_S, _RELOAD_LIMIT_S, _LOOK_S = 60.0, 10.0, 0.02
_SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway of a hub. Raises SettingsError for a hub that has none."""

    hub: Hub

    @property
    def folder(self) -> Path:
        """Where what nginx is told stands."""
        return self.hub.folder / FOLDER

    @property
    def socket(self) -> Path:
        """Where the API answers."""
        return self.hub.folder / API_SOCKET

    # What nginx is told ----------------------------------------------------------------------------------------------

    def write(self, store: Store) -> None:
        """Write everything as it should be now. Raises SettingsError where a key or a certificate for it is missing."""
        read_file(self.hub.issuing.root)  # without which nginx does not start, and says so in OpenSSL's words
        self.folder.mkdir(mode=0o700, exist_ok=True)
        (self.folder / "temporary").mkdir(mode=0o700, exist_ok=True)
        self._put("nginx.conf", self._settings())
        self._put("nodes.map", _nodes(store.sites().values()))
        self._write_lists(Register(store))
        self.hub.renew_gateway()
        self.hub.renew_dashboard()

    def _settings(self) -> str:
        pages = self.hub.settings.dashboard
        template = (Path(__file__).parent / "nginx.conf.jinja").read_text("utf-8")
        text = jinja2.Template(template, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        rendered: str = text.render(
            workers=min(os.cpu_count() or 1, 4),
            user=pwd.getpwuid(self.hub.folder.stat().st_uid).pw_name if os.geteuid() == 0 else "",
            cut_s=CUT_S,
            superlink=self.hub.port,
            chunk_bytes=CHUNK_BYTES,
            dashboard=pages.listen if pages else "",
            http2_alone=pages is not None and _has_http2_directive(),
            dashboard_certificate=(pages.certificate if pages else "") or f"../keys/{self.hub.dashboard_pem.name}",
            dashboard_key=(pages.key if pages else "") or f"../keys/{self.hub.dashboard_pem.name}",
            listen=settings_of(self.hub).listen,
        )
        return rendered

    def _put(self, name: str, text: str) -> None:
        path = self.folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            pki.write_private(path, text.encode(), replace=True)

    def _write_lists(self, register: Register) -> None:
        """The lists, made anew where they would say something else, and every day: each counts for some days only."""
        said = [str(datetime.now(UTC).date()), *(str(row) for row in register.certificates() if row.revoked)]
        said += [str(each.certificate.serial_number) for each in self.hub.issuing.all()]
        mark = f"# {hashlib.sha256('|'.join(said).encode()).hexdigest()}\n".encode()
        path = self.folder / "revoked.pem"
        if not path.exists() or not path.read_bytes().startswith(mark):
            pki.write_private(path, mark + self.hub.issuing.lists(register), replace=True)

    def _read(self) -> str:
        """A digest of what nginx reads and this hub changes."""
        files = [self.folder / name for name in ("nginx.conf", "nodes.map", "revoked.pem")]
        files += [path for path in (self.hub.gateway_pem, self.hub.dashboard_pem) if path.exists()]
        return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()

    # nginx -----------------------------------------------------------------------------------------------------------

    def command(self, *more: str) -> list[str]:
        """What starts nginx, in the hub's folder. Raises SettingsError where it is not installed."""
        program = _program()
        if program is None:
            raise SettingsError("nginx is not installed, which is the hub's gateway: sudo apt-get install nginx-light")
        return [program, "-p", str(self.hub.folder), "-e", "stderr", "-c", f"{FOLDER}/nginx.conf", *more]

    def check(self) -> None:
        """Have nginx read what it is told. Raises RunError with its words where it does not take it."""
        command = self.command("-t", "-q")
        try:
            done = subprocess.run(
                command, cwd=self.hub.folder, capture_output=True, text=True, check=False, timeout=_CHECK_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            raise RunError(f"nginx has not read the gateway's settings within {_CHECK_LIMIT_S:g} s") from None
        if done.returncode:
            words = [line for line in done.stderr.splitlines() if "[emerg]" in line] or ["it does not say why"]
            said = words[-1].rpartition("#")[2].partition(": ")[2] or words[-1]
            raise RunError(f"nginx does not take the gateway's settings: {said}")

    def pid(self) -> int | None:
        """Nginx's first process, None where it does not run."""
        with suppress(OSError, ValueError):
            pid = int((self.folder / _PID).read_text())
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if title.startswith(b"nginx: master") and str(self.hub.folder).encode() in title:
                return pid
        return None

    def answers(self) -> bool:
        """Whether hospitals that reach this machine get the hub's card: gateway and API are up."""
        section = settings_of(self.hub)
        host, _, port = section.listen.rpartition(":")
        here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - what it is told to bind
        trust = ssl.create_default_context(cafile=self.hub.issuing.root)
        with httpx.Client(verify=trust, trust_env=False, timeout=2.0) as client, suppress(httpx.HTTPError):
            asked = client.build_request(
                "GET",
                f"https://{here}:{port}{JOIN}",
                headers={"host": section.address},
                extensions={"sni_hostname": section.host},
            )
            return client.send(asked).status_code in {200, 429}  # or too many have asked: it is up
        return False

    def reload(self) -> None:
        """Have nginx, where it runs, go by what was written; returns when it does. Raises RunError otherwise.

        What it did not take is left to the next call, whoever's that is.
        """
        pid, taken = self.pid(), self.folder / "taken"
        if pid is None:
            taken.unlink(missing_ok=True)  # it may be starting, and have read what was there before
            return
        mark = f"{pid} {self._read()}"
        if taken.exists() and taken.read_text("utf-8") == mark:
            return
        self.check()
        before = _children(pid)
        os.kill(pid, signal.SIGHUP)
        started = time.monotonic()
        while not _children(pid) - before or any(_takes_more(child) for child in before):
            if time.monotonic() - started > _RELOAD_LIMIT_S:
                raise RunError("nginx does not take the gateway's new settings; logs/gateway-errors.log says why")
            time.sleep(_LOOK_S)
        pki.write_private(taken, mark.encode(), replace=True)

    def turn_logs(self) -> None:
        """Begin each log anew that has grown long; the last five are kept."""
        long = [log for log in (self.hub.logs / "gateway.log", self.hub.logs / "gateway-errors.log") if _is_long(log)]
        for log in long:
            log.replace(_emptied(log))
        if long and (pid := self.pid()) is not None:
            os.kill(pid, signal.SIGUSR1)  # it opens its logs anew
        for log in (self.hub.link.log_file, self.hub.logs / "api.log"):  # whose programs cannot, and only append
            if _is_long(log):
                copy = log.with_suffix(".log.copy")
                try:
                    shutil.copyfile(log, copy)
                except OSError:  # on a full disk those that are kept stay as they are
                    copy.unlink(missing_ok=True)
                    raise
                copy.replace(_emptied(log))
                os.truncate(log, 0)


def _emptied(log: Path) -> Path:
    """The place of a log's last part, with those before it moved on."""
    for number in range(LOGS_KEPT - 1, 0, -1):
        with suppress(FileNotFoundError):
            log.with_suffix(f".log.{number}").replace(log.with_suffix(f".log.{number + 1}"))
    return log.with_suffix(".log.1")


def _is_long(log: Path) -> bool:
    return log.exists() and log.stat().st_size > LOG_BYTES


def bring_gateway_in_line(hub: Hub) -> None:
    """Make a hub's gateway go by the database as it is now. Does nothing for a hub without one."""
    if hub.gateway is None:
        return
    gateway = Gateway(hub)
    gateway.folder.mkdir(mode=0o700, exist_ok=True)
    with turn(gateway.folder / "lock"), hub.store() as store:
        gateway.write(store)
        gateway.reload()


def _nodes(sites: Iterable[SiteRow]) -> str:
    """Nginx's map of "SITE:KEY", the key as Flower's nodes send it in a header."""
    return "".join(f'"{row.site}:{node_header(row.node_key)}" 1;\n' for row in sites)


def node_header(node_key: str) -> str:
    """A node key (one OpenSSH line) as Flower's nodes send it: base64 of its PEM."""
    key = pki.node_public_from_line(node_key)
    return b64encode(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).decode()


def _program() -> str | None:
    return shutil.which("nginx", path=_SEARCHED)


def _has_http2_directive() -> bool:
    """Whether nginx has `http2 on;`, since 1.25.1; before, it is a word of `listen`, of which later ones warn."""
    if (program := _program()) is None:
        return False
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False, timeout=60).stderr
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said)
    return found is not None and tuple(int(part) for part in found.groups()) >= (1, 25, 1)


def _takes_more(worker: int) -> bool:
    """Whether one of nginx's processes takes new connections."""
    with suppress(OSError):
        title = Path(f"/proc/{worker}/cmdline").read_bytes()
        return bool(title) and b"shutting down" not in title
    return False


def _children(pid: int) -> set[int]:
    with suppress(OSError):
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return set()
