"""How the arrays of a large message travel beside it: as chunks that the gateway serves and takes, named by content.

A block (`array_blocks`) is cut into chunks of `CHUNK_BYTES`, the last one shorter. The message holds the manifest
alone. Each chunk is one GET or PUT under its own SHA-256, so a transfer goes on where it was cut, and whoever reads a
chunk knows whether it is the one that was meant. A whole block is known by the SHA-256 of its chunks' digests: whoever
has hashed the chunks need not hash the block.
"""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedward_common.array_blocks import MAX_BYTES
from fedward_common.study_section import Fingerprint as Digest

CHUNK_BYTES = 5 * 2**20
MAX_CHUNKS = 2**17
PATH = "/v1/bulk"
_AT_ONCE = 4  # chunks that are hashed, as far as there are processors for them


class Manifest(BaseModel):
    """What a block is cut into. `trip` is the number of the question: where in the hub the answer's chunks go."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run: Annotated[str, Field(pattern=r"^[a-z0-9][a-zA-Z0-9-]{0,127}$")]
    trip: Annotated[int, Field(ge=0, lt=2**63)]
    size: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    chunks: Annotated[list[Digest], Field(max_length=MAX_CHUNKS)]

    @model_validator(mode="after")
    def _has_its_chunks(self) -> Self:
        if len(self.chunks) != -(-self.size // CHUNK_BYTES):
            raise ValueError("so many chunks do not make so many bytes")
        return self

    @classmethod
    def of(cls, block: memoryview, *, run: str, trip: int) -> Self:
        """The manifest of a block."""
        return cls(run=run, trip=trip, size=len(block), chunks=digests(block))

    @property
    def digest(self) -> str:
        """The block's."""
        return joint(self.chunks)

    def length(self, number: int) -> int:
        """How many bytes a chunk has."""
        return min(CHUNK_BYTES, self.size - number * CHUNK_BYTES)


def parts(block: memoryview) -> Iterator[memoryview]:
    """The chunks of a block."""
    for start in range(0, len(block), CHUNK_BYTES):
        yield block[start : start + CHUNK_BYTES]


def digests(block: memoryview) -> list[str]:
    """The SHA-256 of each chunk of a block, hex."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda part: hashlib.sha256(part).hexdigest(), parts(block)))


def joint(chunks: Iterable[str]) -> str:
    """The digest of a block whose chunks have these."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, chunks))).hexdigest()
