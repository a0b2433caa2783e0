"""What a cache says of itself (`Index`), and the removal of those that hold somebody who has opted out (`purge`)."""

import fcntl
import hashlib
import logging
import shutil
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedward_client.cache_room import root_of
from fedward_client.site import Site

FILE = "index.json"

log = logging.getLogger(__name__)


class Index(BaseModel):
    """index.json: `images` are the rows in order, `patients` whose they are; `digest` is over all the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    recipe: str
    content: str
    size: int  # bytes of its arrays
    images: tuple[str, ...]
    patients: tuple[str, ...]  # pseudonyms, each once, sorted
    unreadable: tuple[str, ...]
    gone: tuple[str, ...]
    digest: str = ""

    def sealed(self) -> "Index":
        """The same with its digest."""
        return self.model_copy(update={"digest": self.computed()})

    def computed(self) -> str:
        """SHA-256 (hex) over everything but the digest."""
        return hashlib.sha256(self.model_dump_json(exclude={"digest"}).encode()).hexdigest()


@contextmanager
def locked(root: Path, *, wait: bool = True) -> Iterator[None]:
    """One process at a time builds or removes, else BlockingIOError without `wait`; a process that dies lets go."""
    with (root / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def purge(site: Site, out: AbstractSet[str]) -> None:
    """Remove every cache that holds an image of the patients `out` (pseudonyms); what says nothing of itself goes too.

    A process that has one mapped keeps its pages until it lets go of them: see `handlers.Hospital`.
    """
    root = root_of(site)
    if not out or not root.is_dir():
        return
    with locked(root):
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            patients = _patients(folder)
            if patients is None or not out.isdisjoint(patients):
                log.info("%s: a cache that held patients who have opted out is removed", site.name)
                shutil.rmtree(folder)


def _patients(folder: Path) -> tuple[str, ...] | None:
    """Whose images a cache holds, None where it does not say."""
    try:
        return Index.model_validate_json((folder / FILE).read_bytes()).patients
    except (FileNotFoundError, ValidationError):
        return None
