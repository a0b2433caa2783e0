"""What a finished run leaves as `run.json`: its history, its sites, its final figures. No patient's score is in it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedward_common.disk import write_durably
from fedward_common.errors import ModelError
from fedward_common.metrics import Evaluation
from fedward_common.models.trained import Trained
from fedward_common.records import Prepared
from fedward_common.study import Scale, StudySpec
from fedward_server import limits as run_limits

FILE = "run.json"

Seconds = Annotated[float, Field(ge=0.0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SiteRound(_Record):
    """One site's part in one round."""

    train_loss: float
    patients: int
    train_seconds: Seconds
    seconds: Seconds  # of its work, as it says
    waited_s: Seconds = 0.0  # from the question to the answer, as the hub sees it
    notes: str = ""  # why it was waited for
    bytes_up: int
    bytes_down: int


class RoundHistory(_Record):
    """One round. `validation_loss` and `primary` score the model that it made, over all sites that sent sketches."""

    round: int
    seconds: Seconds
    train_loss: float
    sites: dict[str, SiteRound]
    refused: dict[str, str] = {}  # site: why its reply was left out, or why none came
    validation_loss: float | None = None
    primary: float | None = None
    site_primary: dict[str, float] = {}  # sites whose small-cell rule let a figure out


class SiteResult(_Record):
    """One site at the end of a run: who it was, and the final model on its patients."""

    prepared: Prepared
    validation: Evaluation | None = None
    test: Evaluation | None = None
    alone: Evaluation | None = None  # of what the site trained without the others, on its test patients
    across: dict[str, Evaluation] = {}  # of what each other site trained without the others, on this site's patients
    personal: Evaluation | None = None  # of the site's own model on its test patients, where the strategy keeps one


class RunResult(_Record):
    """A finished run."""

    run: str
    engine: str
    study: StudySpec
    scale: Scale | None = None  # that its sites measured, where the study left the scale to them
    sites: dict[str, SiteResult]
    history: tuple[RoundHistory, ...]
    kept_round: int  # whose model this is
    left_out: tuple[str, ...]  # why a site did not take part, a sentence each
    thresholds: dict[str, float]  # label: operating point, chosen on validation data
    model_sha256: str
    wall_s: Seconds

    def trained(self, limits: Sequence[str] | None = None) -> Trained:
        """What whoever uses the model must know; `limits` are sentences of its card, those of the run without one."""
        return Trained(
            study=self.study,
            scale=self.scale,
            thresholds=self.thresholds,
            model_sha256=self.model_sha256,
            limits=tuple(self.limits() if limits is None else limits),
        )

    def limits(self) -> list[str]:
        """What its figures cannot say, a sentence each; who did not take part stands first."""
        tested = sum(site.test.patients for site in self.sites.values() if site.test is not None)
        found = run_limits.limits(self.study, sorted(self.sites), patients=tested or None)
        return [*self.notes(), *found]

    def notes(self, others: Iterable[Self] = ()) -> Iterator[str]:
        """Who did not take part, and what was tested neither here nor in `others`, runs with other seeds: sentences."""
        yield from (f"Not in the run: {reason}." for reason in self.left_out)
        sites = (site for run in (self, *others) for site in run.sites.values())
        yield from run_limits.unseen(self.study, (site.test for site in sites if site.test is not None))

    def write(self, folder: Path) -> None:
        """Write `run.json` so that it is whole or not there."""
        write_durably(folder / FILE, self.model_dump_json(indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote. Raises ModelError where it is not there, or another Fedward's, or damaged."""
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except (OSError, ValidationError):
            raise ModelError(
                f"the figures of run {folder.name} cannot be read: restore its folder from a backup"
            ) from None
