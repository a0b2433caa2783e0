"""What sites and hubs tell each other around rounds: it comes back as it went, and no text of it breaks a line."""

from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from fedward_common.site_messages import (
    MAX_FAULTS,
    MAX_LINE,
    MAX_NOTICES,
    MAX_REASON,
    MAX_RUNS,
    Approval,
    ApprovalState,
    ApprovalsTold,
    AskedStudy,
    Gpu,
    HubNews,
    Notice,
    SiteReport,
    SiteStatus,
    Work,
)

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
runs = st.from_regex(r"[a-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
counts = st.integers(0, 10**9)
letters = st.characters(categories=("L", "N", "P", "S"))
lines = st.text(letters, min_size=1, max_size=MAX_LINE)
asked = st.builds(
    AskedStudy,
    run=runs,
    digest=digests,
    study=st.text(max_size=200),
    approval=st.none() | st.sampled_from(("awaiting", "approved")),
)
notices = st.builds(
    Notice,
    run=runs,
    digest=digests,
    round=counts,
    kind=st.sampled_from(("refused", "left-out")),
    reason=st.text(letters, max_size=MAX_REASON),
)
news = st.builds(
    HubNews,
    studies=st.lists(asked, max_size=3).map(tuple),
    notices=st.lists(notices, max_size=3).map(tuple),
)


def answers(state: ApprovalState) -> st.SearchStrategy[Approval]:
    return st.builds(
        Approval,
        digest=digests,
        state=st.just(state),
        time=st.datetimes(timezones=st.just(UTC)),
        until=st.dates() if state == "approved" else st.none(),
        reason=st.none() | lines,
    )


approvals = st.one_of(*(answers(state) for state in ("awaiting", "approved", "refused", "withdrawn")))
statuses = st.builds(
    SiteStatus,
    fedward=st.just("0.1.0"),
    state=st.sampled_from(("idle", "training", "silent")),
    gpu=st.none() | st.builds(Gpu, name=lines, memory_gib=counts),
    spool_free_gib=counts,
    cache_free_gib=counts,
    work=st.none() | st.builds(Work, run=runs, round=counts, percent=st.none() | st.integers(0, 100)),
    faults=st.lists(lines, max_size=MAX_FAULTS).map(tuple),
)
reports = st.builds(SiteReport, approvals=st.lists(approvals, max_size=3).map(tuple), status=st.none() | statuses)


@given(message=st.one_of(news, reports, statuses, approvals))
def test_a_message_comes_back_as_it_went(message: BaseModel) -> None:
    assert type(message).model_validate_json(message.model_dump_json()) == message


@given(text=st.text(max_size=2 * MAX_LINE))
def test_a_text_is_a_short_printable_line_or_refused(text: str) -> None:
    agreed = 0 < len(text) <= MAX_LINE and text.isprintable()
    try:
        Gpu(name=text, memory_gib=1)
    except ValidationError:
        assert not agreed
    else:
        assert agreed


@given(data=st.binary(max_size=200))
@pytest.mark.parametrize("kind", [HubNews, SiteReport, SiteStatus, ApprovalsTold])
def test_nonsense_is_none(kind: type[BaseModel], data: bytes) -> None:
    try:
        found = kind.model_validate_json(data)
    except ValidationError:
        return
    assert found == kind()  # of JSON that says nothing


@given(answer=approvals, message=notices)
def test_lists_have_bounds(answer: Approval, message: Notice) -> None:
    for number in (0, MAX_RUNS + 1):
        with pytest.raises(ValidationError):
            ApprovalsTold(approvals=(answer,) * number)
    with pytest.raises(ValidationError):
        HubNews(notices=(message,) * (MAX_NOTICES + 1))


@given(status=statuses)
def test_a_status_has_no_place_for_anything_else(status: SiteStatus) -> None:
    for more in ({"patients": 7}, {"host": "pacs.example"}, {"path": "/srv"}):
        with pytest.raises(ValidationError):
            SiteStatus.model_validate({**status.model_dump(), **more})
