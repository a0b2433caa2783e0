"""What may leave a site: rules that compose. An empty policy refuses; the one that allows everything says so.

A rule looks at a departure and gives the reason why it may not leave, or None. All rules of a policy must agree. The
same policy is asked twice: before any work, and again at the door.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from fedward_client.ledger import Approval, Declined, Ledger
from fedward_client.site import Output
from fedward_common.errors import PolicyError
from fedward_common.records import WAITS
from fedward_common.study import StudySpec

if TYPE_CHECKING:
    from fedward_client.site import Site

_OUTPUT: dict[str, Output] = {
    "stats": "statistics",
    "prepare": "counts",
    "train": "update",
    "evaluate": "evaluation",
}
LOCAL_MODEL: Output = "local_model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Departure:
    """Something that wants to leave, or would once it is computed."""

    site: str
    study: StudySpec
    kind: str  # the question's: stats | prepare | train | evaluate
    hand_over: bool = False  # the model that the site trains without the others is in it

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What a policy calls it."""
        return (_OUTPUT[self.kind], LOCAL_MODEL) if self.hand_over else (_OUTPUT[self.kind],)


Rule = Callable[[Departure], str | None]


@dataclass(frozen=True, slots=True)
class Policy:
    """All of `rules` must allow a departure."""

    rules: tuple[Rule, ...] = ()

    def check(self, departure: Departure) -> None:
        """Raise PolicyError, in words for the hub's people, unless `departure` may leave."""
        if not self.rules:
            raise PolicyError(f"{departure.site} has an empty policy, which lets nothing leave")
        for rule in self.rules:
            if reason := rule(departure):
                raise PolicyError(reason)

    def __add__(self, other: "Policy") -> "Policy":
        return Policy(self.rules + other.rules)


def of_site(site: "Site", ledger: Ledger, fingerprint: str, *, today: Callable[[], date] | None = None) -> Policy:
    """The policy of a hospital's folder: not paused, outputs named, on the roster by its key, approved, not refused."""
    return Policy(
        (
            not_paused(ledger),
            outputs(site.outputs),
            on_roster(fingerprint),
            whole_updates(site.max_update_norm),
            not_refused(ledger.declined),
            approved(ledger.approvals, today or _today),
        )
    )


def unsafe_everything() -> Policy:
    """Everything may leave: for simulations, where all hospitals are folders of one machine."""
    return Policy((lambda _departure: None,))


def outputs(allowed: Collection[Output]) -> Rule:
    """Only the kinds of output that site.toml names."""

    def rule(departure: Departure) -> str | None:
        if not allowed:
            return (
                f"{departure.site} has an empty policy, which lets nothing leave: its steward names what may, "
                "as [policy] outputs in site.toml"
            )
        for output in departure.outputs:
            if output not in allowed:
                return f"{departure.site}'s policy does not let '{output}' leave ([policy] outputs in site.toml)"
        return None

    return rule


def not_paused(ledger: Ledger) -> Rule:
    """Nothing while the steward has paused the site."""

    def rule(departure: Departure) -> str | None:
        if since := ledger.paused():
            return f"{departure.site} is paused by its steward since {since[:16]} UTC"
        return None

    return rule


def on_roster(fingerprint: str) -> Rule:
    """Only studies whose roster names this site with this key: nobody else can be taken for it."""

    def rule(departure: Departure) -> str | None:
        entry = next((entry for entry in departure.study.sites if entry.name == departure.site), None)
        if entry is None:
            return f"{departure.site} is not on the study's roster"
        if entry.fingerprint != fingerprint:
            return (
                f"the study's roster has another key for {departure.site} than its own ({fingerprint[:12]}…): "
                "enrol the site's present card at the hub"
            )
        return None

    return rule


def whole_updates(max_update_norm: float | None) -> Rule:
    """No study whose strategy goes astray where an update is scaled down on its way."""

    def rule(departure: Departure) -> str | None:
        if max_update_norm is None or departure.study.strategy.name != "scaffold":
            return None
        return (
            f"{departure.site} scales updates down ([policy] max_update_norm in site.toml), and scaffold's control "
            "variates must leave as they are kept: choose another strategy for the study"
        )

    return rule


def not_refused(declined: Callable[[], Collection[Declined]]) -> Rule:
    """No study that the steward refused: the hub need not ask again."""

    def rule(departure: Departure) -> str | None:
        for each in declined():
            if each.digest == departure.study.digest and each.state == "refused":
                why = f": {each.reason}" if each.reason else ""
                return f"the steward of {departure.site} refused '{each.study_id}' (digest {each.digest[:12]}…){why}"
        return None

    return rule


def approved(approvals: Callable[[], Collection[Approval]], today: Callable[[], date]) -> Rule:
    """Only exactly the study that the steward approved, and only as long as the approval and the study last."""

    def rule(departure: Departure) -> str | None:
        study, day = departure.study, today()
        if study.ended(day):
            return f"the study ended on {study.study.ends}"
        given = list(approvals())
        exact = next((approval for approval in given if approval.digest == study.digest), None)
        if exact is not None and day <= exact.until:
            return None
        return f"{WAITS}: {_why(departure, exact, given)}; `fedward site approve` does"

    return rule


def _why(departure: Departure, exact: Approval | None, given: list[Approval]) -> str:
    study = departure.study
    if exact is not None:
        return f"the approval of {departure.site} ended on {exact.until}, its steward has to renew it"
    named = f"'{study.study.id}' (digest {study.digest[:12]}…)"
    if any(approval.study_id == study.study.id for approval in given):
        return f"the steward of {departure.site} approved another version of {named}, not this one, and has to read it"
    return f"the steward of {departure.site} has not approved {named} yet"


def _today() -> date:
    return datetime.now(UTC).date()
