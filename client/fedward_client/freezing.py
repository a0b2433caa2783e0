"""A run's cohort: resolved once from the catalog, frozen, never changed, and refused when somebody in it opts out."""

import json
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedward_client.cache_index import purge
from fedward_client.catalog import Catalog, is_scanned, scan
from fedward_client.cohort import Cohort
from fedward_client.cohort_choice import choose, offered, resolve
from fedward_client.cohort_minimum import require
from fedward_client.intake.fingerprints import fingerprints
from fedward_client.intake.labels import SPLIT, read_labels
from fedward_client.intake.optout import opted_out
from fedward_client.site import Site
from fedward_common.disk import write_durably
from fedward_common.errors import DataError, RunError
from fedward_common.events import Event, Listener, ignore
from fedward_common.study import Input, StudySpec

RUNS = "runs"  # in a site's state folder
_FILE = "cohort.json"


class _Frozen(BaseModel):
    """What cohort.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    study: str
    digest: str
    cohort: Cohort


def freeze(site: Site, study: StudySpec, run: str, listener: Listener = ignore) -> Cohort:
    """The cohort of `run`: resolved and written at the first call, then exactly that, whatever the catalog has become.

    Scans the site's data first where that was never done. Raises RunError for a name that cannot name a run, DataError
    when the run's cohort belongs to another study, when the site's data cannot serve this one, and what
    `check_opted_out` raises.
    """
    path = run_folder(site, run) / _FILE
    listener(Event(site=site.name, stage="cohort", done=0, total=1))
    cohort = _read(path, study, run)
    if cohort is None:
        cohort = from_catalog(site, study, listener)
        require(cohort, study, site)
        frozen = _Frozen(study=study.digest, digest=cohort.digest, cohort=cohort)
        write_durably(path, frozen.model_dump_json().encode())
    check_opted_out(site, run)
    listener(Event(site=site.name, stage="cohort", done=1, total=1, note=_summary(cohort)))
    return cohort


def check_opted_out(site: Site, run: str) -> None:
    """Raise DataError where a patient of a run's frozen cohort has opted out since; their tensors are removed.

    Such a run ends here rather than going on with the others: figures and updates before and after would differ by that
    patient alone, and the hub has both. The sentence says neither who it is nor how many there are.
    """
    out, path = opted_out(site), run_folder(site, run) / _FILE
    if out and path.exists() and not out.isdisjoint(_people(path, path.stat().st_mtime_ns)):
        purge(site, out)
        raise DataError(
            f"{site.name} has patients in run '{run}' who have opted out since it began: stop the run and start a new "
            "one, which leaves them out"
        )


@lru_cache(maxsize=4)  # it is asked before and after every answer of a run, and a frozen cohort never changes
def _people(path: Path, _mtime_ns: int) -> tuple[str, ...]:
    return _frozen(path, path.parent.name).cohort.people


def run_folder(site: Site, run: str) -> Path:
    """Where a site keeps what belongs to a run. Raises RunError for a name that is none, a path for example."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", run):
        raise RunError(
            f"{run[:40]!r} cannot name a run: letters, digits, '.', '_' and '-', at most 128, a letter first"
        )
    return site.state / RUNS / run


def study_of(folder: Path) -> str | None:
    """The digest of the study that a run's folder is of; None where it does not say, or is a link."""
    with suppress(OSError, ValueError):
        found = None if folder.is_symlink() else json.loads((folder / _FILE).read_bytes())
        if isinstance(found, dict) and isinstance(found.get("study"), str):
            study: str = found["study"]
            return study
    return None


def _read(path: Path, study: StudySpec, run: str) -> Cohort | None:
    """The frozen cohort, or None where there is none yet."""
    try:
        frozen = _frozen(path, run)
    except FileNotFoundError:
        return None
    if frozen.study != study.digest:
        raise DataError(
            f"run '{run}' is frozen for another study or another version of it; start a new run for this one"
        )
    if frozen.digest != frozen.cohort.digest:
        raise DataError(f"the frozen cohort of run '{run}' was changed after it was frozen; start a new run")
    return frozen.cohort


def _frozen(path: Path, run: str) -> _Frozen:
    try:
        return _Frozen.model_validate_json(path.read_bytes())
    except ValidationError:
        raise DataError(f"the frozen cohort of run '{run}' is damaged; start a new run") from None


def from_catalog(site: Site, study: StudySpec, listener: Listener = ignore) -> Cohort:
    """The cohort as it would be now; scans first without a catalog. Raises DataError without images or labels."""
    if not is_scanned(site):
        scan(site, listener)
    out = opted_out(site)  # the list may be younger than the catalog
    with Catalog.open(site) as catalog:
        there = [row for row in offered(catalog, study) if row.patient not in out]
        table = {key: row for key, row in catalog.labels().items() if key not in out}
    if study.split.kind == "column" and study.split.column in {site.labels.patient, site.labels.key}:
        raise DataError(f"{site.name}: the study splits by the column of ids; name another [split] column")
    if study.split.kind == "column" and study.split.column != SPLIT:  # the catalog keeps one column to split by
        table = {k: v for k, v in read_labels(site, split=study.split.column).rows.items() if k not in out}
    if not there:
        what = {"image": "image", "series": "recording"}.get(study.input.kind, "row of a table")
        raise DataError(f"{site.name}: no readable {what} is in the catalog; `fedward site report` says what was found")
    choice = choose(there, table, study, site)
    if not choice.units and not table:
        raise DataError(f"{site.name}: no patient has a label; give a label table, then run `fedward site scan` again")
    images = isinstance(study.input, Input)
    prints = fingerprints(site, {unit.middle for unit in choice.units}, listener) if images else {}
    return resolve(choice, prints, study, site)


def _summary(cohort: Cohort) -> str:
    parts = [f"{len(cohort.people)} patients", f"{len(cohort.items)} images"]
    return ", ".join(parts + [f"left out: {count} {reason}" for reason, count in cohort.left_out.items()])
