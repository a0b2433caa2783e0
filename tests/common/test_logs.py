"""Logs: no identifier that was planted survives, what Fedward says of itself stays as it is, programs can read it."""

import ast
import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from fedward_common.blanking import blank, named, traced
from fedward_common.errors import FedwardError, RunError, SettingsError
from fedward_common.logs import Formatter, fedward_to, to_file

DATA = Path("/srv/hospital")
ROOT = Path(__file__).parents[2]

# What identifies -----------------------------------------------------------------------------------------------------

PARTS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜabcdefghijklmnopqrstuvwxyzßéł王小东'-", min_size=2, max_size=12).filter(
    lambda part: part[0].isalpha() and part[-1].isalpha()
)
DAYS = st.dates(date(1900, 1, 1), date(2029, 12, 31))
UIDS = st.one_of(
    st.integers(0, 2**128 - 1).map(lambda number: f"2.25.{number}").filter(lambda uid: len(uid) > 14),
    st.lists(st.integers(0, 10**9), min_size=4, max_size=8).map(lambda parts: "1.2.840." + ".".join(map(str, parts))),
    st.builds(lambda: str(generate_uid())),
)
NAMES = st.lists(PARTS, min_size=2, max_size=4).map("^".join)
MAILS = st.builds(
    "{}@{}.example".format,
    st.from_regex(r"[a-z][a-z0-9.]{0,9}", fullmatch=True),
    st.from_regex(r"[a-z]{2,9}", fullmatch=True),
)
DATES = DAYS.map(lambda day: f"{day:%Y%m%d}")
BIRTHS = st.dates(date(1900, 1, 1), date(2019, 12, 31))
WRITTEN = st.one_of(
    BIRTHS.map(lambda day: day.isoformat()),
    BIRTHS.map(lambda day: f"{day.day}.{day.month}.{day.year}"),
    BIRTHS.map(lambda day: f"{day.month:02}/{day.day:02}/{day.year}"),
    st.builds(lambda day, rest: f"110105{day:%Y%m%d}{rest:03}X", DAYS, st.integers(0, 999)),
)
PATHS = st.lists(
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1), min_size=1, max_size=3
).map(lambda parts: f"{DATA}/{'/'.join(parts)}")
SHAPES = {"uid": UIDS, "name": NAMES, "mail": MAILS, "date": DATES, "written date": WRITTEN}
AROUND = st.sampled_from([" ", "'", '"', "(", "[", "=", ":", ",", "/", "\\", "\t"])
WORDS = st.text("abcdefghijklmnopqrstuvwxyz ", max_size=20)


@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data(), before=WORDS, left=AROUND, right=AROUND, after=WORDS)
def test_what_is_planted_does_not_survive(
    shape: str, data: st.DataObject, before: str, left: str, right: str, after: str
) -> None:
    planted = data.draw(SHAPES[shape])
    found = blank()(f"{before} {left}{planted}{right}{after}")
    assert found.startswith(f"{before} ")
    pieces = [piece for piece in planted.split("^") if len(piece) > 3 and piece not in before + after]
    assert not [piece for piece in (planted, *pieces) if piece in found]


@given(before=WORDS, path=PATHS, quote=st.sampled_from(["", "'", '"']), how=st.sampled_from([str, repr]), after=WORDS)
def test_no_path_of_the_hospital_survives(
    before: str, path: str, quote: str, how: Callable[[str], str], after: str
) -> None:
    found = blank([DATA, DATA / ".fedward"])(f"{before} {quote}{how(path)}{quote}{after}")
    assert found.startswith(f"{before} ")
    rest = path.removeprefix(f"{DATA}/")
    assert str(DATA) not in found
    assert len(rest) < 4 or rest in before + after or rest not in found


def test_the_folder_itself_goes_and_its_neighbours_stay() -> None:
    blanked = blank([DATA])
    assert blanked("/srv/hospital is full; free space") == "[path] is full; free space"
    assert blanked("/srv/hospital2/x and /srv/hospital-old") == "/srv/hospital2/x and /srv/hospital-old"
    assert blanked("'/srv/hospital/DOE JANE/1.dcm' is torn") == "[path] is torn"


# What stays ----------------------------------------------------------------------------------------------------------


def said_in_code() -> Iterator[str]:
    """Every text of the code that is a sentence: what is logged, and what errors say."""
    for package in ("common", "client", "server"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "blanking.py":
                for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                    if isinstance(node, ast.Call):
                        yield from _texts(node)


def _texts(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    if name.endswith("Error") or name.startswith(("log.", "_log.")):
        for node in (each for argument in call.args for each in ast.walk(argument)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_what_the_code_says_stays_as_it_is() -> None:
    texts = list(said_in_code())
    assert len(texts) > 500
    assert [text for text in texts if blank([DATA])(text) != text] == []


@pytest.mark.parametrize(
    "text",
    [
        "the SuperLink is up at 127.0.0.1:9092 (process 20391)",
        "run breast-ultrasound-20261130T134700-3fa0b1 is interrupted: the run's process died",
        "study breast-ultrasound (digest 19450512aa3f…) belongs to another study",
        "model_sha256 19450512194505121945051219450512194505121945051219450512194505ab",
        "the certificate ends on 2027-01-31; it was asked for at 2026-11-30T13:47:00.123+00:00",
        "flwr 1.41.0 with protobuf 6.33.6 and httpx 0.27.2.1",
        "north, round 3 of 20: loss 0.19450512, 1,234,567 bytes, 2^20 at most",
        "a message of Flower run 13846127634958316021 is dropped",
        "hub.example:8443 refuses the connection: look at https://hub.example:8443/v1/join",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert blank([DATA])(text) == text


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789 .,:;'-_", max_size=80))
def test_without_a_shape_nothing_changes(text: str) -> None:
    assume(not any(len(word.strip(".,:;'-_")) > 7 and any(map(str.isdigit, word)) for word in text.split()))
    assume(not any(word.count(".") > 2 for word in text.split()))
    assert blank()(text) == text


# Errors --------------------------------------------------------------------------------------------------------------


def fail(name: str) -> None:
    try:
        Path("/srv/hospital", name).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"cannot read {name}") from error


def caught(name: str) -> ValueError:
    with pytest.raises(ValueError, match="cannot") as found:
        fail(name)
    return found.value


def test_an_error_is_its_kind_and_its_places() -> None:
    lines = traced(caught("DOE^JANE"))
    assert lines[0] == "ValueError"
    assert lines[-1].startswith("  at pathlib:")
    assert "after FileNotFoundError: No such file or directory" in lines
    assert [line for line in lines if line.endswith(" in fail")]
    assert "JANE" not in "\n".join(lines)


def test_whose_words_are_told() -> None:
    assert named(SettingsError("site.toml: give a folder")) == "SettingsError: site.toml: give a folder"
    assert named(KeyError("JANE")) == "KeyError"
    assert named(OSError("JANE")) == "OSError"
    assert named(OSError(28, "JANE", "JANE")) == "OSError: No space left on device"
    assert named(json.JSONDecodeError("JANE", "JANE", 0)) == "json.decoder.JSONDecodeError"


def test_a_traceback_in_a_text_is_reduced_too() -> None:
    def refuse(error: Exception) -> None:
        raise SettingsError("[metrics] listen is taken: set another") from error

    with pytest.raises(SettingsError) as found:
        refuse(caught("DOE JANE\nJANE: x"))
    text = blank()("Exception in 'lifespan'\n" + "".join(traceback.format_exception(found.value)))
    lines = text.splitlines()
    assert lines[0] == "Exception in 'lifespan'"
    assert lines[-1] == "fedward_common.errors.SettingsError: [metrics] listen is taken: set another"
    assert {"FileNotFoundError", "ValueError"} <= set(lines)
    assert [line for line in lines if line.startswith("  at test_logs.py:") and line.endswith(" in fail")]
    assert "JANE" not in text


def test_every_error_of_a_group_is_told_once() -> None:
    one = ValueError("JANE")
    group = ExceptionGroup("JANE", [one, RunError("start it again")])
    one.__context__ = group  # a circle
    assert traced(group) == ["ExceptionGroup", "one of it: ValueError", "one of it: RunError: start it again"]


# Lines ---------------------------------------------------------------------------------------------------------------


def line(form: Formatter, message: object, *args: object, error: BaseException | None = None) -> str:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("fedward_client.desk", logging.ERROR, __file__, 1, message, args, info)
    return form.format(record)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_holds_no_identifier(form: str) -> None:
    formatter = Formatter("json" if form == "json" else "text", [DATA])
    error = caught("DOE^JANE")
    told = line(formatter, "%s failed for %s: %s", "cache", "/srv/hospital/JANE.dcm", error, error=error)
    assert "JANE" not in told
    assert "ERROR" in told
    assert "fedward_client.desk" in told


def test_an_error_among_the_arguments_is_named() -> None:
    form = Formatter()
    assert line(form, "torn: %s", OSError(5, "x", "JANE")).endswith(": torn: OSError: Input/output error")
    assert line(form, "%s", SettingsError("give a folder")).endswith(": give a folder")
    assert line(form, KeyError("JANE")).endswith(": KeyError")
    assert line(form, "%(why)s", {"why": KeyError("JANE")}).endswith(": KeyError")


def test_arguments_that_do_not_fit_are_not_told() -> None:
    assert line(Formatter(), "%d patients", "JANE").endswith(": %d patients")


@given(st.text())
def test_programs_read_json(text: str) -> None:
    told = line(Formatter("json"), text.replace("%", ""), error=RunError("no"))
    assert "\n" not in told
    found = json.loads(told)
    assert found.keys() == {"time", "level", "logger", "process", "message", "error"}
    assert found["error"] == "RunError: no"


def test_a_file_takes_what_is_no_text(tmp_path: Path) -> None:
    handler = to_file(tmp_path / "log", "json")
    with fedward_to(handler):
        logging.getLogger("fedward_server.x").warning("a name in no encoding: \udcff")
        logging.getLogger("fedward_server.x").debug("not told")
        logging.getLogger("flwr").info("not told")
    [found] = (tmp_path / "log").read_text("utf-8").splitlines()
    assert json.loads(found)["message"] == "a name in no encoding: \udcff"


PROCESS = """
import logging, sys, threading, warnings
from fedward_common.logs import process_to, to_terminal
process_to(to_terminal(sys.argv[1]))
warnings.warn("JANE")
thread = threading.Thread(target=lambda: {}["JANE"])
thread.start()
thread.join()
logging.getLogger("x").warning("%d", "JANE")
raise ValueError("JANE")
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_python_prints_holds_nothing_either(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROCESS, form], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "JANE" not in done.stderr
    for told in ("UserWarning in <string>, line 5", "a thread ends", "KeyError", "this process ends", "ValueError"):
        assert told in done.stderr
    assert form == "text" or [json.loads(each) for each in done.stderr.splitlines()]


def test_a_class_of_fedwards_own_is_told_whole() -> None:
    class OddError(FedwardError):
        pass

    assert named(OddError("do this")).endswith("OddError: do this")
