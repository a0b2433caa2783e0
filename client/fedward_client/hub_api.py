"""The hub's API for sites, as a site calls it: over one connection that is kept, in bounded answers.

Everything that goes wrong is a `LinkError` in words, the hub's own where it sent some, a `RefusedError` where that is
no fault of the hub's.
"""

import json
import ssl
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import BaseModel

from fedward_client.reach import explain
from fedward_client.traffic import Traffic
from fedward_common.cards import HubCard
from fedward_common.errors import LinkError, RefusedError
from fedward_common.study_faults import printable

LIMIT_S = 30.0
MAX_ANSWER_BYTES = 16 * 2**20
MAX_TEXT = 200  # characters of what a hub says
NOT_AGREED = "the hub answers something that is not agreed: install the same Fedward"


@dataclass(frozen=True, slots=True)
class Got:
    """What a hub answered, and the tag by which to ask whether it is still so."""

    content: bytes
    tag: str


@dataclass(slots=True)
class HubApi:
    """One hub's. `trust` is the TLS of new connections, which may show a certificate. Use as a context manager."""

    card: HubCard
    trust: ssl.SSLContext
    traffic: Traffic = field(default_factory=Traffic)
    _client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self._client = httpx.Client(verify=self.trust, timeout=LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, tag: str = "") -> Got | None:
        """What is there; None where that is still what had the `tag`."""
        answer, content = self._send("GET", path, headers={"if-none-match": tag} if tag else {})
        if answer.status_code == httpx.codes.NOT_MODIFIED:
            return None
        return Got(content, answer.headers.get("etag", ""))

    def post(self, path: str, said: BaseModel) -> bytes:
        """The hub's answer to what is said."""
        headers = {"content-type": "application/json"}
        return self._send("POST", path, headers=headers, content=said.model_dump_json())[1]

    def _send(self, method: str, path: str, **more: Any) -> tuple[httpx.Response, bytes]:
        try:
            with self._client.stream(method, f"https://{self.card.address}{path}", **more) as answer:
                content = _read(answer)
            if not answer.is_success and answer.status_code != httpx.codes.NOT_MODIFIED:
                if (words := _error(content)) is not None:
                    raise RefusedError(words) if answer.is_client_error else LinkError(words)
                answer.raise_for_status()
            self.traffic.passed(sent=len(more.get("content", "")), received=len(content))
        except (httpx.HTTPError, OSError) as error:
            raise LinkError(explain(error, self.card.address, self.card.ca)) from error
        return answer, content


def _read(answer: httpx.Response) -> bytes:
    content = bytearray()
    for part in answer.iter_bytes():
        content += part
        if len(content) > MAX_ANSWER_BYTES:
            raise LinkError(NOT_AGREED)
    return bytes(content)


def _error(content: bytes) -> str | None:
    """The hub's own sentence, None where there is none."""
    try:
        said: Any = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return None
    return printable(said)[:MAX_TEXT] if isinstance(said, str) else None
