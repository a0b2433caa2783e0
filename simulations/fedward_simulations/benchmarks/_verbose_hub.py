"""A hub whose SuperLink writes a line for every request; everything else of it is the real one's.

python -m fedward_simulations.benchmarks._verbose_hub FOLDER
"""

from dataclasses import replace
from pathlib import Path

import typer

from fedward_server.hub import Hub
from fedward_server.superlink import SuperLink
from fedward_server.supervisor import supervise

LEVEL = "DEBUG"


class VerboseHub(Hub):
    """A hub with another level of its SuperLink's log."""

    @property
    def link(self) -> SuperLink:
        """Its SuperLink."""
        return replace(super().link, log_level=LEVEL)


def main(folder: Path) -> None:
    """Run a hub, as `fedward hub up` does."""
    supervise(VerboseHub.open(folder), lambda: None)


if __name__ == "__main__":
    typer.run(main)
