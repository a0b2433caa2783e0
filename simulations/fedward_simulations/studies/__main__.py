"""`python -m fedward_simulations.studies`: run the studies, and write the page of their results."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedward_common.errors import FedwardError, UsageError
from fedward_common.study_faults import near
from fedward_simulations.studies.limits import LIMITS
from fedward_simulations.studies.limits_page import write_page
from fedward_simulations.studies.record import add, read
from fedward_simulations.studies.running import page, run_all, trials


def main(
    data: Annotated[Path, typer.Option(help="The folder with the public collections, a folder each.")],
    out: Annotated[Path, typer.Option(help="Where runs, reports and models go.")] = Path("studies-output"),
    results: Annotated[Path, typer.Option(help="The page that is written.")] = Path("docs/results.md"),
    only: Annotated[list[str] | None, typer.Option(help="These studies only; may be repeated.")] = None,
) -> None:
    """Run Fedward's studies, three seeds each, and those of the four limits of the field.

    What they found is kept beside the page of the results, results.json, from which that page and limits.md are
    written; what was found before stays where it is not run again. What ran to its end in --out is not run again; a
    study whose collection is not in --data is left out.

    Example: python -m fedward_simulations.studies --data ../data --only heart-disease
    """
    console = Console(stderr=True)
    groups = {**{trial.name: (trial,) for trial in trials()}, **{limit.name: limit.trials for limit in LIMITS}}
    for name in only or ():
        if name not in groups:
            raise UsageError(f"no study is called '{name}'{near(name, [*groups])}; studies: {', '.join(groups)}")
    chosen = {trial.name: trial for name in only or groups for trial in groups[name]}
    kept = results.with_suffix(".json")
    try:
        for name, record in run_all(chosen.values(), data, out, console, by_name=only is not None):
            add(kept, name, record)  # at once: all together take hours
    finally:
        records = read(kept)
        results.write_text(page(records), encoding="utf-8")
        write_page(records, results.with_name("limits.md"))
        console.print(f"Results: {results}, {results.with_name('limits.md')}", highlight=False)


if __name__ == "__main__":
    try:
        typer.run(main)
    except FedwardError as error:
        sys.exit(f"fedward: {error}")
