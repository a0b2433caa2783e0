"""`fedward site init | approve | refuse | withdraw | pause | resume`: what a hospital's data steward decides."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward_client.cli_common import AsJson, Folder, State, Yes, control_of, member_of
from fedward_client.site import Site
from fedward_common.errors import SettingsError, StudyError, UsageError

if TYPE_CHECKING:
    from fedward_client.member import Member
    from fedward_common.study import StudySpec

LONGEST_APPROVAL = timedelta(days=366)


def init(  # noqa: PLR0917 - typer reads options from parameters
    folder: Folder,
    hub: Annotated[Path | None, typer.Option(help="The hub's card, hub.json, as its operator gave it.")] = None,
    name: Annotated[str | None, typer.Option(help="The site's name at the hub; else made from the folder's.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="Where to write this site's card.", show_default="./NAME.json")
    ] = None,
    new_node_key: Annotated[
        bool, typer.Option("--new-node-key", help="For a hub that forgot this site: it takes no node's key twice.")
    ] = False,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Make this folder a site: keys that never leave it, and a card for the hub's operator. What is there is kept.

    Example: fedward site init /srv/hospital --hub hub.json
    """
    from fedward_client.member import HUB_CARD, join
    from fedward_common.cards import HubCard
    from fedward_common.pki import grouped

    site, own = join(
        folder, None if hub is None else HubCard.read(hub), name=name, state=state, new_node_key=new_node_key
    )
    path = card or Path(f"{site.name}.json")
    own.write(path)
    known = HubCard.read(site.link / HUB_CARD) if (site.link / HUB_CARD).exists() else None
    if as_json:
        hub_name = known.hub if known is not None else None
        print(json.dumps({"site": site.name, "fingerprint": own.fingerprint, "card": str(path), "hub": hub_name}))
        return
    print(f"Site {site.name}. Its card, for the hub's operator: {path}")
    print(f"Fingerprint, to be compared by telephone:       {grouped(own.fingerprint)}")
    if not site.outputs:
        print("Its policy is empty: nothing leaves until site.toml says, under [policy],")
        print('outputs = ["counts", "update", "evaluation"]')
    if known is None:
        print("No hub yet: `fedward site join` with the operator's code, or this again with --hub and the hub's card.")
    else:
        print(f"Hub {known.hub} at {known.address}. Its fingerprint:  {grouped(known.fingerprint)}")


def approve(
    folder: Folder,
    study: Annotated[str, typer.Argument(help="A study that a hub asked for, by id or digest; or its resolved file.")],
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The last day.", show_default="the study's last, or 180 days"),
    ] = None,
    yes: Yes = False,
    state: State = None,
) -> None:
    """Read a study that a hub wants to run here, and let exactly that one, up to a day.

    Example: fedward site approve /srv/hospital breast-ultrasound --until 2027-06-30
    """
    from fedward_client.steward import approve as approve_directly
    from fedward_common.study_text import describe

    site = Site.open(folder, state=state)
    member = member_of(site)
    spec = _wanted(member, study)
    last = until.date() if until is not None else _default_end(spec)
    _check_end(last, spec)
    for heading, text in describe(spec):
        print(f"{heading}: {text}")
    print(f"Digest: {spec.digest}")
    if not yes and not typer.confirm(f"Let {site.name} take part until {last}?"):
        raise typer.Exit(1)
    with control_of(site) as control:
        if control is None:
            approve_directly(member, spec, last)
        else:
            from fedward_client.stubs.site_pb2 import Approval

            done = control.Approve(Approval(study=spec.canonical_json().decode(), until=last.isoformat()))
            if done.error:
                raise SettingsError(done.error)
    print(f"Approved: {spec.study.id} (digest {spec.digest[:12]}…) until {last}.")


def _wanted(member: "Member", text: str) -> "StudySpec":
    """The study meant: one that a hub asked for, or a file that holds one as a hub resolved it."""
    from fedward_common.study import StudySpec

    asked = member.ledger.studies()
    found = [each for each in asked if text in {each.study_id, each.digest}] or [
        each for each in asked if len(text) >= 8 and each.digest.startswith(text)
    ]
    if len({each.digest for each in found}) > 1:
        digests = ", ".join(f"{each.digest[:12]}… (asked {each.asked[:16]})" for each in found)
        raise UsageError(f"a hub asked for several versions of {text}: name one by its digest: {digests}")
    if found:
        return StudySpec.from_json(found[0].study)
    path = Path(text)
    if path.suffix != ".json" or not path.is_file():
        names = ", ".join(sorted({each.study_id for each in asked})) or "none yet"
        raise UsageError(
            f"no hub has asked for a study '{text}' (asked for: {names}), and it is no resolved study's file"
        )
    try:
        return StudySpec.from_json(path.read_bytes())
    except ValueError:
        raise StudyError(
            f"{path.name} is no study as a hub resolves it: ask the investigator for its study.json"
        ) from None


def _default_end(spec: "StudySpec") -> date:
    today = datetime.now(UTC).date()
    return min(spec.study.ends or today + timedelta(days=180), today + LONGEST_APPROVAL)


def _check_end(last: date, spec: "StudySpec") -> None:
    today = datetime.now(UTC).date()
    if last < today:
        raise UsageError(f"--until {last} is over: give a day from today on")
    if last > today + LONGEST_APPROVAL:
        raise UsageError(f"--until {last} is more than a year away: approve for at most a year, then renew")
    if spec.ended(today):
        raise UsageError(f"the study's last day was {spec.study.ends}: there is nothing to approve")


def refuse(
    folder: Folder,
    study: Annotated[str, typer.Argument(help="A study that a hub asked for, by id or digest.")],
    reason: Annotated[str, typer.Option(help="Why, in a line for the hub's people.")] = "",
    state: State = None,
) -> None:
    """Say no to a study that a hub wants to run here. The hub is told, and does not wait; approving takes it back.

    Example: fedward site refuse /srv/hospital breast-ultrasound --reason "the ethics board has not met"
    """
    from fedward_client.steward import refuse as refuse_directly
    from fedward_client.stubs.site_pb2 import Refusal
    from fedward_common.site_messages import MAX_LINE

    if len(reason) > MAX_LINE or not reason.isprintable():
        raise UsageError(f"--reason is one line of at most {MAX_LINE} characters: shorten it")
    site = Site.open(folder, state=state)
    member = member_of(site)
    spec = _wanted(member, study)
    with control_of(site) as control:
        if control is None:
            refuse_directly(member, spec.digest, reason)
        elif error := control.Refuse(Refusal(digest=spec.digest, reason=reason)).error:
            raise SettingsError(error)
    print(f"Refused: {spec.study.id} (digest {spec.digest[:12]}…).")


def withdraw(
    folder: Folder,
    study: Annotated[str, typer.Argument(help="An approved study, by id or digest.")],
    state: State = None,
) -> None:
    """Take an approval back: from now on nothing leaves for that study.

    Example: fedward site withdraw /srv/hospital breast-ultrasound
    """
    from fedward_client.steward import withdraw as withdraw_directly
    from fedward_client.stubs.site_pb2 import Withdrawal

    site = Site.open(folder, state=state)
    member = member_of(site)
    digests = [a.digest for a in member.ledger.approvals() if study in {a.study_id, a.digest}]
    if not digests:
        raise UsageError(f"no study '{study}' is approved; `fedward site status` lists those that are")
    with control_of(site) as control:
        for digest in digests:
            if control is None:
                withdraw_directly(member, digest)
            elif error := control.Withdraw(Withdrawal(digest=digest)).error:
                raise SettingsError(error)
    print(f"Withdrawn: {study}.")


def pause(
    folder: Folder,
    reason: Annotated[str, typer.Option(help="Why, for the log.")] = "",
    state: State = None,
) -> None:
    """Let nothing leave until `fedward site resume`, over restarts too. What is being computed stays here.

    Example: fedward site pause /srv/hospital --reason "the GPU is needed"
    """
    from fedward_client.steward import pause as pause_directly
    from fedward_client.stubs.site_pb2 import PauseRequest

    site = Site.open(folder, state=state)
    with control_of(site) as control:
        if control is None:
            pause_directly(member_of(site), reason)
        elif error := control.Pause(PauseRequest(reason=reason)).error:
            raise SettingsError(error)
    print(f"Site {site.name} is paused.")


def resume(folder: Folder, state: State = None) -> None:
    """Let things leave again, as the policy and the approvals say.

    Example: fedward site resume /srv/hospital
    """
    from fedward_client.steward import resume as resume_directly
    from fedward_client.stubs.site_pb2 import Nothing

    site = Site.open(folder, state=state)
    with control_of(site) as control:
        if control is None:
            resume_directly(member_of(site))
        elif error := control.Resume(Nothing()).error:
            raise SettingsError(error)
    print(f"Site {site.name} goes on.")
