"""Blanks what has the shape of a patient's identifier in a text, and tells an error without what it was about.

What Fedward says of itself holds no identifier (`errors`). This is for logs, where something may slip in, and where
libraries speak too. It goes by shape alone: an id of a patient that is a word or a short number it cannot know.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from traceback import walk_tb

from fedward_common.errors import FedwardError

SHOWN_FRAMES = 30  # of an error, the innermost

Blank = Callable[[str], str]

# A digest, or a run's id from its moment on: both may look like a date and are none.
_KEPT = r"(?<![0-9A-Za-z])(?:(?=\d*[a-f])[0-9a-f]{12,}|20[2-9]\d{5}T\d{6}Z?-[0-9a-f]{4,6})(?![0-9A-Za-z])"
_MAIL = r"(?<![\w.+%-])[\w.+%-]+@[\w-]+(?:\.[\w-]+)+"
# PS3.5 6.2: family^given^…, the same in another script behind =; capitalised words beside it are taken for more of it.
_CAPITALISED = r"[A-ZÀ-ÖØ-Þ][\w'’.-]*"
_NAME = (
    rf"(?<![\w'’.-])(?:{_CAPITALISED}[ ]){{0,3}}(?=[\d_'’.-]*[^\W\d_])[\w'’.-]+\^[\w'’.^=*-]*"
    r"(?:[ ][A-ZÀ-ÖØ-Þ][\w'’.^=*-]*)*"
)
_UID = r"(?<![\d.])(?:2\.25\.\d{9,}|[0-2](?:\.\d+){3,})"  # PS3.5 9.1 and B.2
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_MONTH = r"(?:0?[1-9]|1[0-2])"
_DIGITS = r"(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_PAST = r"(?:18\d\d|19\d\d|20[01]\d)"  # years before Fedward: certificates and runs have later ones
_DATE = (
    r"(?<!\d)(?<!\d\.)"
    rf"(?:{_DIGITS}(?:\d{{6}})?"  # as DICOM writes a date, or a moment
    rf"|[1-9]\d{{5}}{_DIGITS}\d{{3}}[\dXx]"  # the number of a citizen of China, which holds one
    rf"|{_PAST}[-./]{_MONTH}[-./]{_DAY}|{_DAY}[-./]{_DAY}[-./]{_PAST})"
    r"(?!\d)"
)
_SHAPES = re.compile(f"(?P<kept>{_KEPT})|(?P<mail>{_MAIL})|(?P<name>{_NAME})|(?P<date>{_DATE})|(?P<uid>{_UID})")


def blank(folders: Iterable[Path] = ()) -> Blank:
    """What blanks a text: UIDs, dates of birth, names with carets, e-mail addresses, and paths below `folders`.

    Of a path all goes that follows, up to the end of its quotation or of the text: names of files hold anything.
    """
    places = "|".join(re.escape(str(folder)) for folder in sorted(folders, key=lambda folder: -len(str(folder))))
    path = re.compile(rf"(?P<quote>['\"])(?:{places})/.*(?P=quote)|(?:{places})(?:/.*|(?![\w-]))", re.DOTALL)

    def blanked(text: str) -> str:
        told = _reduced(text)
        return _SHAPES.sub(_blanked, path.sub("[path]", told) if places else told)

    return blanked


def _blanked(found: re.Match[str]) -> str:
    if found.lastgroup == "kept" or (found.lastgroup == "uid" and _is_address(found[0])):
        return found[0]
    return f"[{found.lastgroup}]"


def _is_address(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def _reduced(text: str) -> str:
    """A text whose tracebacks are as `traced` tells them, for libraries that put them into what they say."""
    said, *traces = text.split(_TRACEBACK)
    lines = [said.rstrip()] if traces else [text]
    for trace in traces:
        lines += [f"  at {Path(file).name}:{line} in {name}" for file, line, name in _FRAME.findall(trace)]
        if (found := _RAISED.search(trace)) is not None:
            lines.append(found[0] if found["kind"].startswith("fedward_") else found["kind"])
    return "\n".join(lines)


_TRACEBACK = "Traceback (most recent call last):"
_FRAME = re.compile(r'^  File "([^"\n]*)", line (\d+), in (.+)$', re.MULTILINE)
_RAISED = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*)(?::.*)?$", re.MULTILINE)  # the first: more lines are of its words


# Errors --------------------------------------------------------------------------------------------------------------


def named(error: BaseException) -> str:
    """What kind of error it is, with Fedward's own words or the system's. Those of others may hold values."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, FedwardError):
        return f"{kind.__qualname__}: {error}"
    if isinstance(error, OSError) and kind.__module__ == "builtins" and isinstance(error.errno, int):
        return f"{name}: {os.strerror(error.errno)}"
    return name


def traced(error: BaseException) -> list[str]:
    """Lines on where in the code an error was raised, then on what it came from."""
    return list(_traced(error, "", set()))


def _traced(error: BaseException, how: str, seen: set[int]) -> Iterator[str]:
    if id(error) in seen:
        return
    seen.add(id(error))
    yield f"{how}{named(error)}"
    for frame, line in list(walk_tb(error.__traceback__))[-SHOWN_FRAMES:]:
        yield f"  at {frame.f_globals.get('__name__', '?')}:{line} in {frame.f_code.co_qualname}"
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _traced(each, "one of it: ", seen)
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _traced(before, "after ", seen)
