"""The pieces of a large reply as they come: what arrays hold waits in a file, everything else in memory.

Flower cuts an array into chunks and names them in the array's own piece, which comes after them. Chunks that came one
after the other, as all do that a Fedward site sends, are the array's memory where they lie; others are put together.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO

from flwr.app import Array, ArrayRecord, Message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_head_values_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedward_common.mapped_files import map_file
from fedward_server.shelf import unwritable


@dataclass(slots=True)
class ReplyPieces:
    """Pieces by their object ids; `folder`, on the disk that holds the chunks, is made when the first one comes."""

    folder: Path
    contents: dict[str, bytes] = field(default_factory=dict)  # all but chunks
    size: int = 0  # bytes of all
    _file: IO[bytes] | None = None
    _chunks: dict[str, tuple[int, int]] = field(default_factory=dict)  # where each lies in the file: begin, end

    def __len__(self) -> int:
        return len(self.contents) + len(self._chunks)

    def put(self, name: str, content: bytes) -> None:
        """Take one in. Raises what Flower raises on bytes that are no piece, RunError where it cannot be written."""
        kind, _, size = get_object_head_values_from_object_content(content)
        self.size += len(content)
        if kind != ArrayChunk.__qualname__:
            self.contents[name] = content
            return
        try:
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - see `close`
            begin = self._file.tell()
            self._file.write(memoryview(content)[len(content) - size :])
            self._chunks[name] = (begin, self._file.tell())
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def joined_size(self) -> int:
        """How many bytes the arrays take: one may name the same chunk any number of times."""
        return sum(end - begin for _, places in self._arrays() for begin, end in places)

    def message(self, name: str) -> Message:
        """The message that the pieces make, when all are here. Raises what Flower raises where they make none."""
        memory = memoryview(map_file(self._file)) if self._file is not None and self._file.tell() else memoryview(b"")
        buffers, stand_ins = {}, dict[str, InflatableObject]()
        for array, places in self._arrays():
            buffers[array.encode()] = _joined(memory, places)
            described = json.loads(get_object_body(self.contents[array], Array))
            # flwr makes arrays of bytes only: until they are made, each holds its name
            stand_ins[array] = Array(described["dtype"], tuple(described["shape"]), described["stype"], array.encode())
        message = inflate_object_from_contents(name, self.contents, objects=stand_ins)
        if not isinstance(message, Message):
            raise TypeError("no message")
        records = message.content.values() if message.has_content() else ()
        for one in (one for record in records if isinstance(record, ArrayRecord) for one in record.values()):
            one.data = buffers[one.data]  # type: ignore[assignment]  # flwr reads any buffer
        return message

    def close(self) -> None:
        """Let go of the file; arrays that are over its memory keep that."""
        if self._file is not None:
            self._file.close()

    def _arrays(self) -> Iterator[tuple[str, list[tuple[int, int]]]]:
        """The arrays' object ids, and where in the file their chunks lie, in order."""
        for name, content in self.contents.items():
            kind, children, _ = get_object_head_values_from_object_content(content)
            if kind == Array.__qualname__:
                numbers = json.loads(get_object_body(content, Array))["arraychunk_ids"]
                yield name, [self._chunks[children[number]] for number in numbers]


def _joined(memory: memoryview, places: list[tuple[int, int]]) -> memoryview:
    """The memory of chunks, as it lies in the file if they lie one after the other there."""
    if not places:
        return memoryview(b"")
    if all(end == begin for (_, end), (begin, _) in pairwise(places)):
        return memory[places[0][0] : places[-1][1]]
    return memoryview(b"".join(memory[begin:end] for begin, end in places))
