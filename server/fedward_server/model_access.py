"""What one person may see of a hub's models, and do with them.

A steward sees the models of runs in which his site took part, and of the other sites how many they were. What a person
does stands in the audit log.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import BoundedSemaphore

from fedward_common.errors import RunError
from fedward_common.models import weights_file
from fedward_server import model_card
from fedward_server.figures.scope import Scope
from fedward_server.hub import Hub
from fedward_server.lineage import Lineages, Weights
from fedward_server.model_card import Card
from fedward_server.models import Registered, Registry
from fedward_server.overview import sees
from fedward_server.people import STARTERS, Person, Role
from fedward_server.store import RunRow, Store

REMOVE: tuple[Role, ...] = ("operator",)
TAKE: tuple[Role, ...] = (*STARTERS, "steward")
MOST_CHECKS = 3  # of models that are about to be sent, at a time
_CHECKS = BoundedSemaphore(MOST_CHECKS)
RUNS = 200  # the newest, whose models can be registered by a form


@dataclass(frozen=True, slots=True)
class Download:
    """A model's file: as it is, or in `parts` of `size` bytes together."""

    entry: Registered
    path: Path
    size: int
    parts: Iterator[bytes] | None = None


@dataclass(frozen=True)
class ModelAccess:
    """The models of a hub for one person."""

    hub: Hub
    store: Store
    person: Person

    @cached_property
    def scope(self) -> Scope:
        """What of a run the person may see."""
        return Scope.of(self.person)

    @cached_property
    def entries(self) -> list[Registered]:
        """The models, the newest first."""
        found = [self._told(entry) for entry in self._registry.entries() if self._may_see(entry)]
        return sorted(found, key=lambda entry: (entry.added, entry.name), reverse=True)

    def find(self, name: str) -> Registered | None:
        """A model, None where the person may not know whether there is one."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def card(self, entry: Registered) -> Card:
        """What is known of a model. Raises ModelError where its file cannot be read."""
        return model_card.card_of(self.hub, self.store, entry, self._registry.find(entry.name)[1], self.scope)

    def lineage(self, entry: Registered) -> Weights:
        """Where a model comes from, and what began with it."""
        return Lineages(self.store, self.entries, lambda row: sees(self.person, row)).of(entry)

    def to_add(self, asked: str) -> list[RunRow]:
        """Finished runs that have a model, the newest first; the run `asked` too, where it is an older one."""
        rows = self.store.newest(RUNS, site=self.person.asked_as, statuses=("finished",))
        row = self.store.find(asked)
        if row is not None and row not in rows and row.status == "finished" and sees(self.person, row):
            rows.append(row)
        return [row for row in rows if row.model_sha256 is not None]

    # What is done -----------------------------------------------------------------------------------------------------

    def add(self, name: str, run: str, note: str) -> Registered:
        """Register a run's model. Raises what `Registry.add_run` does."""
        return self._registry.add_run(name, run, note=note)

    def remove(self, name: str) -> None:
        """Forget a model. Raises UsageError for one that is not there."""
        self._registry.remove(name)

    def take(self, entry: Registered) -> Download:
        """A model's file, checked against its SHA-256. Raises ModelError where it was changed."""
        if not _CHECKS.acquire(blocking=False):  # each reads a whole model
            raise RunError(f"{MOST_CHECKS} models are being checked at the moment: try again soon")
        try:
            _, path = self._registry.checked(entry.name)
        finally:
            _CHECKS.release()
        header = model_card.header_of(self.hub, entry, path, self.scope)
        size, parts = (path.stat().st_size, None) if header is None else weights_file.with_header(path, header)
        told = {"model": entry.name, "sha256": entry.sha256, "by": self.person.name}
        self.hub.audit().append("model downloaded", told)
        return Download(entry=entry, path=path, size=size, parts=parts)

    # ------------------------------------------------------------------------------------------------------------------

    @cached_property
    def _registry(self) -> Registry:
        return Registry(self.hub, by=self.person.name)

    def _may_see(self, entry: Registered) -> bool:
        """Whether the person may know of a model: a steward where his site took part, by its key."""
        if self.scope.site is None:
            return True
        row = self.store.find(entry.run) if entry.run is not None and self.scope.site in entry.sites else None
        return row is not None and sees(self.person, row)

    def _told(self, entry: Registered) -> Registered:
        """An entry without the names of sites of which the person may not know."""
        names = {*entry.sites, *self.store.sites()}
        sites = tuple(site for site in entry.sites if self.scope.sees(site))
        return entry.model_copy(update={"sites": sites, "note": self.scope.words(entry.note, names)})
