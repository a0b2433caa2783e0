"""The part of the hub's database that says who was invited to join, and which certificates sites hold.

An invitation is known by the digest of its secret, which the hub does not keep. The first site that uses it binds it
to its keys; then a person decides, once.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from fedward_common.sqlite import put
from fedward_server.store import METADATA, SITES, SiteRow, Store

Decision = Literal["approved", "refused", "withdrawn"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InvitationRow:
    """One invitation. Times are UTC, ISO 8601; `card` and `request` are what the site sent, once it has."""

    digest: str
    site: str
    created: str
    expires: str
    card: str | None = None  # JSON
    request: str | None = None  # PKCS #10, PEM
    asked: str | None = None
    decision: Decision | None = None
    decided: str | None = None
    certificate: str | None = None  # PEM, with its chain


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateRow:
    """One certificate of a site. `serial` is hexadecimal; `issuer` is the SHA-256 of the issuing certificate."""

    serial: str
    site: str
    issuer: str
    issued: str
    ends: str
    revoked: str | None = None


_INVITATIONS = sa.Table(
    "invitations",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("site", sa.String(64), nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("expires", sa.String(32), nullable=False),
    sa.Column("card", sa.Text),
    sa.Column("request", sa.Text),
    sa.Column("asked", sa.String(32)),
    sa.Column("decision", sa.String(16)),
    sa.Column("decided", sa.String(32)),
    sa.Column("certificate", sa.Text),
)
_CERTIFICATES = sa.Table(
    "certificates",
    METADATA,
    sa.Column("serial", sa.String(40), primary_key=True),
    sa.Column("site", sa.String(64), nullable=False),
    sa.Column("issuer", sa.String(64), nullable=False),
    sa.Column("issued", sa.String(32), nullable=False),
    sa.Column("ends", sa.String(32), nullable=False),
    sa.Column("revoked", sa.String(32)),
)


@dataclass(frozen=True, slots=True)
class Register:
    """Invitations and certificates in an opened database."""

    store: Store

    # Invitations -----------------------------------------------------------------------------------------------------

    def invite(self, row: InvitationRow) -> None:
        """Record a new invitation. What the site was invited to before and has not used is withdrawn."""
        unused = sa.and_(
            _INVITATIONS.c.site == row.site, _INVITATIONS.c.asked.is_(None), _INVITATIONS.c.decision.is_(None)
        )
        with self.store.writing() as connection:
            connection.execute(sa.update(_INVITATIONS).where(unused).values(decision="withdrawn", decided=row.created))
            connection.execute(sa.insert(_INVITATIONS).values(asdict(row)))

    def invitation(self, digest: str) -> InvitationRow | None:
        """The invitation of a secret's digest, None where there is none."""
        return next(iter(self._invitations(_INVITATIONS.c.digest == digest)), None)

    def invitations(self) -> list[InvitationRow]:
        """Every invitation, in the order in which they were made."""
        return self._invitations(sa.true())

    def waiting(self) -> list[InvitationRow]:
        """What sites asked for and nobody has decided."""
        return self._invitations(sa.and_(_INVITATIONS.c.asked.is_not(None), _INVITATIONS.c.decision.is_(None)))

    def ask(self, digest: str, *, card: str, request: str, asked: str) -> bool:
        """Bind an invitation that is unused to what a site sent; whether it was unused."""
        unused = sa.and_(
            _INVITATIONS.c.digest == digest, _INVITATIONS.c.asked.is_(None), _INVITATIONS.c.decision.is_(None)
        )
        return self._change(unused, {"card": card, "request": request, "asked": asked})

    def refuse(self, digest: str, decided: str) -> bool:
        """Record that a site is turned down; False where somebody has decided before."""
        return self._change(_undecided(digest), {"decision": "refused", "decided": decided})

    def approve(
        self, digest: str, site: SiteRow, certificate: CertificateRow, chain: str, note: Callable[[], object]
    ) -> bool:
        """Record that a site is let in, with its certificate, which is then its only one.

        False, and nothing recorded, where somebody has decided before. `note` is called before it counts; where that
        fails nothing is recorded either.
        """
        now = certificate.issued
        older = sa.and_(_CERTIFICATES.c.site == site.site, _CERTIFICATES.c.revoked.is_(None))
        values = {"decision": "approved", "decided": now, "certificate": chain}
        with self.store.writing() as connection:
            if connection.execute(sa.update(_INVITATIONS).where(_undecided(digest)).values(values)).rowcount != 1:
                return False
            connection.execute(sa.update(_CERTIFICATES).where(older).values(revoked=now))
            connection.execute(sa.insert(_CERTIFICATES).values(asdict(certificate)))
            put(connection, SITES, asdict(site))
            note()
        return True

    def _invitations(self, which: sa.ColumnElement[bool]) -> list[InvitationRow]:
        query = sa.select(_INVITATIONS).where(which).order_by(_INVITATIONS.c.created, _INVITATIONS.c.digest)
        return [InvitationRow(**row) for row in self.store.rows(query)]

    def _change(self, which: sa.ColumnElement[bool], values: dict[str, Any]) -> bool:
        with self.store.writing() as connection:
            return connection.execute(sa.update(_INVITATIONS).where(which).values(values)).rowcount == 1

    # Certificates ----------------------------------------------------------------------------------------------------

    def renew(self, shown: str, row: CertificateRow) -> bool:
        """Record a certificate that was issued to who showed the one with this serial number.

        False, and nothing recorded, where that was taken back meanwhile, or the site is not in any more.
        """
        taken_back = sa.and_(_CERTIFICATES.c.serial == shown, _CERTIFICATES.c.revoked.is_not(None))
        counts = sa.and_(sa.exists().where(SITES.c.site == row.site), sa.not_(sa.exists().where(taken_back)))
        with self.store.writing() as connection:
            if not connection.execute(sa.select(counts)).scalar():
                return False
            connection.execute(sa.insert(_CERTIFICATES).values(asdict(row)))
        return True

    def certificates(self) -> list[CertificateRow]:
        """Every certificate, in the order in which they were issued."""
        query = sa.select(_CERTIFICATES).order_by(_CERTIFICATES.c.issued, _CERTIFICATES.c.serial)
        return [CertificateRow(**row) for row in self.store.rows(query)]

    def ends(self) -> dict[str, datetime]:
        """When each site's last certificate ends (UTC); not of sites that have none."""
        rows = (row for row in self.certificates() if row.revoked is None)
        return {row.site: datetime.fromisoformat(row.ends) for row in rows}

    def certificate(self, serial: str) -> CertificateRow | None:
        """The certificate of a serial number, None where the hub issued none."""
        rows = self.store.rows(sa.select(_CERTIFICATES).where(_CERTIFICATES.c.serial == serial))
        return CertificateRow(**rows[0]) if rows else None

    def holds(self, site: SiteRow, serial: str, issued: datetime) -> bool:
        """Whether a certificate that this hub issued (UTC) is a site's and was not taken back.

        One that is not known was issued after the backup of which the hub was restored: it counts, unless the site was
        let in anew since.
        """
        row = self.certificate(serial)
        if row is not None:
            return row.site == site.site and row.revoked is None
        approved = sa.and_(_INVITATIONS.c.site == site.site, _INVITATIONS.c.decision == "approved")
        [found] = self.store.rows(sa.select(sa.func.max(_INVITATIONS.c.decided).label("last")).where(approved))
        return issued >= datetime.fromisoformat(max(site.added, found["last"] or ""))

    def issued_last(self, site: str) -> datetime | None:
        """When a site's last certificate was issued (UTC), None where it has had none."""
        last = sa.select(sa.func.max(_CERTIFICATES.c.issued).label("last")).where(_CERTIFICATES.c.site == site)
        [found] = self.store.rows(last)
        return datetime.fromisoformat(found["last"]) if found["last"] else None

    def prune(self, ended: datetime) -> None:
        """Remove certificates that ended before a time (UTC), but each site's last, whose end is shown."""
        later = _CERTIFICATES.alias()
        has_later = sa.exists().where(later.c.site == _CERTIFICATES.c.site, later.c.issued > _CERTIFICATES.c.issued)
        with self.store.writing() as connection:
            connection.execute(sa.delete(_CERTIFICATES).where(_CERTIFICATES.c.ends < ended.isoformat(), has_later))

    def revoke(self, site: str, when: str) -> None:
        """Take all of a site's certificates back."""
        self._revoke(_CERTIFICATES.c.site == site, when)

    def revoke_all_but(self, issuer: str, when: str) -> None:
        """Take back what any authority issued but this one (the SHA-256 of its certificate)."""
        self._revoke(_CERTIFICATES.c.issuer != issuer, when)

    def _revoke(self, which: sa.ColumnElement[bool], when: str) -> None:
        counts = sa.and_(which, _CERTIFICATES.c.revoked.is_(None))
        with self.store.writing() as connection:
            connection.execute(sa.update(_CERTIFICATES).where(counts).values(revoked=when))


def _undecided(digest: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        _INVITATIONS.c.digest == digest, _INVITATIONS.c.asked.is_not(None), _INVITATIONS.c.decision.is_(None)
    )
