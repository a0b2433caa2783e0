"""Where a hospital's tensors come from, and where it keeps what it has between rounds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedward_client import cache
from fedward_client.freezing import check_opted_out
from fedward_client.ledger import Ledger
from fedward_client.measuring import Surveyed
from fedward_client.site import Site
from fedward_client.site_data import SiteData
from fedward_client.site_state import FOLDER, RunState
from fedward_client.survey import survey
from fedward_common.cohort_statistics import Wanted
from fedward_common.events import Listener
from fedward_common.study import Scale, StudySpec


class Source(Protocol):
    """Where tensors come from."""

    @property
    def name(self) -> str:
        """The site's name."""

    @property
    def min_cell(self) -> int:
        """Counts below this never leave."""

    def load(self, study: StudySpec, run: str, listener: Listener, scale: Scale | None = None) -> SiteData:
        """The run's frozen cohort as tensors, on the scale that the run's sites measured where there is one."""

    def survey(self, study: StudySpec, run: str, wanted: Wanted, listener: Listener) -> Surveyed:
        """Statistics of the study's patients, and whose they are."""

    def check_opted_out(self, run: str) -> None:
        """Raise DataError where a patient of the run has opted out since it began."""

    def once(self, run: str, name: str, value: str) -> str:
        """Remember `value` under `name` for a run, unless something is remembered already; gives what is remembered."""

    def state(self, study: StudySpec, run: str) -> RunState | None:
        """What is kept of a run between its rounds; None where nothing can be."""


@dataclass(frozen=True, slots=True)
class SiteSource:
    """One hospital's folder."""

    site: Site

    @classmethod
    def open(cls, folder: Path) -> "SiteSource":
        """The source of a site's folder."""
        return cls(Site.open(folder))

    @property
    def name(self) -> str:
        """The site's name."""
        return self.site.name

    @property
    def min_cell(self) -> int:
        """Counts below this never leave."""
        return self.site.min_cell

    def load(self, study: StudySpec, run: str, listener: Listener, scale: Scale | None = None) -> SiteData:
        """The run's frozen cohort as tensors, from the cache where they are there already."""
        return cache.load(self.site, study, run, listener, scale=scale)

    def survey(self, study: StudySpec, run: str, wanted: Wanted, listener: Listener) -> Surveyed:
        """From the catalog, and from the images where their pixels are asked for."""
        return survey(self.site, study, run, wanted, listener)

    def check_opted_out(self, run: str) -> None:
        """By the site's list as it is now, and the run's frozen cohort."""
        check_opted_out(self.site, run)

    def once(self, run: str, name: str, value: str) -> str:
        """Remembered in the site's ledger."""
        with Ledger.open(self.site.ensure_state()) as ledger:
            return ledger.once(run, name, value)

    def state(self, study: StudySpec, run: str) -> RunState:
        """Kept in the site's state folder."""
        return RunState.of(self.site.ensure_state() / FOLDER, study, run)
