"""`fedward site check`: what a study would find at a hospital, before it joins."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedward_client.cli_common import AsJson, Folder, State, progress
from fedward_client.site import Site

if TYPE_CHECKING:
    from fedward_client.dry_run import DryRun

MINUTE_S = 60
MOST_WORDS = 20


def check(
    folder: Folder,
    study: Annotated[str, typer.Argument(help="A study's file, or the name of a template.")],
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Say what a study would find here, and what it would cost: a dry run; nothing is frozen, nothing leaves.

    Exit code 1 where this site cannot take part. Example: fedward site check /srv/hospital breast-ultrasound
    """
    from fedward_client.dry_run import dry_run
    from fedward_common.study import find, load

    site, spec = Site.open(folder, state=state), load(find(study))
    with progress("Looking at the catalog") as listener:
        found = dry_run(site, spec, listener)
    if as_json:
        print(json.dumps({"site": site.name, **asdict(found)}))
    else:
        _show(site, found)
    if found.refusal:
        raise typer.Exit(1)


def _show(site: Site, found: "DryRun") -> None:
    table = Table("", "", "count", title=f"Study {found.study} at site {site.name}", title_justify="left")
    table.columns[2].justify = "right"
    for heading, what, count in _rows(found):
        table.add_row(heading, Text(what), count)
    console = Console()
    console.print(table)
    verdict = f"Cannot take part: {found.refusal}" if found.refusal else "Can take part."
    console.print(Text(verdict, overflow="fold"))


def _rows(found: "DryRun") -> Iterator[tuple[str, str, str]]:
    yield from (("patients", side, str(count)) for side, count in found.patients.items())
    yield from (("training patients", label, str(count)) for label, count in found.labels.items())
    yield from (("images, not known", label, str(count)) for label, count in found.not_known.items())
    yield "images", "", str(found.images)
    yield from (("left out", reason, str(count)) for reason, count in found.left_out.items())
    yield from (("in quarantine", reason, str(count)) for reason, count in found.quarantined.items())
    yield from (("near-duplicates", what, str(count)) for what, count in found.linked.items())
    yield from (("rows, no label of the study", word, str(count)) for word, count in _most(found.other_words))
    yield "disk", "needed by the cache", f"{math.ceil(found.cache_mib):,} MiB"
    if found.cache_limit_mib is not None:
        yield "disk", "the most that all studies' caches may take", f"{math.floor(found.cache_limit_mib):,} MiB"
    yield "disk", "free", f"{math.floor(found.free_mib):,} MiB"
    if found.round_s is not None:
        yield "a round", "of training on this machine, about", f"{found.round_s / MINUTE_S:.1f} min"


def _most(words: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The most frequent words, and how many rows the others have."""
    rows = list(words.items())
    yield from rows[:MOST_WORDS]
    if others := rows[MOST_WORDS:]:
        yield f"{len(others)} other words", sum(count for _, count in others)
