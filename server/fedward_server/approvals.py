"""The part of the hub's database that says what sites' stewards answered to studies, as the sites told it.

A steward's yes counts at the site alone, which keeps it; what is here is for people at the hub to look at.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from fedward_common.site_messages import Approval, ApprovalState
from fedward_common.sqlite import put
from fedward_server.store import METADATA, Store


@dataclass(frozen=True, kw_only=True, slots=True)
class ApprovalRow:
    """One site's answer to one study, by its digest. Times are UTC, ISO 8601: `time` by the site's clock."""

    digest: str
    site: str
    state: ApprovalState
    time: str
    until: str | None  # the last day of an approval
    reason: str | None  # one printable line
    received: str


_APPROVALS = sa.Table(
    "approvals",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("site", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("time", sa.String(32), nullable=False),
    sa.Column("until", sa.String(10)),
    sa.Column("reason", sa.String(200)),
    sa.Column("received", sa.String(32), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Approvals:
    """Sites' answers in an opened database."""

    store: Store

    def tell(self, site: str, approvals: Iterable[Approval]) -> None:
        """Record what a site tells, in the place of what it told before."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self.store.writing() as connection:
            for each in approvals:
                row = ApprovalRow(
                    digest=each.digest,
                    site=site,
                    state=each.state,
                    time=each.time.astimezone(UTC).isoformat(timespec="milliseconds"),
                    until=None if each.until is None else each.until.isoformat(),
                    reason=each.reason,
                    received=now,
                )
                put(connection, _APPROVALS, asdict(row))

    def of(self, digest: str) -> dict[str, ApprovalRow]:
        """What sites answered to a study, by site; not of those that told nothing."""
        return {row.site: row for row in self._rows(_APPROVALS.c.digest == digest)}

    def of_site(self, site: str) -> dict[str, ApprovalRow]:
        """What a site answered to studies, by their digests."""
        return {row.digest: row for row in self._rows(_APPROVALS.c.site == site)}

    def _rows(self, which: sa.ColumnElement[bool]) -> list[ApprovalRow]:
        query = sa.select(_APPROVALS).where(which).order_by(_APPROVALS.c.site, _APPROVALS.c.digest)
        return [ApprovalRow(**row) for row in self.store.rows(query)]
