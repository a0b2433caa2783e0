"""What a worker process opens: one hospital's folder, or several at once for the pooled baseline."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedward_client.measuring import Surveyed
from fedward_client.site_data import SiteData, Targets
from fedward_client.site_state import RunState
from fedward_client.source import SiteSource, Source
from fedward_common.cohort_statistics import Wanted
from fedward_common.errors import DataError
from fedward_common.events import Listener
from fedward_common.study import Scale, SiteEntry, StudySpec

POOLED = "pooled-data"


@dataclass(frozen=True, slots=True)
class OpenSite:
    """Opens one hospital."""

    folder: Path

    def __call__(self) -> Source:
        """The hospital's source."""
        return SiteSource.open(self.folder)


@dataclass(frozen=True, slots=True)
class OpenPooled:
    """Opens several hospitals as one: what no real federation can do, and what it is compared with."""

    folders: tuple[Path, ...]

    def __call__(self) -> Source:
        """The pooled source."""
        return PooledSource(tuple(SiteSource.open(folder) for folder in self.folders))


@dataclass(frozen=True, slots=True)
class PooledSource:
    """Several hospitals' tensors as one, each patient on the side that the own hospital put them on. Held in memory."""

    members: tuple[SiteSource, ...]
    name: str = POOLED

    @property
    def min_cell(self) -> int:
        """The strictest member's."""
        return max(member.min_cell for member in self.members)

    def check_opted_out(self, run: str) -> None:
        """As every member checks."""
        for member in self.members:
            member.check_opted_out(_own(run))

    def once(self, run: str, name: str, value: str) -> str:
        """As the first member remembers."""
        return self.members[0].once(run, f"pooled {name}", value)

    def state(self, study: StudySpec, run: str) -> RunState:
        """In the first member's state folder, beside the member's own."""
        return self.members[0].state(study, _own(run))

    def survey(self, study: StudySpec, run: str, wanted: Wanted, listener: Listener) -> Surveyed:  # noqa: ARG002
        """Refused: the hospitals are asked for their own."""
        raise DataError(f"{self.name} is no hospital: ask the hospitals for their statistics")

    def _taking_part(self, study: StudySpec) -> list[SiteSource]:
        names = {site.name for site in study.sites}
        return [member for member in self.members if member.name in names]

    def load(self, study: StudySpec, run: str, listener: Listener, scale: Scale | None = None) -> SiteData:
        """The tensors of the members on the study's roster, one after the other; patients are numbered through.

        Each member gives what it would train on: in this run it only evaluates, so that is another cohort.
        """
        members = self._taking_part(study)
        training = study.model_copy(update={"sites": tuple(SiteEntry(name=member.name) for member in members)})
        parts = [member.load(training, _own(run), listener, scale) for member in members]
        sizes = [int(part.patients.max(initial=-1)) + 1 for part in parts]
        offsets = np.cumsum([0, *sizes[:-1]])
        folds = [part.folds for part in parts if part.folds is not None]
        return SiteData(
            images=np.concatenate([part.images for part in parts]),
            targets=_joined([part.targets for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            patients=np.concatenate([part.patients + offset for part, offset in zip(parts, offsets, strict=True)]),
            sides=np.concatenate([part.sides for part in parts]),
            folds=np.concatenate(folds) if folds else None,
            groups={by: np.concatenate([part.groups[by] for part in parts]) for by in study.evaluation.subgroups},
            cohort_digest=hashlib.sha256("".join(part.cohort_digest for part in parts).encode()).hexdigest(),
            rows_digest=hashlib.sha256("".join(part.rows_digest for part in parts).encode()).hexdigest(),
            unreadable=sum(part.unreadable for part in parts),
        )


def _own(run: str) -> str:
    """What a member keeps of a run as a part of the pooled data, beside what it keeps as a hospital."""
    return f"pooled-{run}"


def _joined(parts: Sequence[Targets | None]) -> Targets | None:
    given = [part for part in parts if part is not None]
    return np.concatenate(given) if given else None
