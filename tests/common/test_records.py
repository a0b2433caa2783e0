"""What comes over the wire is exactly what was agreed, or a RecordError in words."""

import gc
import json
import math
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedward_common import npy
from fedward_common.errors import RecordError
from fedward_common.metrics import Evaluation
from fedward_common.packing import is_small, packed
from fedward_common.records import (
    MAX_ARRAYS,
    MAX_COUNT,
    MAX_REASON,
    Evaluated,
    Prepared,
    Question,
    Trained,
    answer_record,
    arrays_in,
    from_array_record,
    json_bytes,
    printable,
    question_record,
    read_answer,
    read_question,
    texts_in,
    to_array_record,
)
from fedward_common.testing import tiny_study

COHORT = "0" * 64
PREPARED: dict[str, Any] = {
    "site": "north", "fedward": "0.1.0", "cohort": COHORT, "total": 60, "seconds": 1.0,
    "patients": {"train": 40, "validation": 10, "test": 10},
}  # fmt: skip
TRAINED: dict[str, Any] = {
    "site": "north", "study": "ef" * 32, "round": 1,
    "cohort": COHORT, "patients": 40, "images": 50, "steps": 4, "train_loss": 0.5, "incoming": None,
    "train_seconds": 0.1, "seconds": 0.2,
}  # fmt: skip


def header(text: bytes, *, version: bytes = b"\x01\x00") -> bytes:
    """A well-padded start of an .npy buffer around any header text."""
    padded = text + b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(padded).to_bytes(2, "little") + padded


def plain(shape: str, descr: str = "<f4", fortran: str = "False") -> bytes:
    """The header that numpy writes."""
    return header(f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}".encode())


def record(buffer: bytes, *, name: str = "w", dtype: str = "float32", shape: tuple[int, ...] = (1,)) -> ArrayRecord:
    return ArrayRecord({name: Array(dtype, shape, "numpy.ndarray", buffer)})


GOOD = plain("(1,)") + b"\0" * 4

HOSTILE = {
    "empty": b"",
    "short": b"\x93NUM",
    "magic only": b"\x93NUMPY\x01\x00",
    "other magic": b"\x93NUMPX" + GOOD[6:],
    "version 2": header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", version=b"\x02\x00") + b"\0" * 4,
    "open parenthesis": header(b"("),
    "deep parentheses": header(b"(" * 3000 + b")" * 90),
    "deep brackets": header(b"[" * 1500 + b"]" * 1500),
    "unary operators": header(b"-" * 3900 + b"1"),
    "a few of them": header(b"----1"),
    "unhashable key": header(b"{[]:1}"),
    "no dictionary": header(b"1"),
    "keys of two types": header(b"{1:2,'a':3}"),
    "long number": header(b"{'a':" + b"9" * 3900 + b"}"),
    "indented": header(b" \n  1\n 2"),
    "zero bytes": header(b"\0" * 20),
    "no text": header(b"\xff\xfe{"),
    "shape 10**30": plain(f"({10**30},)"),
    "shape 10**18": plain("(100000000000000000, 100000000000000000)"),
    "product wraps to 4": plain("(4294967296, 4294967296)"),
    "nothing of too much": plain("(0, 100000000000000000, 100000000000000000)"),
    "negative shape": plain("(-1, -4)") + b"\0" * 16,
    "65 dimensions": plain("(" + "1, " * 64 + "1)") + b"\0" * 4,
    "9 dimensions": plain("(1, 1, 1, 1, 1, 1, 1, 1, 1)") + b"\0" * 4,
    "leading zero": plain("(01,)") + b"\0" * 4,
    "other digits": plain("(\u0661,)") + b"\0" * 4,
    "a number for a shape": plain("1") + b"\0" * 4,
    "padding too short": b"\x93NUMPY\x01\x00\x39\x00" + plain("(1,)")[10:66] + b"\n" + b"\0" * 4,
    "padding without its end": GOOD[:127].replace(b"\n", b" ") + b" " + b"\0" * 4,
    "padding of tabs": GOOD.replace(b"  ", b"\t\t"),
    "header past its end": GOOD[:8] + b"\xff\xff" + GOOD[10:],
    "header of no length": GOOD[:8] + b"\0\0" + GOOD[10:],
    "cut in the header": GOOD[:20],
    "cut before the data": GOOD[:-4],
    "cut in the data": GOOD[:-1],
    "too much data": GOOD + b"\0",
    "objects": plain("(1,)", "|O") + b"\0" * 8,
    "structure": header(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }") + b"\0" * 4,
    "subarray": header(b"{'descr': ('<f4', (1000000, 1000000)), 'fortran_order': False, 'shape': (1,), }") + b"\0" * 4,
    "void": plain("(1,)", "V99999999999999"),
    "big-endian": plain("(1,)", ">f4") + b"\0" * 4,
    "another type": plain("(1,)", "<i4") + b"\0" * 4,
    "Fortran order": plain("(1,)", fortran="True") + b"\0" * 4,
    "another shape than said": plain("(2,)") + b"\0" * 8,
}


def test_the_buffer_that_the_hostile_ones_are_made_from_is_good() -> None:
    assert from_array_record(record(GOOD))["w"].tolist() == [0.0]


@pytest.mark.parametrize("buffer", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_buffer_is_refused_by_name(buffer: bytes) -> None:
    with pytest.raises(RecordError, match=r"^array 'w' ") as caught:
        from_array_record(record(buffer))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@given(st.data())
def test_flipped_bytes_raise_nothing_else(data: st.DataObject) -> None:
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    buffer = bytearray(npy.dump(array))
    for place in data.draw(st.lists(st.integers(0, 127), min_size=1, max_size=8)):
        buffer[place] = data.draw(st.integers(0, 255))
    try:
        loaded = from_array_record(record(bytes(buffer), shape=(2, 3)))["w"]
    except RecordError:
        return
    np.testing.assert_array_equal(loaded, array)


@given(st.binary(max_size=300))
def test_any_header_raises_nothing_else(text: bytes) -> None:
    with pytest.raises(RecordError):
        from_array_record(record(header(text)))


@given(
    hnp.arrays(
        st.sampled_from([np.dtype(name) for name in npy.DTYPES]),
        hnp.array_shapes(min_dims=0, max_dims=npy.MAX_DIMENSIONS, min_side=0, max_side=3),
    )
)
def test_arrays_round_trip(array: np.ndarray[Any, Any]) -> None:
    sent = to_array_record({"w": array})
    back = from_array_record(sent)["w"]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert sent["w"].numpy().tobytes() == array.tobytes()  # Flower's own reader agrees


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)))
def test_what_flower_writes_is_read(array: np.ndarray[Any, Any]) -> None:
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    back = from_array_record(ArrayRecord({"w": Array(contiguous)}))["w"]
    assert (back.shape, back.tobytes()) == (array.shape, array.tobytes())


def test_reading_copies_nothing() -> None:
    sent = to_array_record({"w": np.arange(1000, dtype=np.float32)})
    back = from_array_record(sent)["w"]
    assert np.shares_memory(back, np.frombuffer(sent["w"].data, np.uint8))
    assert not back.flags.writeable


def test_transposed_arrays_travel_in_c_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(from_array_record(to_array_record({"w": array}))["w"], array)


@pytest.mark.parametrize(
    ("array", "words"),
    [(np.zeros(1, ">f4"), ">f4"), (np.array([None]), "object"), (np.zeros((1,) * 9, np.float32), "9 dimensions")],
)
def test_what_does_not_travel_is_not_sent(array: np.ndarray[Any, Any], words: str) -> None:
    with pytest.raises(RecordError, match=words):
        to_array_record({"w": array})


def test_several_threads_read_at_once() -> None:
    """CPython 3.11's ast, which numpy's reader uses, fails here now and then."""
    sent = to_array_record({f"layer.{i}": np.zeros((4, i + 1), np.float32) for i in range(50)})
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(from_array_record, [sent] * 200))
    assert all(list(arrays) == list(sent) for arrays in read)


def test_no_parser_of_python_reads_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ast.literal_eval", None)
    monkeypatch.setattr("numpy.lib.format.read_array_header_1_0", None)
    assert from_array_record(record(GOOD))["w"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("name", "dtype", "words"),
    [
        ("n" * 257, "float32", "257 characters"),
        ("\x1b[2J\n" + "n" * 200, "float32", "cannot be printed"),
        ("w", "x" * 1_000_000 + "\n[/red]", "x…|x'…"),
        ("w", "\x1b[2J", r"\\x1b\[2J"),
        ("w", "object", "'object'"),
    ],
)
def test_names_and_types_from_the_wire_are_not_echoed_raw(name: str, dtype: str, words: str) -> None:
    with pytest.raises(RecordError, match=words) as caught:
        from_array_record(record(GOOD, name=name, dtype=dtype))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= MAX_REASON


def test_too_many_arrays_are_refused() -> None:
    array = Array("float32", (1,), "numpy.ndarray", GOOD)
    with pytest.raises(RecordError, match=str(MAX_ARRAYS)):
        from_array_record(ArrayRecord({str(i): array for i in range(MAX_ARRAYS + 1)}))


# Answers -------------------------------------------------------------------------------------------------------------


def reply(answer: dict[str, Any], **changes: Any) -> RecordDict:
    return RecordDict({"fedward": ConfigRecord({"answer": json.dumps({**answer, **changes})})})


def test_honest_answers_are_read() -> None:
    assert read_answer(reply(PREPARED), Prepared).patients == PREPARED["patients"]
    trained = read_answer(reply(TRAINED, patients=MAX_COUNT), Trained)
    assert read_answer(answer_record(trained), Trained) == trained


@pytest.mark.parametrize("key", ["patients", "images", "steps", "train_loss", "train_seconds", "seconds"])
@pytest.mark.parametrize("value", [MAX_COUNT + 1, 2**63, 10**400, 1.7e308, -1.7e308, math.nan, math.inf, True, "1"])
def test_numbers_of_an_update_are_bounded(key: str, value: object) -> None:
    with pytest.raises(RecordError, match=f"does not fit a Trained.*{key}"):
        read_answer(reply(TRAINED, **{key: value}), Trained)


@pytest.mark.parametrize(
    "changes",
    [
        {"total": 10**10},
        {"patients": {"train": 10**10, "validation": None, "test": None}},
        {"fedward": "1" * 65},
        {"fedward": "1.0\n\x1b[2J"},
        {"fedward": ""},
        {"seconds": 1e300},
        {"site": "north\n"},
        {"\x1b[2J" + "k" * 100_000: 1},
        {str(i): 1 for i in range(100_000)},
    ],
)
def test_what_a_site_says_before_the_run_is_bounded(changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="does not fit a Prepared") as caught:
        read_answer(reply(PREPARED, **changes), Prepared)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= MAX_REASON + 100


def test_scores_of_too_many_labels_are_refused() -> None:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6}
    figure = {
        "patients": 20, "positives": 10, "negatives": 10, "roc_auc": estimate, "sensitivity": None,
        "specificity": None, "precision": None, "brier": 0.2, "threshold": None,
    }  # fmt: skip
    evaluation = {"patients": 20, "loss": 0.5, "sketches": {}, "withheld": None}
    evaluated = {"site": "north", "cohort": COHORT, "seconds": 0.1}
    figures = {str(i): figure for i in range(1001)}
    assert Evaluation.model_validate({**evaluation, "figures": figures})
    with pytest.raises(RecordError, match="more than 1000 labels"):
        read_answer(reply(evaluated, evaluation={**evaluation, "figures": figures}), Evaluated)


@pytest.mark.parametrize("text", ["", "[" * 1_000_000, "\ud800", '"\\ud800"', "x" * (4 * 2**20 + 1), b"{}", 1])
def test_a_text_that_is_no_answer_is_refused(text: Any) -> None:
    with pytest.raises(RecordError, match="the answer"):
        read_answer(RecordDict({"fedward": ConfigRecord({"answer": text})}), Trained)


@given(st.text(), st.integers(1, 50))
def test_foreign_text_becomes_one_short_line(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert shown == text or not text.isprintable() or len(text) > limit


# Questions -----------------------------------------------------------------------------------------------------------

FEDPROX = {"name": "fedprox", "options": {"proximal_mu": 0.1}}


def asked(
    config: dict[str, Any], *, kind: str = "train", strategy: dict[str, Any] | None = None
) -> tuple[Question, dict[str, float]]:
    study = tiny_study(training={"rounds": 3}, strategy=strategy or {})
    question = Question.model_validate({"kind": kind, "study": study, "run": "run-1"})
    return read_question(question_record(question, None, ConfigRecord(config)))


def test_a_round_of_the_study_is_read() -> None:
    assert asked({"server-round": 3})[1] == {"server-round": 3}
    assert asked({"server-round": 1, "proximal-mu": 0.1}, strategy=FEDPROX)[1]["proximal-mu"] == 0.1
    assert asked({}, kind="prepare")[0].kind == "prepare"


@pytest.mark.parametrize("number", [None, 0, 4, -1, 2**63, 1.0, math.nan, True, "1", [1]])
def test_a_round_that_is_not_the_studys_is_refused(number: object) -> None:
    with pytest.raises(RecordError, match="none of the study's 1 to 3"):
        asked({} if number is None else {"server-round": number})


@pytest.mark.parametrize("mu", [None, 0.0, 0.2, -0.1, math.nan, math.inf, 1e300, "0.1"])
def test_another_proximal_mu_than_the_studys_is_refused(mu: object) -> None:
    with pytest.raises(RecordError, match="another proximal_mu than the study says"):
        asked({"server-round": 1, **({} if mu is None else {"proximal-mu": mu})}, strategy=FEDPROX)


def test_a_proximal_mu_in_a_study_without_one_is_refused() -> None:
    with pytest.raises(RecordError, match="another proximal_mu than the study says"):
        asked({"server-round": 1, "proximal-mu": 0.1})


@pytest.mark.parametrize(("length", "fits"), [(256, True), (257, False)])
def test_a_label_that_a_study_may_have_fits_a_question(length: int, fits: bool) -> None:
    label = "é" * length
    cohort = {"labels": ["benign", label], "positive": label}
    if not fits:
        with pytest.raises(ValueError, match="at most 256 characters"):
            tiny_study(cohort=cohort)
        return
    points = {label: 0.5}
    question = Question(kind="evaluate", study=tiny_study(cohort=cohort), run="run-1", thresholds=points)
    assert Question.model_validate_json(question.model_dump_json()).thresholds == points


def test_a_question_names_the_weights_that_its_study_begins_with() -> None:
    asked = json.loads(Question(kind="prepare", study=tiny_study(), run="run-1").model_dump_json())

    def question(**start: str) -> RecordDict:
        study = tiny_study(model={"start": start}).model_dump(mode="json")
        return RecordDict({"config": ConfigRecord({"fedward": json.dumps({**asked, "study": study})})})

    with pytest.raises(RecordError, match="the study's digest does not cover its first weights"):
        read_question(question(model="old"))
    assert read_question(question(model="old", sha256="a" * 64))[0].study.model.start is not None


def test_looking_at_a_message_does_not_keep_it() -> None:
    content = RecordDict({"config": ConfigRecord({"a": 1}), "arrays": to_array_record({"w": np.ones(3, np.float32)})})
    arrays = weakref.ref(content["arrays"])
    gc.disable()
    try:
        assert list(arrays_in(content)) == ["w"]
        assert dict(texts_in(content)["config"]) == {"a": 1}
        assert not is_small(content)
        packed(content), json_bytes(content)
        del content
        assert arrays() is None
    finally:
        gc.enable()
