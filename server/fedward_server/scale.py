"""The standard scale of a study that leaves it to its sites: measured once a run, before they prepare, and kept.

Sites that train are asked for sums (`landmarks.site_sums`); those that send none, for their policy or because they have
too few patients, can still use the scale. It stands in `landmarks.json` of the run's folder before any site is told of
it, so a run that is killed at any moment goes on with the same.
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedward_common.cohort_statistics import Statistics
from fedward_common.disk import write_durably
from fedward_common.errors import CheckpointError, RunError
from fedward_common.landmarks import Scale, merged, standard_scale
from fedward_common.records import Question
from fedward_common.study_input import LANDMARKS
from fedward_server.checkpoints import newest
from fedward_server.events import EventKind
from fedward_server.inquiry import Inquiry
from fedward_server.roster import Gathering

FILE = "landmarks.json"
_TOLD_AS: dict[str, EventKind] = {"prepared": "surveyed", "left-out": "unsurveyed"}


class _Measured(BaseModel):
    """The file: of which study, the scale, and how many patients of which sites are in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    study: str
    landmarks: Annotated[Scale, Field(min_length=LANDMARKS, max_length=LANDMARKS)]
    patients: dict[str, int]


def measured(ask: Inquiry, folder: Path, *, wait_s: float, resume: bool) -> Scale:
    """The scale of a run: of its folder where it is resumed, else measured now.

    Raises RunError where no site sends sums, CheckpointError where a run has rounds and its scale is gone.
    """
    path = folder / FILE
    if resume and path.exists():
        return _read(path, ask.study.digest)
    if resume and newest(folder):
        raise CheckpointError(f"{path} is gone, and what was trained needs it: restore it from a backup")
    gathering = Gathering(
        grid=ask.grid,
        question=Question(kind="stats", study=ask.study, run=ask.run, statistics="landmarks"),
        answer=Statistics,
        tell=lambda kind, site, note: ask.tell(told_as(kind), 0, site=site, note=note),
    )
    trainers = [site.name for site in ask.study.sites if not ask.study.only_evaluates(site.name)]
    gathering.ask(ask.connected, trainers, wait_s=wait_s)
    sums = {
        site: said.landmarks
        for site, (_, said) in sorted(gathering.found.items())
        if said.landmarks is not None and not ask.study.only_evaluates(site)
    }
    if not sums:
        raise RunError(
            f"no site measured the standard scale ({'; '.join(gathering.left_out)}): let a policy name 'statistics', "
            "or give [input] landmarks of an earlier run"
        )
    scale = standard_scale(merged(sums.values()))
    found = _Measured(
        study=ask.study.digest, landmarks=scale, patients={site: each.patients for site, each in sums.items()}
    )
    write_durably(path, found.model_dump_json(indent=1).encode())
    return scale


def told_as(kind: EventKind) -> EventKind:
    """What a `Gathering` tells, where it gathers statistics: no site is in or out of a run by it."""
    return _TOLD_AS.get(kind) or kind


def _read(path: Path, study: str) -> Scale:
    try:
        found = _Measured.model_validate_json(path.read_bytes())
    except ValidationError:
        raise CheckpointError(f"{path} is damaged: restore it from a backup, or start a new run") from None
    if found.study != study:
        raise CheckpointError(f"{path} is of another study: restore it from a backup, or start a new run")
    return found.landmarks
