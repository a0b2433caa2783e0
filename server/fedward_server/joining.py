"""How sites are let in at a hub that faces hospitals: invited by a code, asking with it, approved by a person.

What a site asked for is shown to the operator with the fingerprint that its steward sees; only their comparison says
that it came from there. An approval is given once: of two people who approve at a time, one is told so.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fedward_common.cards import HubCard, SiteCard
from fedward_common.errors import RecordError, RunError, SettingsError, UsageError
from fedward_common.joining import Invitation, Joined, JoinRequest, Renewed, digest
from fedward_server.hub import Hub
from fedward_server.hub_settings import GatewaySection
from fedward_server.register import InvitationRow, Register
from fedward_server.store import SiteRow, Store

INVITATION_DAYS = 7
RENEWED_AGAIN = timedelta(hours=1)  # at the earliest: each renewal is a row and an entry in the audit log for good


class JoinRefusedError(RunError):
    """A site is not let in with what it sent. The words are for its steward, and tell no stranger what there is."""


@dataclass(frozen=True, slots=True)
class Joining:
    """Lets sites in at a hub with a gateway, whose database is opened."""

    hub: Hub
    store: Store
    by: str | None = None
    """The person who acts, for the audit log; None at the hub's own terminal, and where a site acts."""

    @property
    def register(self) -> Register:
        """Its invitations and certificates."""
        return Register(self.store)

    # The operator ----------------------------------------------------------------------------------------------------

    def invite(self, site: str, *, days: int = INVITATION_DAYS) -> Invitation:
        """Invite a site, which may be one that is in: then it gets a new certificate. Raises UsageError in words."""
        gateway(self.hub)
        self.hub.issuing.current()  # without which nobody is let in
        card = HubCard.read(self.hub.card)
        made = Invitation.make(site, card.address, card.fingerprint, taken_back=len(card.distrusted))
        now = datetime.now(UTC)
        self.hub.audit().append("site invited", {"site": site, "days": days, "by": self.by})
        self.register.invite(
            InvitationRow(
                digest=digest(made.secret), site=site, created=_text(now), expires=_text(now + timedelta(days=days))
            )
        )
        return made

    def waiting(self) -> list[tuple[InvitationRow, SiteCard]]:
        """What sites asked for and nobody has decided, each with the card that it sent."""
        return [(row, _card(row)) for row in self.register.waiting()]

    def asking(self) -> list[dict[str, Any]]:
        """The same as JSON."""
        return [
            {"name": row.site, "fingerprint": card.fingerprint, "asked": row.asked, "fedward": card.fedward}
            for row, card in self.waiting()
        ]

    def asked_by(self, site: str, fingerprint: str | None = None) -> tuple[InvitationRow, SiteCard]:
        """What a site asked for last, with this fingerprint where one was compared: several may ask in one name.

        Raises UsageError where it waits for nobody, RunError where only others wait.
        """
        waiting = self.waiting()
        own = [(row, card) for row, card in waiting if row.site == site]
        if not own:
            names = ", ".join(sorted({row.site for row, _ in waiting})) or "nobody"
            raise UsageError(f"{site} has not asked to join, or was answered; waiting: {names}")
        meant = [(row, card) for row, card in own if fingerprint in (None, card.fingerprint)]
        if not meant:
            raise RunError(f"{site} has asked anew with another fingerprint: compare again")
        return meant[-1]

    def approve(self, row: InvitationRow) -> SiteRow:
        """Let a site in as it asked. Raises RunError where somebody decided before, SettingsError where it cannot."""
        card = _card(row)
        assert row.request is not None
        site = self.hub.row_of(card, self.store.sites(), again=True)
        certificate, chain = self.hub.issuing.for_site(row.site, row.request, days=gateway(self.hub).certificate_days)
        told = {"site": site.site, "fingerprint": site.fingerprint, "certificate": certificate.serial, "by": self.by}
        audit = self.hub.audit()
        if not self.register.approve(row.digest, site, certificate, chain, lambda: audit.append("site enrolled", told)):
            raise _decided_already(row.site)
        return site

    def refuse(self, row: InvitationRow) -> None:
        """Turn a site down. Raises RunError where somebody decided before."""
        if not self.register.refuse(row.digest, _text(datetime.now(UTC))):
            raise _decided_already(row.site)
        told = {"site": row.site, "fingerprint": _card(row).fingerprint, "by": self.by}
        self.hub.audit().append("site refused", told)

    # The site --------------------------------------------------------------------------------------------------------

    def ask(self, asked: JoinRequest) -> Joined:
        """Take a site's request, or say how it stands. Raises JoinRefusedError."""
        row = self.register.invitation(digest(asked.secret))
        now = _text(datetime.now(UTC))
        if row is None or row.site != asked.card.site or not asked.intact():
            raise JoinRefusedError("the code is not one of this hub's for this site: ask its operator for a new one")
        text = asked.card.model_dump_json()
        if row.asked is None and row.decision is None:
            if row.expires <= now:
                raise JoinRefusedError("the code has expired: ask the hub's operator for a new one")
            if self.register.ask(row.digest, card=text, request=asked.request, asked=now):
                self.hub.audit().append("site asked", {"site": row.site, "fingerprint": asked.card.fingerprint})
            row = self.register.invitation(row.digest)
            assert row is not None
        if (row.card, row.request) != (text, asked.request):
            raise JoinRefusedError("the code was used before, or withdrawn: ask the hub's operator for a new one")
        if row.decision == "refused":
            raise JoinRefusedError("the hub's operator did not let this site in: ask why")
        if row.decision == "approved":
            return Joined(status="approved", certificate=row.certificate)
        return Joined(status="waiting")

    def renew(self, site: str, shown: str, request: str) -> Renewed:
        """The next certificate of a site that is in and showed one with this serial number, which holds until it ends.

        Raises RecordError where it cannot be had now.
        """
        days, last = gateway(self.hub).certificate_days, self.register.issued_last(site)
        if last is not None and timedelta(0) <= datetime.now(UTC) - last < RENEWED_AGAIN:
            raise RecordError("this site's certificate was issued within the hour: it is renewed later")
        certificate, chain = self.hub.issuing.for_site(site, request, days=days)
        if not self.register.renew(shown, certificate):
            raise RecordError("this site's certificate was taken back: ask the hub's operator for a code")
        self.hub.audit().append("certificate renewed", {"site": site, "certificate": certificate.serial})
        return Renewed(certificate=chain)


def _decided_already(site: str) -> RunError:
    return RunError(f"somebody has answered {site} already: `fedward hub status` shows how it stands")


def gateway(hub: Hub) -> GatewaySection:
    """The settings of a hub's gateway. Raises SettingsError where it has none."""
    if hub.gateway is None:
        raise SettingsError(
            "this hub has no gateway, so sites on its machine join with cards (`fedward hub enrol`): to let hospitals "
            "in, make a hub with `fedward hub init --address HOST:PORT`"
        )
    return hub.gateway


def _card(row: InvitationRow) -> SiteCard:
    assert row.card is not None
    return SiteCard.parse(row.card.encode(), f"the card of {row.site}")


def _text(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds")
