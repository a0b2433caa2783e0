"""`fedward site forget`: what goes when a study is over."""

import json
import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedward_client.cli_common import AsJson, Folder, State, Yes, control_of, member_of
from fedward_client.site import Site
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
