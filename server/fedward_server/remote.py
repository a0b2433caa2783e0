"""A hub that is elsewhere, by its people's API: `fedward hub login`, and `--hub https://…` of `fedward study`.

Who is logged in where stands in a file that only its owner can read, as long as the hub lets the session go on.
"""

import json
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from fedward_common import __version__, pki
from fedward_common.errors import RunError, SettingsError, UsageError
from fedward_server.api.people import CSRF_HEADER, PATH
from fedward_server.dashboard.security import COOKIE
from fedward_server.events import EventKind, RunEvent

LIMIT_S = 120.0  # to start a study takes a hub some seconds
SILENCE_S = 60.0  # of a stream that says something every ten
AGENT = f"fedward/{__version__}"


class Saved(BaseModel):
    """One session. `authority` is PEM, for a hub whose certificate the machine does not know; "" for others."""

    model_config = ConfigDict(extra="forbid")

    token: str
    csrf: str
    authority: str = ""


def is_remote(hub: str) -> bool:
    """Whether a hub is named by its address, not by its folder."""
    return hub.startswith(("https://", "http://"))


@dataclass(frozen=True, slots=True)
class Remote:
    """A hub where somebody is logged in."""

    url: str
    saved: Saved

    # Sessions --------------------------------------------------------------------------------------------------------

    @classmethod
    def log_in(cls, url: str, name: str, password: str, code: str, authority: str) -> Self:
        """Log in, and remember it; `authority` is as in `Saved`.

        Raises UsageError where the hub does not let one in, RunError where it is away.
        """
        url = checked(url)
        with _client(url, Saved(token="", csrf="", authority=authority)) as client:
            answer = _answered(
                url, lambda: client.post("/session", json={"name": name, "password": password, "code": code})
            )
            found = cls(url, Saved(token=client.cookies[COOKIE], csrf=answer["csrf"], authority=authority))
        _remember({**_sessions(), url: found.saved})
        return found

    @classmethod
    def at(cls, url: str) -> Self:
        """A hub where one has logged in. Raises UsageError for another."""
        url = checked(url)
        saved = _sessions().get(url)
        if saved is None:
            raise UsageError(_log_in_first(url))
        return cls(url, saved)

    def log_out(self) -> None:
        """End the session, and forget it, also where the hub does not answer."""
        rest = {url: saved for url, saved in _sessions().items() if url != self.url}
        try:
            with _client(self.url, self.saved) as client:
                _answered(self.url, lambda: client.delete("/session"))
        finally:
            _remember(rest)

    # Asking ----------------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the API answers. Raises UsageError or RunError with the hub's own sentence."""
        with _client(self.url, self.saved) as client:
            return _answered(self.url, lambda: client.request(method, path, json=body))

    def page(self, path: str) -> str:
        """The address of a page, for people."""
        return f"{self.url}{path}"

    def follow(self, run: str, show: Callable[[RunEvent], None]) -> dict[str, Any]:
        """Give `show` what happens to a run until it has ended; how it then stands."""
        state: dict[str, Any] = {}
        rounds: set[tuple[EventKind, int]] = set()  # that were told: states hold them again when their figures come
        for state in self._states(run):
            for event in _events(state):
                if event.kind not in ("round", "aggregated"):
                    show(event)
                elif (event.kind, event.round) not in rounds:
                    rounds.add((event.kind, event.round))
                    show(event)
        return state

    def _states(self, run: str) -> Iterator[dict[str, Any]]:
        headers = {"accept": "text/event-stream"}
        with (
            _explained(self.url),
            _client(self.url, self.saved, SILENCE_S) as client,
            client.stream("GET", f"/runs/{run}/events", headers=headers) as answer,
        ):
            if answer.is_error:
                answer.read()
                raise _refused(self.url, answer)
            over = False
            for line in answer.iter_lines():
                if line.startswith("data: {") and not over:
                    yield json.loads(line.removeprefix("data: "))
                over = over or line == "event: over"
            if not over:
                raise UsageError(_log_in_first(self.url))


def _events(state: dict[str, Any]) -> Iterator[RunEvent]:
    """What a state tells that the one before did not, as a run tells it."""
    run, rounds = state["run"], state["of"]
    for time, said, number, site, note in state["log"]:
        yield RunEvent(kind=said, run=run, round=number, rounds=rounds, site=site, note=note, time=time)
    for number, _began, ended, *_figures, note in state["rounds"]:
        kind: EventKind = "round" if ended is None else "aggregated"
        yield RunEvent(kind=kind, run=run, round=number, rounds=rounds, note=note)


def checked(url: str) -> str:
    """A hub's address without what comes after it. Raises UsageError for none, and for one without TLS."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme != "https" or not parsed.host:
        raise UsageError(f"{url} is no address of a hub's dashboard, which is https://HOST:PORT")
    return f"https://{parsed.netloc.decode()}"


def read_authority(path: Path) -> str:
    """The certificates (PEM) of who vouches for a hub's. Raises UsageError where a file holds none."""
    try:
        pem = path.read_bytes().decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):
        raise UsageError(f"{path} holds no certificate (PEM): name the hub's root with --authority") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): name the hub's root with --authority") from None
    return pem


def _log_in_first(url: str) -> str:
    return f"you are not logged in at {url}, or not any more: `fedward hub login {url} --name NAME`"


# The way there -------------------------------------------------------------------------------------------------------


def _client(url: str, saved: Saved, limit_s: float = LIMIT_S) -> httpx.Client:
    trust = ssl.create_default_context(cadata=saved.authority or None)
    headers = {"user-agent": AGENT, CSRF_HEADER: saved.csrf}
    cookies = {COOKIE: saved.token} if saved.token else {}
    return httpx.Client(base_url=url + PATH, verify=trust, timeout=limit_s, headers=headers, cookies=cookies)


def _answered(url: str, call: Callable[[], httpx.Response]) -> Any:
    with _explained(url):
        answer = call()
    if answer.is_error:
        raise _refused(url, answer)
    return answer.json() if answer.content else None


def _refused(url: str, answer: httpx.Response) -> UsageError | RunError:
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return UsageError(_log_in_first(url))
    try:
        said = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        said = f"{url} answered {answer.status_code}: its API is not up, or this is no hub"
    return RunError(said) if answer.is_server_error else UsageError(said)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what goes wrong on the way into words."""
    try:
        yield
    except httpx.HTTPError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error) and "mismatch" in str(error):
            raise RunError(
                f"{url} shows a certificate that is for another name: use the address that the hub's operator gave you"
            ) from None
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise RunError(
                f"{url} shows a certificate that this machine does not trust: name the hub's root with --authority"
            ) from None
        raise RunError(f"{url} cannot be reached ({type(error).__name__}): is the hub up?") from None


# Where it is remembered ----------------------------------------------------------------------------------------------


def _file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "fedward" / "sessions.json"


def _sessions() -> dict[str, Saved]:
    path = _file()
    if not path.exists():
        return {}
    try:
        return {url: Saved.model_validate(saved) for url, saved in json.loads(pki.read_private(path)).items()}
    except (ValueError, ValidationError):
        raise SettingsError(f"{path} cannot be read: remove it, and log in again") from None


def _remember(sessions: dict[str, Saved]) -> None:
    path = _file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps({url: saved.model_dump() for url, saved in sessions.items()}, indent=1)
    pki.write_private(path, text.encode(), replace=True)
