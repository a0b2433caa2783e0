"""The scale of a study that leaves it to its sites: measured once a run, before they prepare, and kept.

Of images it is the standard scale of grey values (`landmarks`), of tables that of their features (`feature_scale`).
Sites that train are asked for sums; those that send none, for their policy or because they have too few patients, can
still use the scale. Where the study asks for ComBat, every site is asked, and one that sends no sums cannot take part.
The scale stands in `scale.json` of the run's folder before any site is told of it, so a run that is killed at any
moment goes on with the same.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from fedward_common import feature_scale
from fedward_common.cohort_statistics import Statistics
from fedward_common.disk import write_durably
from fedward_common.errors import CheckpointError, RunError
from fedward_common.landmarks import merged, standard_scale
from fedward_common.records import Question
from fedward_common.study import Scale, StudySpec, TableInput
from fedward_server.checkpoints import newest
from fedward_server.events import EventKind
from fedward_server.inquiry import Inquiry
from fedward_server.roster import Gathering

FILE = "scale.json"
_TOLD_AS: dict[str, EventKind] = {"prepared": "surveyed", "left-out": "unsurveyed"}


class _Measured(BaseModel):
    """The file: of which study, the scale, and how many patients of which sites are in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    study: str
    scale: Scale
    patients: dict[str, int]


def measured(ask: Inquiry, folder: Path, *, wait_s: float, resume: bool) -> Scale:
    """The scale of a run: of its folder where it is resumed, else measured now.

    Raises RunError where no site sends sums, or none can be made of them; CheckpointError where a run has rounds and
    its scale is gone.
    """
    path = folder / FILE
    if resume and path.exists():
        return _read(path, ask.study)
    if resume and newest(folder):
        raise CheckpointError(f"{path} is gone, and what was trained needs it: restore it from a backup")
    gathering = Gathering(
        grid=ask.grid,
        question=Question(kind="stats", study=ask.study, run=ask.run, statistics="scale"),
        answer=Statistics,
        tell=lambda kind, site, note: ask.tell(told_as(kind), 0, site=site, note=note),
    )
    asked = [site.name for site in ask.study.sites if ask.study.measures(site.name)]
    gathering.ask(ask.connected, asked, wait_s=wait_s)
    sent = {site: said for site, (_, said) in sorted(gathering.found.items()) if ask.study.measures(site)}
    scale, sites = _made_of(sent, ask.study, "; ".join(gathering.left_out))
    found = _Measured(study=ask.study.digest, scale=scale, patients={site: sent[site].patients for site in sites})
    write_durably(path, found.model_dump_json(indent=1).encode())
    return scale


def _made_of(sent: Mapping[str, Statistics], study: StudySpec, left_out: str) -> tuple[Scale, Collection[str]]:
    """The scale of what sites sent, and which of them are in it."""
    key = "landmarks"
    if isinstance(study.input, TableInput):
        key = "scale"
        sums = {site: said.features for site, said in sent.items() if said.features is not None}
        if sums:
            return feature_scale.fit(sums, study.input), sums.keys()
    else:
        found = {site: said.landmarks for site, said in sent.items() if said.landmarks is not None}
        if found:
            return standard_scale(merged(found.values())), found.keys()
    raise RunError(
        f"no site measured the scale ({left_out}): let a policy name 'statistics', or give [input] {key} of an earlier "
        "run"
    )


def told_as(kind: EventKind) -> EventKind:
    """What a `Gathering` tells, where it gathers statistics: no site is in or out of a run by it."""
    return _TOLD_AS.get(kind) or kind


def _read(path: Path, study: StudySpec) -> Scale:
    try:
        found = _Measured.model_validate_json(path.read_bytes())
        study.input.on_scale(found.scale)
    except ValueError:  # of which a ValidationError is one
        raise CheckpointError(f"{path} is damaged: restore it from a backup, or start a new run") from None
    if found.study != study.digest:
        raise CheckpointError(f"{path} is of another study: restore it from a backup, or start a new run")
    return found.scale
