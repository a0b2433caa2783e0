"""How a message travels through a SuperLink: its arrays as one block, for each record is a request or two there."""

from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, RecordDict
from pydantic import ValidationError

from fedward_common.array_blocks import block_under, pieces, view
from fedward_common.bulk import Manifest
from fedward_common.errors import RecordError
from fedward_common.records import arrays_in, texts_in

MAX_INLINE_BYTES = 5 * 2**20  # of arrays beside the text: Flower cuts arrays into pieces of this size
_BLOCK = "fedward.block"  # the block's key in the text, or the name and type of the one array, where arrays are packed
_BESIDE = "fedward.bulk"  # the manifest of arrays that travel beside the message: see `bulk`
_WHOLE = "fedward.whole"  # in the text of a hub that takes a small reply in one request


def packed(content: RecordDict, block: bytes | memoryview | None = None) -> RecordDict:
    """A message's content with its arrays as one block.

    A small block lies beside the text, in one record; a larger one is a record that Flower cuts into pieces. `block` is
    that of the arrays where it is there already. Content without arrays stays as it is.
    """
    if block is None:
        if "arrays" not in content:
            return content
        record = arrays_in(content)
        block = block_under(record) or b"".join(pieces(record))
    ((name, text),) = texts_in(content).items()
    if len(block) <= MAX_INLINE_BYTES:
        return RecordDict({name: ConfigRecord({**text, _BLOCK: bytes(block)})})
    array = Array("uint8", (len(block),), _BLOCK, b"")
    array.data = block  # type: ignore[assignment]  # flwr reads any buffer
    record = ArrayRecord()
    record[_BLOCK] = array
    return RecordDict({name: text, "arrays": record})


def block_of(content: RecordDict) -> memoryview | None:
    """The block that travels in a message, None where its arrays travel one by one or there are none."""
    for text in texts_in(content).values():
        if _BLOCK in text:
            block = text[_BLOCK]
            if not isinstance(block, bytes):
                raise RecordError("the arrays' block is no bytes")
            return memoryview(block)
    record = arrays_in(content)
    if list(record) != [_BLOCK] or record[_BLOCK].stype != _BLOCK:
        return None
    return memoryview(record[_BLOCK].data)


def unpacked(content: RecordDict) -> RecordDict:
    """A message's content, packed or not, with its arrays as views. `RecordError` for a block that is none."""
    block = block_of(content)
    if block is None:
        return content
    texts = {name: ConfigRecord(without_block(text)) for name, text in texts_in(content).items()}
    return RecordDict({**texts, "arrays": view(block)})


def without_block(text: ConfigRecord) -> dict[str, ConfigRecordValues]:
    """What stands in a record but the block that may lie beside it or its manifest, and how the reply may come."""
    return {key: value for key, value in text.items() if key not in {_BLOCK, _BESIDE, _WHOLE}}


def beside(content: RecordDict, manifest: Manifest) -> RecordDict:
    """A message's content with its arrays left out, which travel beside it."""
    texts = texts_in(content)
    return RecordDict(
        {name: ConfigRecord({**text, _BESIDE: manifest.model_dump_json()}) for name, text in texts.items()}
    )


def manifest_in(content: RecordDict) -> Manifest | None:
    """The manifest of what travels beside a message, None where nothing does. `RecordError` for one that is none."""
    for text in texts_in(content).values():
        if _BESIDE in text:
            try:
                return Manifest.model_validate_json(str(text[_BESIDE]))
            except ValidationError:
                raise RecordError("what travels beside the message is not described as agreed") from None
    return None


def for_whole_replies(content: RecordDict) -> RecordDict:
    """A question's content that says that a small reply may come in one request; flwr's own grid cannot read such."""
    texts = {name: ConfigRecord({**text, _WHOLE: True}) for name, text in texts_in(content).items()}
    return RecordDict({**content, **texts})


def may_be_whole(content: RecordDict) -> bool:
    """Whether whoever asked takes a small reply in one request."""
    return any(_WHOLE in text for text in texts_in(content).values())


def is_small(content: RecordDict) -> bool:
    """Whether a message's packed content is small enough to travel in one piece."""
    return not any(isinstance(record, ArrayRecord) for record in content.values())
