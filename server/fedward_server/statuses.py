"""The part of the hub's database that says how sites are, as each last told it. A forgotten site's goes with it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from fedward_common.joining import SHOWN_AHEAD
from fedward_common.site_messages import SiteStatus
from fedward_common.sqlite import put
from fedward_server.presence import Presence
from fedward_server.store import METADATA, SiteRow, Store


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusRow:
    """How one site is, and when the hub heard it (UTC, ISO 8601). Whether it is connected, `presence` says."""

    site: str
    status: SiteStatus
    received: str


_STATUSES = sa.Table(
    "site_statuses",
    METADATA,
    sa.Column("site", sa.String(64), sa.ForeignKey("sites.site", ondelete="CASCADE"), primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("received", sa.String(32), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Statuses:
    """How sites are, in an opened database."""

    store: Store

    def tell(self, site: str, status: SiteStatus) -> None:
        """Record how a site is, in the place of what it told before."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self.store.writing() as connection:
            put(connection, _STATUSES, {"site": site, "status": status.model_dump_json(), "received": now})

    def all(self) -> dict[str, StatusRow]:
        """How the sites are that told it, by name, in the order of their names."""
        rows = self.store.rows(sa.select(_STATUSES).order_by(_STATUSES.c.site))
        return {
            row["site"]: StatusRow(
                site=row["site"], status=SiteStatus.model_validate_json(row["status"]), received=row["received"]
            )
            for row in rows
        }


def described(row: SiteRow, presence: Presence | None, ends: datetime | None, told: StatusRow | None) -> dict[str, Any]:
    """How a site stands, as JSON: for pages and terminals. No presence is one that is not known."""
    return {
        "name": row.site,
        "fingerprint": row.fingerprint,
        "added": row.added,
        "connection": "unknown" if presence is None else presence.connection,
        "since": None if presence is None else presence.since,
        "status": None if told is None else told.status.model_dump(mode="json"),
        "status_of": None if told is None else told.received,
        "certificate_ends": None if ends is None else ends.isoformat(),
        "certificate_ends_soon": ends is not None and ends < datetime.now(UTC) + SHOWN_AHEAD,
        "certificate_over": ends is not None and ends < datetime.now(UTC),
    }
