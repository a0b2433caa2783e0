"""What may leave: rules that compose, an empty policy that refuses, approvals of exactly one study up to a day."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_client.member import Member
from fedward_client.policy import Departure, Policy, Rule, of_site, outputs, unsafe_everything
from fedward_client.steward import approve, pause, refuse, resume, withdraw
from fedward_common.errors import PolicyError, SettingsError
from fedward_common.records import WAITS
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

TODAY = datetime.now(UTC).date()
MemberMaker = Callable[..., Member]
StudyMaker = Callable[..., StudySpec]


def departure(study: StudySpec | None = None, kind: str = "train") -> Departure:
    return Departure(site="north", study=study or tiny_study(), kind=kind)


def refusal(policy: Policy, study: StudySpec, kind: str = "train") -> str:
    with pytest.raises(PolicyError) as refused:
        policy.check(departure(study, kind))
    return str(refused.value)


def says(reason: str | None) -> Rule:
    return lambda _departure: reason


def policy_of(member: Member, today: date = TODAY) -> Policy:
    return of_site(member.site, member.ledger, member.fingerprint, today=lambda: today)


def test_an_empty_policy_refuses() -> None:
    with pytest.raises(PolicyError, match="north has an empty policy, which lets nothing leave"):
        Policy().check(departure())
    unsafe_everything().check(departure())


@given(verdicts=st.lists(st.booleans(), min_size=1, max_size=6))
def test_policies_compose_and_all_rules_must_agree(verdicts: list[bool]) -> None:
    policy = Policy()
    for place, verdict in enumerate(verdicts):
        policy += Policy((says(None if verdict else f"rule {place}"),))
    if all(verdicts):
        policy.check(departure())
    else:
        with pytest.raises(PolicyError, match=f"^rule {verdicts.index(False)}$"):
            policy.check(departure())


@pytest.mark.parametrize(
    ("kind", "output"),
    [("stats", "statistics"), ("prepare", "counts"), ("train", "update"), ("evaluate", "evaluation")],
)
def test_only_named_outputs_leave(kind: str, output: str) -> None:
    every = {"counts", "update", "evaluation"}
    Policy((outputs({output}),)).check(departure(kind=kind))  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=rf"does not let '{output}' leave \(\[policy\] outputs"):
        Policy((outputs(every - {output}),)).check(departure(kind=kind))  # type: ignore[arg-type]


def test_a_hospitals_own_model_leaves_only_where_it_is_named_beside_its_figures() -> None:
    lent = Departure(site="north", study=tiny_study(), kind="evaluate", hand_over=True)
    Policy((outputs({"evaluation", "local_model"}),)).check(lent)
    Policy((outputs({"evaluation"}),)).check(departure(kind="evaluate"))
    for allowed, missing in (({"evaluation"}, "local_model"), ({"local_model"}, "evaluation")):
        with pytest.raises(PolicyError, match=f"does not let '{missing}' leave"):
            Policy((outputs(allowed),)).check(lent)  # type: ignore[arg-type]


def test_a_site_without_outputs_says_where_to_name_them(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member('[site]\nname = "north"\n')
    study = roster_study(at)
    approve(at, study, TODAY)
    assert refusal(policy_of(at), study) == (
        "north has an empty policy, which lets nothing leave: its steward names what may, "
        "as [policy] outputs in site.toml"
    )


def test_nothing_leaves_before_approval_nor_after_its_end(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    said = refusal(policy_of(at), study)
    assert said.startswith(f"{WAITS}: the steward of north has not approved 'tiny' (digest {study.digest[:12]}…) yet")
    approve(at, study, TODAY)
    policy_of(at).check(departure(study))
    later = refusal(policy_of(at, TODAY + timedelta(days=1)), study)
    assert later.startswith(f"{WAITS}: the approval of north ended on {TODAY}")
    withdraw(at, study.digest)
    assert refusal(policy_of(at), study) == said


def test_a_changed_study_under_an_approved_id_is_another_study(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    approve(at, roster_study(at), TODAY)
    changed = roster_study(at, training={"rounds": 3})
    assert "the steward of north approved another version of 'tiny'" in refusal(policy_of(at), changed)


def test_a_study_that_ended_is_refused_for_good(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at, study={"ends": "2026-01-31"})
    approve(at, study, TODAY)
    assert refusal(policy_of(at), study) == "the study ended on 2026-01-31"


def test_a_roster_with_another_key_is_refused(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    [entry] = study.sites
    forged = study.model_copy(update={"sites": (entry.model_copy(update={"fingerprint": "ab" * 32}),)})
    assert "the study's roster has another key for north" in refusal(policy_of(at), forged)
    assert refusal(policy_of(at), study.model_copy(update={"sites": ()})) == "north is not on the study's roster"
    with pytest.raises(SettingsError, match="roster does not name north with its key"):
        approve(at, forged, TODAY)


def test_a_site_that_scales_updates_down_refuses_a_strategy_that_goes_astray_by_it(
    member: MemberMaker, roster_study: StudyMaker
) -> None:
    sgd = {"name": "sgd", "lr": 0.1, "momentum": 0.0}
    at = member()
    study = roster_study(at, strategy={"name": "scaffold"}, training={"optimizer": sgd})
    approve(at, study, TODAY)
    policy_of(at).check(departure(study))
    scaled = replace(at, site=replace(at.site, max_update_norm=1.0))
    assert "north scales updates down ([policy] max_update_norm" in refusal(policy_of(scaled), study, "prepare")
    other = roster_study(at)
    approve(at, other, TODAY)
    policy_of(scaled).check(departure(other))


def test_a_paused_site_lets_nothing_leave(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    approve(at, study, TODAY)
    pause(at, "the GPU is needed")
    assert refusal(policy_of(at), study).startswith("north is paused by its steward since 20")
    resume(at)
    policy_of(at).check(departure(study))


def test_what_a_steward_decides_is_in_the_log(member: MemberMaker, roster_study: StudyMaker) -> None:
    from fedward_common import audit

    at = member()
    study = roster_study(at)
    approve(at, study, TODAY)
    pause(at, "audit")
    resume(at)
    withdraw(at, study.digest)
    path = Path(at.site.state / "audit.jsonl")
    assert [entry.event for entry in audit.entries(path)] == ["begun", "approved", "paused", "resumed", "withdrawn"]
    audit.verify(path, public_key=at.key.public_key())


def test_a_refused_study_waits_no_more(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    at.ledger.asked(study)
    assert refusal(policy_of(at), study).startswith(WAITS)
    refuse(at, study.digest, "the board said no")
    named = f"'tiny' (digest {study.digest[:12]}…)"
    assert refusal(policy_of(at), study) == f"the steward of north refused {named}: the board said no"
    assert refusal(policy_of(at), roster_study(at, training={"rounds": 3})).startswith(WAITS), "another version"
    approve(at, study, TODAY)
    policy_of(at).check(departure(study))
    withdraw(at, study.digest)
    assert refusal(policy_of(at), study).startswith(WAITS)
