"""What is asked for, what of the answers is wanted, and how an answer of several parts is read."""

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_client.receiver.multipart import FirstPart, boundary_of
from fedward_client.receiver.query import Question, Series, Study, Wanted, day_of, questions

TODAY = date(2026, 5, 17)
STUDY = Study(uid="1.2", patient="007", day=date(2020, 2, 29), description="Breast screening")
SERIES = Series(study="1.2", uid="1.2.3", modality="US", description="Left, OBLIQUE", instances=4)


def asked(wanted: Wanted) -> list[Question]:
    return list(questions(wanted, TODAY))


def test_without_a_day_or_a_patient_it_is_one_question() -> None:
    [question] = asked(Wanted(modality="US"))
    assert (question.days, question.patient, question.modality) == ("", None, "US")
    [question] = asked(Wanted(until=date(2020, 1, 5)))
    assert question.days == "-20200105"


def test_from_a_day_on_it_is_one_question_a_month() -> None:
    days = [question.days for question in asked(Wanted(since=date(2026, 3, 20)))]
    assert days == ["20260320-20260331", "20260401-20260430", "20260501-"], "the last month has no end"
    days = [question.days for question in asked(Wanted(since=date(2020, 1, 31), until=date(2020, 2, 29)))]
    assert days == ["20200131-20200131", "20200201-20200229"]
    assert [question.days for question in asked(Wanted(since=TODAY + timedelta(days=40)))] == ["20260626-"]
    assert asked(Wanted(since=date(2020, 2, 1), until=date(2020, 1, 1))) == []


@given(since=st.dates(date(1990, 1, 1), TODAY), length=st.integers(0, 2000))
def test_months_cover_every_day_once(since: date, length: int) -> None:
    until = since + timedelta(days=length)
    ranges = [(question.since, question.until) for question in asked(Wanted(since=since, until=until))]
    assert ranges[0][0] == since
    assert ranges[-1][1] == until
    for (first, last), (following, _) in pairwise(ranges):
        assert first is not None
        assert last is not None
        assert first <= last
        assert following == last + timedelta(days=1)


def test_patients_are_asked_for_one_by_one() -> None:
    found = asked(Wanted(patients=("007", "8"), since=date(2020, 1, 1)))
    assert [(question.patient, question.days) for question in found] == [("007", "20200101-"), ("8", "20200101-")]
    assert "007" not in repr(found)


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (Wanted(), True),
        (Wanted(modality="US"), True),
        (Wanted(modality="MR"), False),
        (Wanted(description="oblique"), True),
        (Wanted(description="SCREENING"), True),
        (Wanted(description="screening left"), False),
        (Wanted(patients=("007",)), True),
        (Wanted(patients=("7", "00?", "*")), False),
        (Wanted(since=date(2020, 2, 29), until=date(2020, 2, 29)), True),
        (Wanted(since=date(2020, 3, 1)), False),
        (Wanted(until=date(2020, 2, 28)), False),
    ],
)
def test_what_is_found_is_looked_at_once_more(wanted: Wanted, *, taken: bool) -> None:
    assert wanted.takes(STUDY, SERIES) is taken


def test_a_study_without_a_day_is_in_no_span_of_days() -> None:
    study = Study(uid="1.2", patient="007", day=None, description="")
    assert Wanted().takes(study, SERIES)
    assert not Wanted(since=date(1990, 1, 1)).takes(study, SERIES)
    assert not Wanted(until=TODAY).takes(study, SERIES)


def test_identifiers_are_not_shown() -> None:
    shown = repr([STUDY, SERIES, Wanted(patients=("007",))])
    assert not any(secret in shown for secret in ("1.2", "007", "Breast", "OBLIQUE"))


@pytest.mark.parametrize(
    ("text", "day"),
    [("20200229", date(2020, 2, 29)), ("1990.01.02", date(1990, 1, 2)), ("20210229", None), ("", None), ("2020", None)],
)
def test_days_as_dicom_writes_them(text: str, day: date | None) -> None:
    assert day_of(text) == day


# Several parts -------------------------------------------------------------------------------------------------------


def read(body: bytes, boundary: str, size: int) -> tuple[bytes, bool]:
    """The first part of a body that comes in chunks of a size."""
    found = bytearray()
    part = FirstPart(boundary, found.extend)
    for start in range(0, len(body), size):
        part.feed(body[start : start + size])
    return bytes(found), part.ended


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=a_b-1', "a_b-1"),
        ('Multipart/Related; boundary="a b=c:d"; type="application/dicom"', "a b=c:d"),
        ("application/dicom", None),
        ("application/dicom; boundary=x", None),
        ("multipart/related", None),
        ("", None),
    ],
)
def test_the_boundary(content_type: str, boundary: str | None) -> None:
    assert boundary_of(content_type) == boundary


@given(
    content=st.lists(st.sampled_from([b"\r\n", b"--", b"--b", b"\r\n--", b"\r", b"b", b"\0\xff"]), max_size=30).map(
        b"".join
    ),
    size=st.integers(1, 200),
    more=st.booleans(),
)
def test_a_part_comes_back_however_it_is_cut(content: bytes, size: int, *, more: bool) -> None:
    if b"\r\n--boundary" in b"\r\n" + content:
        return
    part = b"--boundary\r\nContent-Type: application/dicom\r\nContent-Length: 3\r\n\r\n" + content + b"\r\n"
    body = part + (part if more else b"") + b"--boundary--\r\n"
    assert read(body, "boundary", size) == (content, True)


def test_a_part_that_breaks_off_is_not_whole() -> None:
    assert read(b"--b\r\nA: x\r\n\r\n1234", "b", 5) == (b"1234", False)
    assert read(b"", "b", 5) == (b"", False)


@given(st.binary(max_size=100), st.integers(1, 50))
def test_what_is_no_multipart_is_refused_or_empty(body: bytes, size: int) -> None:
    try:
        found, ended = read(b"x" + body, "boundary", size)
    except ValueError:
        return
    assert (found, ended) == (b"", False)
