"""A site's daemon that starts `_noop` as its data side; everything else of it, the walls too, is the real one's.

python -m fedward_simulations.benchmarks._noop_daemon FOLDER
"""

from pathlib import Path
from typing import Annotated

import typer

from fedward_client import daemon
from fedward_client.member import private_paths
from fedward_client.site import Site

DATA_SIDE = "fedward_simulations.benchmarks._noop"


class NoopDaemon(daemon.Daemon):
    """A daemon with another data side."""

    def _sides(self) -> list[daemon._Side]:
        sides = super()._sides()
        for side in sides:
            if side.name == "executor":
                at = list(side.command).index("fedward_common")  # -m fedward_common site executor FOLDER …
                side.command = [*side.command[:at], DATA_SIDE, *side.command[at + 3 :]]
        return sides


def main(folder: Path, unsafe_no_walls: Annotated[bool, typer.Option()] = False) -> None:
    """Run a site, as `fedward site up` does."""
    site = Site.open(folder)
    daemon.log_to(site.ensure_state() / "daemon.log", site.log_format, private_paths(site))
    NoopDaemon(site, unsafe=unsafe_no_walls)()


if __name__ == "__main__":
    typer.run(main)
