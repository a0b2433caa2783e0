"""The dashboard of a hub with ten thousand runs: how soon the largest run is drawn, and what fifty browsers wait.

Everything is real: nginx with TLS, the API's process, Chromium. Beside the run of two hundred hospitals and five
hundred rounds stands one of three and twenty in the same browser; beside a page's answer, a file from the same process.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import httpx
import pyotp
from playwright.sync_api import Page, sync_playwright

from fedward_common.errors import UsageError
from fedward_server.dashboard.security import COOKIE
from fedward_server.gateway import Gateway
from fedward_server.hub import Hub
from fedward_server.people import People
from fedward_server.superlink import HOST, free_port
from fedward_simulations.benchmarks import Figure
from fedward_simulations.benchmarks._planted_runs import plant_run, plant_runs
from fedward_simulations.federation import HUB_UP, background

RUNS, SITES, ROUNDS = 10_000, 200, 500
BROWSERS, LOOKS, LOOK_S = 50, 10, 2.0  # a page that is open looks every two seconds
TIMES = 5
AGENT = "a browser of the benchmark"
NAME, PASSWORD = "watcher", "correct horse battery"
LARGE, SMALL = "large", "small"
UP_S = 60.0


def run() -> Iterator[Figure]:
    """Seconds until a run is drawn; milliseconds until an overview has come, for one in twenty."""
    with tempfile.TemporaryDirectory(prefix="fedward-bench-") as scratch, _hub(Path(scratch)) as (url, secret, tokens):
        drawn = _drawn(url, secret)
        yield Figure(
            name="dashboard",
            setting={"sites": SITES, "rounds": ROUNDS, "runs": RUNS, "what": "run drawn"},
            value=median(drawn[LARGE]),
            unit="s",
            reference="a run of 3 sites and 20 rounds",
            reference_value=median(drawn[SMALL]),
        )
        waited = asyncio.run(_fifty(url, tokens))
        yield Figure(
            name="dashboard",
            setting={"browsers": BROWSERS, "runs": RUNS, "what": "overview, 95th percentile"},
            value=_percentile(waited["/"]),
            unit="ms",
            reference="a file of 5 kB, asked for in between",
            reference_value=_percentile(waited["/static/style.css"]),
        )


@contextmanager
def _hub(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """A hub that is up: its pages' address, the secret of somebody's telephone, and the sessions of fifty others."""
    address, pages = (f"{HOST}:{free_port()}" for _ in range(2))
    hub = Hub.init(
        folder / "hub", port=free_port(), address=address, listen=address, root=folder / "root", dashboard=pages
    )
    with hub.store() as store:
        people = People(store)
        secret = people.add(NAME, "auditor", PASSWORD)
        tokens = [_logged_in(people, f"watcher-{number}") for number in range(BROWSERS)]
        plant_runs(store, RUNS)
        plant_run(hub, store, LARGE, sites=SITES, rounds=ROUNDS)
        plant_run(hub, store, SMALL, sites=3, rounds=20)
    with background([sys.executable, "-m", *HUB_UP, str(hub.folder)], folder / "hub.out"):
        until = time.monotonic() + UP_S
        while not (hub.link.healthy() and Gateway(hub).answers()):
            if time.monotonic() > until:
                raise UsageError(f"the hub is not up after {UP_S:.0f} s: {(folder / 'hub.out').read_text()}")
            time.sleep(0.1)
        yield f"https://{pages}", secret, tokens


def _logged_in(people: People, name: str) -> str:
    """A session of one of the browsers that this process plays."""
    code = pyotp.TOTP(people.add(name, "auditor", PASSWORD)).now()
    token = people.log_in(name, PASSWORD, code, f"{HOST} {AGENT}")
    assert token is not None
    return token


def _drawn(url: str, secret: str) -> dict[str, list[float]]:
    """Seconds until each run's page was drawn, several times."""
    program = shutil.which("chromium")
    if program is None:
        raise UsageError("the browser is Debian's chromium: `make test` says how to install it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_context(ignore_https_errors=True).new_page()
        page.goto(url)
        for field, text in {"#name": NAME, "#password": PASSWORD, "#code": pyotp.TOTP(secret).now()}.items():
            page.locator(field).fill(text)
        page.locator("main button").click()
        page.locator("nav").wait_for()
        try:
            return {run: [_draw(page, f"{url}/runs/{run}") for _ in range(TIMES)] for run in (LARGE, SMALL)}
        finally:
            browser.close()


def _draw(page: Page, url: str) -> float:
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.locator("#sites tr").first.wait_for()
    page.locator("#bytes canvas").wait_for()  # the last that is drawn
    return time.perf_counter() - started


async def _fifty(url: str, tokens: Sequence[str]) -> dict[str, list[float]]:
    """Milliseconds that each look took: each browser follows the large run, and has the overview open."""
    found: dict[str, list[float]] = {"/": [], "/static/style.css": []}

    opened = asyncio.Barrier(BROWSERS)

    async def browser(number: int, token: str) -> None:
        async with httpx.AsyncClient(
            base_url=url,
            verify=False,  # noqa: S501 - on loopback, of a root made just now
            cookies={COOKIE: token},
            headers={"user-agent": AGENT},
            timeout=60,
        ) as client:
            first = asyncio.Event()
            following = asyncio.create_task(_follow(client, first))
            await asyncio.wait({following, asyncio.create_task(first.wait())}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()  # raises what went wrong
            await opened.wait()  # one process plays all browsers, and taking in fifty large runs at once is its work
            await asyncio.sleep(LOOK_S * number / BROWSERS)
            for _ in range(LOOKS):
                for path, waited in found.items():
                    started = time.perf_counter()
                    (await client.get(path, headers={"hx-request": "true"})).raise_for_status()
                    waited.append(1000 * (time.perf_counter() - started))
                await asyncio.sleep(LOOK_S)
            following.cancel()

    await asyncio.gather(*(browser(number, token) for number, token in enumerate(tokens)))
    return found


async def _follow(client: httpx.AsyncClient, first: asyncio.Event) -> None:
    """Follow the large run; `first` when all of it has come."""
    async with client.stream("GET", f"/api/v1/runs/{LARGE}/events", headers={"accept": "text/event-stream"}) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                first.set()


def _percentile(milliseconds: list[float]) -> float:
    return quantiles(milliseconds, n=20)[-1]
