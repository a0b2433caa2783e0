"""A hub with people before their browsers, for tests: all of it real, but nothing listens and no SuperLink is up."""

import asyncio
import html
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import httpx
import pyotp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.types import ASGIApp

from fedward_common import certificates, pki
from fedward_common.cards import SiteCard
from fedward_common.joining import Invitation, JoinRequest
from fedward_common.study import SiteEntry, StudySpec
from fedward_common.testing import FakeGrid, FakeSite, tiny_study
from fedward_server.dashboard.app import dashboard_app
from fedward_server.dashboard.frame import Frame
from fedward_server.exchange import Node
from fedward_server.hub import Hub
from fedward_server.joining import Joining
from fedward_server.journal import Journal
from fedward_server.live import LiveRuns
from fedward_server.people import People, Role
from fedward_server.presence import Presence, PresenceWatch
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine
from fedward_server.store import Store

PASSWORD = "correct horse battery"  # noqa: S105 - of everybody
SITES = ("north", "south")  # are enrolled; north is connected, south never was

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass
class Ground:
    """The hub, and the secrets of its people's telephones."""

    hub: Hub
    store: Store
    folder: Path
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def people(self) -> People:
        """Who may log in."""
        return People(self.store)

    def browser(self, agent: str = "Firefox") -> "Browser":
        """A browser in which nobody is logged in."""
        watch = PresenceWatch(self.hub, self.store)
        watch.seen = {name: Presence(connection="never") for name in SITES}
        watch.seen[SITES[0]] = Presence(connection="online", since="2026-11-30T10:00:00")
        return Browser(dashboard_app(Frame(self.hub, self.store, watch, LiveRuns(self.hub, self.store))), agent)

    def person(self, name: str, role: Role, site: str | None = None) -> "Person":
        """Somebody who may log in, and has."""
        self.secrets[name] = self.people.add(name, role, PASSWORD, site=site)
        return Person(self, name, self.browser()).logs_in()

    def asks(self, name: str) -> SiteCard:
        """A site that was invited and has asked to join."""
        return self.sends(name, Joining(self.hub, self.store).invite(name))

    def sends(self, name: str, invitation: Invitation) -> SiteCard:
        """The same with an invitation that somebody has."""
        path = self.folder / f"{name}.key"
        pki.write_private(path, pki.make_node_key(), replace=True)
        key = Ed25519PrivateKey.generate()
        card = SiteCard.make(name, pki.node_public_line(pki.load_node_key(path)), key)
        request = certificates.make_request(name)[1].decode()
        Joining(self.hub, self.store).ask(JoinRequest.make(card, request, invitation.secret, key))
        return card

    def enrolled(self, name: str) -> None:
        """A site that was let in."""
        self.asks(name)
        joining = Joining(self.hub, self.store)
        joining.approve(joining.asked_by(name)[0])

    def started(self, run: str, *names: str, study: StudySpec | None = None) -> StudySpec:
        """A run of these sites, recorded as running; nothing works on it. Its study, resolved."""
        spec = self._resolved(names, study or tiny_study())
        self._recorded(run, spec)
        return spec

    def finished(
        self, run: str, *sites: FakeSite, study: StudySpec | None = None, absent: tuple[str, ...] = ()
    ) -> RunResult:
        """A run of these sites, done by the real engine; those that are `absent` were asked too."""
        numbers = dict(enumerate(sites, start=1))
        spec = self._resolved((*(site.name for site in sites), *absent), study or tiny_study())
        (self.hub.runs / run).mkdir(exist_ok=True)  # the weights with which it begins may be there
        result = RoundEngine(
            grid=FakeGrid(numbers),
            study=spec,
            run=run,
            engine="embedded",  # of which a hub that is up does not think that it died
            folder=self.hub.runs / run,
            on_round=lambda _row: None,
            listener=Journal(self.hub.runs / run),
            connected=lambda: {site.name: Node(number) for number, site in numbers.items()},
            compares=True,
        )()
        self.keeps(result)
        return result

    def keeps(self, result: RunResult) -> None:
        """A finished run that found this."""
        self._recorded(result.run, result.study, result.engine)
        result.write(self.hub.runs / result.run)
        self.store.finish_run(result.run, "finished", result.model_sha256)

    def _resolved(self, names: Iterable[str], study: StudySpec) -> StudySpec:
        known = self.store.sites()
        sites = tuple(SiteEntry(name=name, fingerprint=known[name].fingerprint) for name in sorted(names))
        return study.model_copy(update={"sites": sites})

    def _recorded(self, run: str, spec: StudySpec, engine: str = "deployment") -> None:
        text = spec.canonical_json()
        self.store.start_run(run, spec.study.id, spec.digest, text.decode(), engine)
        (self.hub.runs / run).mkdir(exist_ok=True)
        (self.hub.runs / run / "study.json").write_bytes(text)


@dataclass
class Browser:
    """Keeps cookies, follows no redirects, and calls the application itself, as if by https."""

    app: ASGIApp
    agent: str
    base: str = "https://hub"
    cookies: httpx.Cookies = field(default_factory=httpx.Cookies)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """Ask for a page."""
        return self.send("GET", path, **more)

    def post(
        self, path: str, data: Mapping[str, str] = _NOTHING, headers: Mapping[str, str] = _NOTHING
    ) -> httpx.Response:
        """Send a form."""
        return self.send("POST", path, data=dict(data), headers=dict(headers))

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request, with whatever httpx takes."""

        async def send() -> httpx.Response:
            headers = {"user-agent": self.agent, **more.pop("headers", {})}
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(self.app),
                base_url=self.base,
                cookies=self.cookies,
                headers=headers,
            ) as client:
                answer = await client.request(method, path, **more)
                self.cookies = client.cookies
                return answer

        return asyncio.run(send())


@dataclass
class Person:
    """Somebody before a browser."""

    ground: Ground
    name: str
    browser: Browser

    def logs_in(self) -> Self:
        """Log in with the digits of the moment."""
        code = pyotp.TOTP(self.ground.secrets[self.name]).now()
        answer = self.browser.post("/login", data={"name": self.name, "password": PASSWORD, "code": code})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        return self

    def sees(self, path: str = "/") -> str:
        """A page that is there."""
        answer = self.browser.get(path)
        assert answer.status_code == 200, answer.status_code
        return answer.text

    def csrf(self) -> str:
        """What stands in the forms of the session."""
        found: set[str] = set(re.findall(r'name="csrf" value="([0-9a-f]+)"', self.sees("/sites")))
        return found.pop()

    def sends(self, path: str, **values: str) -> tuple[int, str]:
        """Send a form of an own page; the answer's code and page."""
        answer = self.browser.post(path, data={"csrf": self.csrf(), **values})
        return answer.status_code, answer.text

    def crawls(self, *paths: str) -> dict[str, bytes]:
        """All that he finds from these pages on by following links, each of which leads somewhere."""
        found: dict[str, bytes] = {}
        waiting = list(paths)
        while waiting:
            path = waiting.pop()
            if path in found:
                continue
            answer = self.browser.get(path)
            assert answer.status_code in (200, 303), (path, answer.status_code)
            found[path] = answer.content
            if answer.headers.get("content-type", "").startswith("text/html"):
                links = re.findall(r'(?:href|src)="(/[^"#]*)', answer.text)
                waiting += [html.unescape(link) for link in links if not link.startswith("/static/")]
        return found

    def calls(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask the people's API, as a program with this session does."""
        return self.browser.send(method, f"/api/v1{path}", headers={"x-fedward-csrf": self.csrf()}, **more)


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """A hub that has a gateway and pages, with SITES."""
    hub = Hub.init(folder / "hub", name="alliance", port=19095, address="hub.example:443", dashboard="hub.example:8444")
    with hub.store() as store:
        made = Ground(hub, store, folder)
        for name in SITES:
            made.enrolled(name)
        yield made
