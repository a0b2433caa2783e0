"""A hospital that has no patients and learns nothing: as a program, a site's data side that gives back what came.

The sockets, the desk, the spool and the door with its receipts are the real ones. `_noop_daemon` starts it.
"""

import hashlib
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedward_client import daemon, locks, spool
from fedward_client.desk import Desk
from fedward_client.executor import Control, Work, serving, use_threads
from fedward_client.handlers import Hospital
from fedward_client.member import Member, private_paths
from fedward_client.reporting import Reporter
from fedward_client.site import Site
from fedward_client.source import SiteSource
from fedward_common import __version__
from fedward_common.metrics import Evaluation
from fedward_common.records import Arrays, Evaluated, Prepared, Question, Trained

PATIENTS = 100

State = Annotated[Path, typer.Option()]
Flag = Annotated[bool, typer.Option()]

_NOTHING = Evaluation(patients=PATIENTS, loss=1.0, sketches={}, figures={}, withheld=None)


@dataclass(slots=True)
class NoHospital(Hospital):
    """Answers at once: counts, the arrays that came, no scores."""

    @property
    def _cohort(self) -> str:
        return hashlib.sha256(self.source.name.encode()).hexdigest()

    def prepare(self, question: Question) -> Prepared:  # noqa: ARG002 - as its class says
        """Counts."""
        return Prepared(
            site=self.source.name,
            fedward=__version__,
            cohort=self._cohort,
            total=3 * PATIENTS,
            patients={"train": PATIENTS, "validation": PATIENTS, "test": PATIENTS},
            seconds=0.0,
        )

    def train(self, question: Question, arrays: Arrays, *, round_number: int) -> tuple[Trained, dict[str, np.ndarray]]:
        """The arrays as `changed` makes them."""
        trained = Trained(
            site=self.source.name,
            study=question.study.digest,
            round=round_number,
            cohort=self._cohort,
            patients=PATIENTS,
            images=PATIENTS,
            steps=1,
            train_loss=1.0,
            incoming=_NOTHING if question.score_incoming else None,
            train_seconds=0.0,
            seconds=0.0,
        )
        return trained, self.changed(arrays)

    def changed(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The arrays that came, a little changed: equal ones would be stored and sent once, as no update ever is."""
        step = np.float32(np.random.default_rng().random() * 1e-3)
        return {name: array + step for name, array in arrays.items()}

    def evaluate(self, question: Question, arrays: Arrays) -> Evaluated:
        """A loss."""
        del question, arrays
        return Evaluated(site=self.source.name, cohort=self._cohort, evaluation=_NOTHING, seconds=0.0)

    def alone(self, question: Question, arrays: Arrays) -> tuple[Evaluated, dict[str, np.ndarray]]:
        """The same loss, of the model that came."""
        return self.evaluate(question, arrays), dict(arrays)


class Echo(NoHospital):
    """A hospital without patients that gives back what came: for engines that store nothing by its content."""

    __slots__ = ()

    def changed(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """What came."""
        return dict(arrays)


def main(folder: Path, state: State, supervised: Flag = False, unsafe_no_walls: Flag = False) -> None:
    """Run the data side, as `fedward site executor` does."""
    daemon.end_with_parent(supervised)
    site = Site.open(folder, state=state)
    daemon.log_to(site.ensure_state() / "executor.log", site.log_format, private_paths(site))
    daemon.require_walls(daemon.executor_walls(site), unsafe=unsafe_no_walls)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    member = Member.open(site)
    outbox = member.outbox(spool=True)
    use_threads(site.threads)
    desk = Desk(NoHospital(SiteSource(site), outbox.tell), outbox, member.ledger)
    work, control = Work(desk, site.spool / spool.IN, Reporter(member, desk)), Control(member, desk, stopping)
    with locks.claimed(site.state, site.name, locks.EXECUTOR), serving(site, work, control):
        stopping.wait()
    member.ledger.close()


if __name__ == "__main__":
    typer.run(main)
