"""An archive over DICOMweb (PS3.18): QIDO-RS finds, WADO-RS brings, STOW-RS sends.

httpx and a parser of multipart bodies, not dicomweb-client: that holds a whole object in memory, writes it anew with
other bytes than the archive's, and logs addresses with identifiers in them. Redirections are not followed, and no proxy
is used.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from fedward_client.receiver import faults
from fedward_client.receiver.inbox import UNREADABLE, Inbox, Refused
from fedward_client.receiver.multipart import FirstPart, boundary_of
from fedward_client.receiver.query import Instance, Question, Series, Study, day_of
from fedward_client.receiver.settings import PacsSettings
from fedward_client.receiver.tls import client_context
from fedward_common.errors import PacsError, SettingsError

PAGE = 500  # matches in one answer
MAX_ANSWER_BYTES = 64 * 2**20  # of a query
_CHUNK = 2**18
_GONE = (httpx.codes.NOT_FOUND, httpx.codes.GONE)  # of what was there when it was asked for

_PATIENT, _DAY, _STUDY, _TITLE = "00100020", "00080020", "0020000D", "00081030"
_SERIES, _MODALITY, _SERIES_TITLE, _COUNT = "0020000E", "00080060", "0008103E", "00201209"
_INSTANCE, _CLASS = "00080018", "00080016"

_Match = dict[str, Any]


class WebPeer:
    """The archive at `url` of the settings; a `query.Peer`, for a `with`."""

    def __init__(self, settings: PacsSettings) -> None:
        self._client = httpx.Client(
            base_url=f"{settings.url}/",
            headers=_login(settings.token_file),
            verify=client_context(settings),
            timeout=settings.timeout_s,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def studies(self, question: Question) -> list[Study]:
        """QIDO-RS for studies."""
        keys = {"PatientID": question.patient, "StudyDate": question.days, "ModalitiesInStudy": question.modality}
        return [
            Study(
                uid=uid,
                patient=_text(found, _PATIENT),
                day=day_of(_text(found, _DAY)),
                description=_text(found, _TITLE),
            )
            for found in self._find("studies", keys, _TITLE)
            if (uid := _text(found, _STUDY))
        ]

    def series(self, study: Study) -> list[Series]:
        """QIDO-RS for the series of a study."""
        return [
            Series(
                study=study.uid,
                uid=uid,
                modality=_text(found, _MODALITY),
                description=_text(found, _SERIES_TITLE),
                instances=int(count) if (count := _text(found, _COUNT)).isdecimal() else None,
            )
            for found in self._find(f"studies/{_quoted(study.uid)}/series", {}, _COUNT, _SERIES_TITLE)
            if (uid := _text(found, _SERIES))
        ]

    def instances(self, series: Series) -> list[Instance]:
        """QIDO-RS for the objects of a series."""
        return [
            Instance(uid=uid, sop_class=_text(found, _CLASS))
            for found in self._find(f"{_path(series)}/instances", {})
            if (uid := _text(found, _INSTANCE))
        ]

    def fetch(self, series: Series, instances: Sequence[Instance], *, whole: bool, inbox: Inbox) -> None:  # noqa: ARG002
        """WADO-RS, object by object, so that what came before a break need not come again."""
        for instance in instances:
            path = inbox.name_file()
            try:
                if self._download(f"{_path(series)}/instances/{_quoted(instance.uid)}", path, inbox):
                    inbox.take(path, instance.uid)
            except Refused:
                continue  # the inbox counts them
            finally:
                path.unlink(missing_ok=True)

    def store(self, paths: Iterable[Path]) -> None:
        """STOW-RS (PS3.18 10.5): send DICOM files to the archive, each in a request of its own.

        Raises PacsError where the archive does not take one.
        """
        for path in paths:
            boundary = secrets.token_hex(16)
            kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
            with _told():
                answer = self._client.post(
                    "studies",
                    content=_multipart(path, boundary),
                    headers={"Content-Type": kind, "Accept": "application/dicom+json"},
                )
            _check("STOW-RS", answer)
            if answer.status_code == httpx.codes.ACCEPTED:  # taken with faults, or not at all (Table 10.5.3-1)
                raise PacsError("the archive did not take an object as it is; its own log says why")

    def _find(self, path: str, keys: dict[str, str | None], *fields: str) -> Iterator[_Match]:
        """Every match, page by page (PS3.18 8.3.4.4)."""
        start, before = 0, None
        asked = [(key, value) for key, value in keys.items() if value]
        while True:
            pages = [*asked, *(("includefield", name) for name in fields), ("limit", str(PAGE)), ("offset", str(start))]
            found = self._matches(path, pages)
            if found == before:
                return  # an archive that knows no pages
            yield from found
            start, before = start + len(found), found
            if len(found) < PAGE:
                return

    def _matches(self, path: str, keys: Sequence[tuple[str, str]]) -> list[_Match]:
        body = bytearray()
        with (
            _told(),
            self._client.stream(
                "GET", path, params=httpx.QueryParams(tuple(keys)), headers={"Accept": "application/dicom+json"}
            ) as answer,
        ):
            if answer.status_code == httpx.codes.NO_CONTENT or (answer.status_code in _GONE and path != "studies"):
                return []
            _check("QIDO-RS", answer)
            for chunk in answer.iter_bytes(_CHUNK):
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise PacsError(
                        "the archive's answer to QIDO-RS is too long; ask for less, for example with --from"
                    )
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise PacsError(
                "the archive's answer to QIDO-RS is no DICOM JSON: is url the root of its DICOMweb service?"
            )
        return found

    def _download(self, path: str, target: Path, inbox: Inbox) -> bool:
        """Write an object to a file as it comes; False where it is gone, or refused here. Raises PacsError."""
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with _told(), self._client.stream("GET", path, headers={"Accept": accept}) as answer, target.open("wb") as file:
            if answer.status_code in _GONE:
                return False
            _check("WADO-RS", answer)
            boundary = boundary_of(answer.headers.get("Content-Type", ""))
            part = FirstPart(boundary, file.write) if boundary is not None else None
            try:
                for chunk in answer.iter_bytes(_CHUNK):
                    if (objection := inbox.objection(file.tell() + len(chunk))) is not None:
                        inbox.refuse(objection)
                        return False
                    if part is None:
                        file.write(chunk)
                    else:
                        part.feed(chunk)
            except ValueError:
                inbox.refuse(UNREADABLE)
                return False
            if part is not None and not part.ended:
                raise faults.PeerAway("the archive broke off during WADO-RS")
        return True


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise faults.unreachable(error) from None


def _check(what: str, answer: httpx.Response) -> None:
    if not answer.is_success:
        raise faults.answered(what, answer.status_code)


def _login(token_file: Path | None) -> dict[str, str]:
    """The Authorization header: the file's line as it stands, or as a bearer token where it is one word."""
    if token_file is None:
        return {}
    try:
        line = token_file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        line = ""
    if not line or not line.isprintable():
        raise SettingsError(
            "site.toml: [pacs] token_file must hold one line of ASCII that can be read: a token, or a whole "
            "Authorization, 'Basic …' for example"
        )
    return {"Authorization": line if " " in line else f"Bearer {line}"}


def _path(series: Series) -> str:
    return f"studies/{_quoted(series.study)}/series/{_quoted(series.uid)}"


def _quoted(uid: str) -> str:
    return quote(uid, safe="")


def _text(match: _Match, tag: str) -> str:
    """The first value of an attribute in DICOM JSON (PS3.18 F.2), "" where there is none."""
    element = match.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    first = values[0] if isinstance(values, list) and values else ""
    return str(first).strip("\0 ") if isinstance(first, str | int) else ""


def _multipart(path: Path, boundary: str) -> Iterator[bytes]:
    yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
    yield f"\r\n--{boundary}--\r\n".encode()
