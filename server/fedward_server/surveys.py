"""Statistics of a study's patients at its sites, before any training: asked like a run, for it is one without rounds.

A run whose folder holds `survey.json` asks for statistics and ends. What came stands in `statistics.json`: each site's
answer, what they add up to, and why a site sent none. The study is resolved as for training, so one approval serves
both; each site's policy has to name `statistics` besides.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from flwr.serverapp import Grid
from pydantic import BaseModel, ConfigDict

from fedward_common.cohort_statistics import Pooled, Statistics, pooled
from fedward_common.disk import write_durably
from fedward_common.errors import RunError
from fedward_common.records import Question
from fedward_common.study import StudySpec
from fedward_server.events import EventKind, Listener, RunEvent
from fedward_server.exchange import Connected
from fedward_server.roster import Gathering
from fedward_server.scale import told_as

ASKED, FILE = "survey.json", "statistics.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def write(self, path: Path) -> None:
        """Write the record so that its file is whole or not there."""
        write_durably(path, self.model_dump_json(indent=1).encode())


class Survey(_Record):
    """What is asked: what the catalog says, or grey values of all images too."""

    wanted: Literal["catalog", "pixels"] = "catalog"


class SurveyResult(_Record):
    """What came. `left_out` says why a site sent nothing, a sentence each."""

    run: str
    study: str
    study_digest: str
    pooled: Pooled
    sites: Mapping[str, Statistics]
    left_out: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The result in a run's folder."""
        return cls.model_validate_json((folder / FILE).read_bytes())


def survey(
    grid: Grid,
    study: StudySpec,
    run: str,
    wanted: Literal["catalog", "pixels"],
    listener: Listener,
    *,
    connected: Connected | None = None,
    wait_s: float = 0.0,
) -> SurveyResult:
    """Ask the sites of a study for statistics, those that only evaluate too. Raises RunError where none sends any."""

    def tell(kind: EventKind, site: str = "", note: str = "") -> None:
        listener(RunEvent(kind=told_as(kind), run=run, round=0, rounds=study.rounds, site=site, note=note))

    gathering = Gathering(
        grid=grid,
        question=Question(kind="stats", study=study, run=run, statistics=wanted),
        answer=Statistics,
        tell=tell,
    )
    gathering.ask(connected, [site.name for site in study.sites], wait_s=wait_s)
    sites = {site: said for site, (_, said) in sorted(gathering.found.items())}
    if not sites:
        raise RunError(f"no site sent statistics: {'; '.join(gathering.left_out) or 'none is there'}")
    tell("finished")
    return SurveyResult(
        run=run,
        study=study.study.id,
        study_digest=study.digest,
        pooled=pooled(sites.values()),
        sites=sites,
        left_out=tuple(sorted(gathering.left_out)),
    )
