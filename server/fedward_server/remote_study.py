"""`fedward study … --hub https://…`: the same as at a hub's folder, by the API of its people."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fedward_common.errors import RunError
from fedward_server.progress import RunBar
from fedward_server.remote import Remote, is_remote
from fedward_server.tables import show_runs, show_table, status_of

LISTED = 100


def at(hub: str) -> "RemoteStudies | None":
    """The studies of a hub that is named by its address, None for one that is named by its folder."""
    return RemoteStudies(Remote.at(hub), Console(stderr=True)) if is_remote(hub) else None


@dataclass(frozen=True, slots=True)
class RemoteStudies:
    """What an investigator does from his own machine."""

    remote: Remote
    console: Console

    def start(
        self, study: Path, sites: Sequence[str], seed: int | None, wait_s: float, *, detach: bool, as_json: bool
    ) -> None:
        """Start a study and follow it, unless it is to go on by itself."""
        wanted = {"study": study.read_text("utf-8"), "sites": list(sites), "seed": seed, "wait_s": wait_s}
        started = self.remote.ask("POST", "/runs", wanted)
        self._go_on(started, detach=detach, as_json=as_json)

    def resume(self, run: str, wait_s: float, *, detach: bool, as_json: bool) -> None:
        """Let a run go on, and follow it as `start` does."""
        self._go_on(self.remote.ask("POST", f"/runs/{run}/resume?wait_s={wait_s}"), detach=detach, as_json=as_json)

    def act(self, run: str, action: str) -> None:
        """Pause or stop a run."""
        self.remote.ask("POST", f"/runs/{run}/{action}")

    def status(self, run: str | None, *, follow: bool, as_json: bool) -> None:
        """List the runs, or say how one stands, or follow it."""
        if run is None:
            found = self.remote.ask("GET", f"/runs?many={LISTED}")
            print(json.dumps(found, indent=2)) if as_json else show_runs(list(reversed(found)))
        elif follow:
            self._follow(run, as_json=as_json)
        else:
            self._show(self.remote.ask("GET", f"/runs/{run}"), as_json=as_json)

    def _go_on(self, run: dict[str, Any], *, detach: bool, as_json: bool) -> None:
        if not detach:
            self._follow(run["run"], as_json=as_json)
        elif as_json:
            print(json.dumps(run, indent=2))
        else:
            print(run["run"])

    def _follow(self, run: str, *, as_json: bool) -> None:
        """Follow a run to its end. Raises RunError where it ends otherwise than finished."""
        with ExitStack() as stack:
            bar = stack.enter_context(RunBar(self.console, run))
            ended = self.remote.follow(run, bar)
        self._show(self.remote.ask("GET", f"/runs/{run}"), as_json=as_json)
        if ended["status"] in ("failed", "stopped"):
            raise RunError(f"run {run} {'failed' if ended['status'] == 'failed' else 'was stopped'}: {ended['reason']}")

    def _show(self, state: dict[str, Any], *, as_json: bool) -> None:
        if as_json:
            print(json.dumps(state, indent=2))
            return
        rows = [
            {"site": site, "approval": approval, "last": kind, "note": note}
            for site, (kind, note, approval, _percent) in zip(state["sites"], state["states"], strict=True)
        ]
        Console().print(f"{state['run']}: {status_of(state)}, round {state['round']} of {state['of']}", highlight=False)
        show_table(rows, ("site", "approval", "last", "note"), "no site was asked yet")
        print(self.remote.page(f"/runs/{state['run']}"))
