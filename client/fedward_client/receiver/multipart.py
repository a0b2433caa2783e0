"""The one part of an answer of WADO-RS (multipart/related, RFC 2387, PS3.18 8.6.1.2), written out as it comes."""

from collections.abc import Callable
from email.message import Message

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

MAX_HEADERS = 32


def boundary_of(content_type: str) -> str | None:
    """The boundary that a Content-Type names, None where the body is no multipart."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    return boundary if message.get_content_maintype() == "multipart" else None


class FirstPart:
    """Hands the bytes of a body's first part to `write`; `ended` says whether the part was whole."""

    def __init__(self, boundary: str, write: Callable[[bytes], object]) -> None:
        self.ended = False
        self._write = write
        self._parser = MultipartParser(
            boundary.encode("latin-1", "replace"),
            {"on_part_data": self._data, "on_part_end": self._end},
            max_header_count=MAX_HEADERS,
        )

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the body. Raises ValueError where it is no multipart."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise ValueError("the body is no multipart") from None

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self.ended:
            self._write(data[start:end])

    def _end(self) -> None:
        self.ended = True
