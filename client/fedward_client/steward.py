"""What a data steward decides, with a daemon or without: in the ledger, and first in the log."""

from datetime import date

from fedward_client.member import Member
from fedward_common.errors import SettingsError
from fedward_common.records import printable
from fedward_common.site_messages import MAX_LINE
from fedward_common.study import StudySpec


def approve(member: Member, study: StudySpec, until: date) -> None:
    """Approve exactly this study up to and including `until`; raises SettingsError where it could not be used."""
    entry = next((entry for entry in study.sites if entry.name == member.site.name), None)
    if entry is None or entry.fingerprint != member.fingerprint:
        raise SettingsError(
            f"this study's roster does not name {member.site.name} with its key ({member.fingerprint[:12]}…): "
            "approve the study as the hub resolved it; `fedward site status` lists those that it asked for"
        )
    member.log.append("approved", {"study": study.digest, "study_id": study.study.id, "until": until.isoformat()})
    member.ledger.approve(study, until)


def refuse(member: Member, digest: str, reason: str) -> None:
    """Refuse exactly this study, with a reason for the hub's people; SettingsError where no hub asked for it."""
    reason = printable(reason, MAX_LINE)
    if not member.ledger.refuse(digest, reason):
        raise SettingsError(
            "no hub has asked for a study with this digest; `fedward site status` lists those that wait"
        )
    member.log.append("declined", {"study": digest, "reason": reason})


def withdraw(member: Member, digest: str) -> None:
    """Take an approval back; raises SettingsError where there is none."""
    if not member.ledger.withdraw(digest):
        raise SettingsError("no study with this digest is approved; `fedward site status` lists those that are")
    member.log.append("withdrawn", {"study": digest})


def pause(member: Member, reason: str) -> None:
    """Answer nothing until resumed."""
    member.log.append("paused", {"reason": reason})
    member.ledger.pause(reason)


def resume(member: Member) -> None:
    """Answer again."""
    member.log.append("resumed", {})
    member.ledger.resume()
