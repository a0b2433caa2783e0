"""Questions that the network side has taken from the hub and not answered yet: on disk, so that a crash loses none.

The hub gives each message only once. So an envelope is written down before anything else is done with it, then its
content, then the reply, and it is removed when the hub has the reply.
"""

import os
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedward_client.member import PENDING
from fedward_client.spool import Parcel
from fedward_common.bulk import Manifest
from fedward_common.errors import LinkError


class Pending(BaseModel):
    """One message and how far it is. `kind` is Flower's message type; times stand in the envelope."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message: str  # base64 of Flower's protobuf
    tree: str
    message_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # it names the file
    run: int
    kind: str
    config: str | None = None  # JSON, once the content is here
    manifest: Manifest | None = None  # of arrays that travel beside the message
    parcel: Parcel | None = None
    packed: bool = False  # how the arrays came, and are to go back
    whole: bool = False  # whether the reply may go in one request
    answer: str | None = None  # JSON, once the data side has answered
    answer_parcel: Parcel | None = None
    refusal: str | None = None
    sent: int = 0  # chunks of the answer that are at the hub, as far as they are noted

    @classmethod
    def of(cls, message: bytes, tree: bytes, *, message_id: str, run: int, kind: str) -> Self:
        """A message that was just pulled. Raises LinkError for one whose id is none of Flower's."""
        packed = {"message": b64encode(message).decode(), "tree": b64encode(tree).decode()}
        try:
            return cls(**packed, message_id=message_id, run=run, kind=kind)
        except ValidationError:
            raise LinkError("the hub sent a message whose id is none: tell its operator") from None

    @property
    def raw(self) -> tuple[bytes, bytes]:
        """The message and its tree as Flower sent them."""
        return b64decode(self.message), b64decode(self.tree)

    @property
    def is_answered(self) -> bool:
        """Whether a reply waits to be sent."""
        return self.answer is not None or self.refusal is not None


class PendingFolder:
    """The messages of a link folder, the oldest first."""

    def __init__(self, link: Path) -> None:
        self._folder = link / PENDING
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def put(self, pending: Pending) -> None:
        """Write a message down; it is whole on the disk when this returns."""
        path = self._path(pending)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(pending.model_dump_json())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def remove(self, pending: Pending) -> None:
        """Forget a message: the hub has its reply, or does not want it any more."""
        self._path(pending).unlink(missing_ok=True)

    def all(self) -> list[Pending]:
        """Every message that waits; one that cannot be read is passed over."""
        found = []
        for path in sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            try:
                found.append(Pending.model_validate_json(path.read_bytes()))
            except ValidationError:
                path.unlink()
        return found

    def _path(self, pending: Pending) -> Path:
        return self._folder / f"{pending.message_id}.json"
