"""`python -m fedward_simulations.benchmarks`: one JSON line a figure on stdout, everything else on stderr."""

import json
import logging
from typing import Annotated

import typer

from fedward_common.errors import UsageError
from fedward_simulations import benchmarks


def main(
    only: Annotated[str, typer.Option(help="Names of benchmarks, separated by commas; all of them if not given.")] = "",
) -> None:
    """Measure, and print one JSON line a figure."""
    chosen = [name.strip() for name in only.split(",") if name.strip()] or benchmarks.names()
    try:
        running = [(name, benchmarks.run(name)) for name in chosen]
    except UsageError as error:
        typer.echo(f"benchmarks: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    logging.getLogger("flwr").setLevel(logging.WARNING)  # its strategies report every round
    for name, figures in running:
        typer.echo(f"benchmarks: {name} …", err=True)
        for figure in figures:
            typer.echo(json.dumps(figure.as_json()))


if __name__ == "__main__":
    typer.run(main)
