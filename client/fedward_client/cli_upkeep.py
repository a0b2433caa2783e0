"""`fedward site forget | backup | restore`: what goes when a study is over, and what must not be lost."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedward_client.cli_common import AsJson, Folder, State, Yes, control_of, member_of
from fedward_client.site import Site
from fedward_common.cli_passphrase import PassphraseFile, passphrase_of
from fedward_common.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from fedward_client.member import Member
    from fedward_client.stubs.site_pb2_grpc import ControlStub

Removal = dict[str, dict[str, int]]  # by kind, "files" and "size" in bytes


def forget(
    folder: Folder,
    study: Annotated[str, typer.Argument(help="A study by id (every version of it), digest, or a digest's beginning.")],
    yes: Yes = False,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Remove what this site made of its patients for a study, and take its approval back; the proof of what left stays.

    Images, labels, keys, receipts and the audit log are not touched. Refused while a round of the study is in hand.

    Example: fedward site forget /srv/hospital breast-ultrasound
    """
    site = Site.open(folder, state=state)
    member = member_of(site)
    names = _named(member, study)
    if not as_json:
        for digest, name in names.items():
            print(f"Study {name or 'of an unknown name'}, digest {digest}")
    if not yes and not typer.confirm(f"Forget it at {site.name}? Its runs cannot go on here", err=as_json):
        raise typer.Exit(1)
    with control_of(site) as control:
        removed = [_forget(member, control, digest) for digest in names]
    total = _sum(removed)
    if as_json:
        print(json.dumps({"site": site.name, "studies": list(names), "removed": total}))
        return
    _show(total)
    print("The approval is withdrawn. Receipts and the audit log stay: they prove what left.")


def _named(member: "Member", text: str) -> dict[str, str]:
    """The studies meant, their ids by their digests; a whole digest is always one, and what is gone stays so."""
    from fedward_client.forgetting import studies_of

    known = dict.fromkeys(sorted(studies_of(member.site)), "")
    known |= {each.digest: each.study_id for each in member.ledger.approvals()}
    known |= {each.digest: each.study_id for each in member.ledger.studies()}
    found = [digest for digest, name in known.items() if text in {name, digest}]
    if not found and len(text) >= 8:
        found = [digest for digest in known if digest.startswith(text)]
    if not found and re.fullmatch(r"[0-9a-f]{64}", text):
        return {text: ""}
    if not found:
        names = ", ".join(sorted({name for name in known.values() if name})) or "none"
        raise UsageError(f"nothing is known here of a study '{text}' (known: {names}); give an id or a digest")
    return {digest: known[digest] for digest in found}


def _forget(member: "Member", control: "ControlStub | None", digest: str) -> Removal:
    """Through the daemon where one is up, which knows what is in hand; else in its place."""
    from dataclasses import asdict

    from fedward_client import locks
    from fedward_client.forgetting import forget as forget_directly
    from fedward_client.stubs.site_pb2 import Withdrawal

    if control is not None:
        done = control.Forget(Withdrawal(digest=digest))
        if done.error:
            raise SettingsError(done.error)
        told: Removal = json.loads(done.json)
        return told
    with locks.claimed(member.site.state, member.site.name, locks.EXECUTOR):
        removed = forget_directly(member, member.outbox(spool=True), digest)
    return {kind: asdict(each) for kind, each in removed.items()}


def _sum(removed: list[Removal]) -> Removal:
    return {kind: {what: sum(one[kind][what] for one in removed) for what in ("files", "size")} for kind in removed[0]}


def _show(removed: Removal) -> None:
    table = Table("removed", "files", "MiB")
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, each in removed.items():
        table.add_row(kind, str(each["files"]), f"{each['size'] / 2**20:.1f}")
    Console().print(table)


def backup(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="The file to write; it must not be there yet.")],
    passphrase_file: PassphraseFile = None,
    state: State = None,
) -> None:
    """Write keys, ledger, audit log, catalog and site.toml into one file under a passphrase. The site may be up.

    Images, labels, the opt-out list and models are not in it. Keep the passphrase elsewhere: without it nobody can read
    the file.

    Example: fedward site backup /srv/hospital /mnt/safe/north-2027-01-31.backup
    """
    from fedward_client.backup import backup as write

    member = member_of(Site.open(folder, state=state))
    passphrase = passphrase_of(passphrase_file, new=True)
    with Console(stderr=True).status("Copying databases, checking the log, sealing"):
        size = write(member, file, passphrase)
    print(f"Site {member.site.name} is backed up: {file}, {size / 2**20:.1f} MiB.")


def restore(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="What `fedward site backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Where a site is there already: move it aside, and say where.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    state: State = None,
) -> None:
    """Make this folder the site that a backup is of. It is checked first, and the site is paused afterwards.

    Example: fedward site restore /srv/hospital /mnt/safe/north-2027-01-31.backup
    """
    from fedward_client.restore import restore as put_back

    passphrase = passphrase_of(passphrase_file, new=False)
    with Console(stderr=True).status("Opening, checking keys, databases and the log"):
        done = put_back(folder, file, passphrase, state=state, replace=replace)
    print(f"Site {done.site} is as it was on {done.made}, and paused. State folder: {done.state}")
    for approval in done.approvals:
        print(f"Approved then: {approval.study_id} (digest {approval.digest[:12]}…) until {approval.until}")
    print("Withdraw what you withdrew since, put images and label table in their place, then `fedward site resume`.")
    if done.aside is not None:
        print(f"What was there is now in {done.aside}: remove it when you are sure that you need nothing of it.")
