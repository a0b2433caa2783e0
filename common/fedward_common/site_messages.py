"""What a site and its hub tell each other around rounds: studies, approvals, how a site is, what was refused and why.

Beside `joining`, all of `/v1/site/`. Texts are short printable lines, whoever wrote them, so that none steers a
terminal or breaks a log's line; neither side takes anything else. Nothing here has a field for a patient, a count of
patients, a path or a host.
"""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from fedward_common.study_section import Fingerprint as Digest
from fedward_common.study_section import RunId, Version

STUDIES, APPROVALS, STATUS = "/v1/site/studies", "/v1/site/approvals", "/v1/site/status"
MAX_LINE = 200  # characters
MAX_REASON = 500  # characters, of what a hub says of an update
MAX_STUDY = 2**20  # characters of a resolved study
MAX_RUNS, MAX_NOTICES, MAX_FAULTS = 50, 100, 8
MAX_GIB = 10**9

ApprovalState = Literal["awaiting", "approved", "refused", "withdrawn"]
SiteState = Literal["idle", "preparing", "training", "evaluating", "paused", "silent"]
NoticeKind = Literal["refused", "left-out"]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it is no printable line")
    return text


Line = Annotated[str, Field(min_length=1, max_length=MAX_LINE), AfterValidator(_printable)]
Gib = Annotated[int, Field(ge=0, le=MAX_GIB)]
Round = Annotated[int, Field(ge=0, le=10**9)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


# From the hub --------------------------------------------------------------------------------------------------------


class AskedStudy(_Message):
    """A run that has not ended and whose roster names the site; `study` is the RFC 8785 JSON that `digest` is of.

    `approval` is what the site last told of it, None where that is nothing.
    """

    run: RunId
    digest: Digest
    study: Annotated[str, Field(max_length=MAX_STUDY)]
    approval: ApprovalState | None


class Notice(_Message):
    """Why a round went on without the site's answer, or a run without the site; 0 is before round 1."""

    run: RunId
    digest: Digest  # of the run's study
    round: Round
    kind: NoticeKind
    reason: Annotated[str, Field(max_length=MAX_REASON), AfterValidator(_printable)]


class HubNews(_Message):
    """All that a hub has for one site."""

    studies: Annotated[tuple[AskedStudy, ...], Field(max_length=MAX_RUNS)] = ()
    notices: Annotated[tuple[Notice, ...], Field(max_length=MAX_NOTICES)] = ()


# From the site -------------------------------------------------------------------------------------------------------


class Approval(_Message):
    """What the site's steward says to a study: since when, up to which day, and why, where there is a reason."""

    digest: Digest
    state: ApprovalState
    time: AwareDatetime
    until: date | None = None
    reason: Line | None = None

    @model_validator(mode="after")
    def _has_its_end(self) -> Self:
        if (self.until is not None) != (self.state == "approved"):
            raise ValueError("an approval has a last day, and nothing else has")
        return self


class ApprovalsTold(_Message):
    """What a site tells of studies that its hub asked for."""

    approvals: Annotated[tuple[Approval, ...], Field(min_length=1, max_length=MAX_RUNS)]


class Gpu(_Message):
    """What a site trains on, where that is no processor."""

    name: Line
    memory_gib: Gib


class Work(_Message):
    """The question in hand. `percent` is of a training: steps would tell, with the batch size, how many images."""

    run: RunId
    round: Round  # 0 outside of training
    percent: Annotated[int, Field(ge=0, le=100)] | None = None


class SiteStatus(_Message):
    """How a site is. It is `silent` where its network side is up and its data side does not answer that."""

    fedward: Version
    state: SiteState
    gpu: Gpu | None = None
    spool_free_gib: Gib
    cache_free_gib: Gib
    work: Work | None = None
    faults: Annotated[tuple[Line, ...], Field(max_length=MAX_FAULTS)] = ()


class SiteReport(_Message):
    """What a site's data side lets its network side tell the hub; no `status` where the policy keeps it here."""

    approvals: Annotated[tuple[Approval, ...], Field(max_length=MAX_RUNS)] = ()
    status: SiteStatus | None = None
