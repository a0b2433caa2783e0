"""What travels between hub and site: questions, answers and arrays, as Flower records. Nothing else does.

A question holds the whole study as data, so a site can check what it is asked against what it approved. An answer is
one JSON object of known keys beside raw typed arrays (`.npy` buffers, never pickle). Everything is checked on reading:
keys, types, sizes, dtypes; what does not fit is a `RecordError` in words.

The layout also suits Flower's stock strategies: "arrays", "config" and "metrics" with "num-examples".
"""

import hashlib
import io
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedward_common.errors import RecordError
from fedward_common.metrics import Evaluation
from fedward_common.study import Slug, StudySpec

Arrays = Mapping[str, npt.NDArray[Any]]

DTYPES = frozenset({"float16", "float32", "float64", "uint8", "int32", "int64"})
MAX_JSON_BYTES = 4 * 2**20
MAX_NAME = 256

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0.0)]
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Question(_Record):
    """What the hub asks a site. The round and what a strategy adds (FedProx's mu) ride in Flower's own config."""

    kind: Literal["prepare", "train", "evaluate"]
    study: StudySpec
    run: RunId
    score_incoming: bool = False  # train: also score the model as it came, on validation patients
    side: Literal["validation", "test"] = "validation"  # evaluate: on whom
    thresholds: dict[str, float] | None = None  # evaluate: a label's operating point


class Prepared(_Record):
    """A site is ready: its cohort is frozen, its tensors are cached. Counts below the site's k stay home (None)."""

    site: Slug
    fedward: str
    cohort: Digest
    patients: dict[Literal["train", "validation", "test"], Count | None]
    labels: dict[str, Count | None]  # training patients a label
    seconds: Seconds


class Trained(_Record):
    """What training gave, beside the arrays."""

    site: Slug
    cohort: Digest
    patients: Annotated[int, Field(ge=1)]  # the weight of this update
    images: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    train_loss: float
    incoming: Evaluation | None  # of the model as it came, on validation patients
    train_seconds: Seconds
    seconds: Seconds


class Evaluated(_Record):
    """A model's score sketches on one side of the split."""

    site: Slug
    cohort: Digest
    evaluation: Evaluation
    seconds: Seconds


Answer = TypeVar("Answer", Prepared, Trained, Evaluated)


def question_record(question: Question, arrays: ArrayRecord | None, config: ConfigRecord | None = None) -> RecordDict:
    """The content of a question's message; `config` is what the strategy wants sites to know."""
    content = RecordDict({"config": ConfigRecord({**(config or {}), "fedward": question.model_dump_json()})})
    if arrays is not None:
        content["arrays"] = arrays
    return content


def read_question(content: RecordDict) -> tuple[Question, dict[str, float]]:
    """The question in a message, and the numbers that the strategy put beside it, e.g. "server-round"."""
    try:
        config = content.config_records["config"]
        text = config["fedward"]
    except KeyError as error:
        raise RecordError(f"the message holds no Fedward question: {error} is missing") from None
    numbers = {key: value for key, value in config.items() if isinstance(value, int | float)}
    return _parse(Question, text, "question"), numbers


def answer_record(answer: Prepared | Trained | Evaluated, arrays: ArrayRecord | None = None) -> RecordDict:
    """The content of an answer's message."""
    content = RecordDict({"fedward": ConfigRecord({"answer": answer.model_dump_json()})})
    if arrays is not None:
        content["arrays"] = arrays
    if isinstance(answer, Trained):
        content["metrics"] = MetricRecord({"num-examples": answer.patients, "train-loss": answer.train_loss})
    return content


def read_answer(content: RecordDict, kind: type[Answer]) -> Answer:
    """The answer in a message, refused with a reason unless it is exactly a `kind`."""
    try:
        text = content.config_records["fedward"]["answer"]
    except KeyError as error:
        raise RecordError(f"the reply holds no Fedward answer: {error} is missing") from None
    return _parse(kind, text, "answer")


_Parsed = TypeVar("_Parsed", bound=_Record)


def _parse(kind: type[_Parsed], text: object, what: str) -> _Parsed:
    if not isinstance(text, str):
        raise RecordError(f"the {what} is not text")
    if len(text) > MAX_JSON_BYTES:
        raise RecordError(f"the {what} is {len(text)} characters long; at most {MAX_JSON_BYTES} are taken")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"the {what} does not fit a {kind.__name__}: {where}: {first['msg']}") from None


def to_array_record(arrays: Arrays) -> ArrayRecord:
    """Arrays as a Flower ArrayRecord, in their order."""
    return ArrayRecord({name: _to_array(np.asarray(array)) for name, array in arrays.items()})


def _to_array(array: npt.NDArray[Any]) -> Array:
    """One copy instead of the two that `Array(ndarray)` makes through its buffer."""
    if str(array.dtype) not in DTYPES:
        raise RecordError(f"arrays of {array.dtype} do not travel; these do: {', '.join(sorted(DTYPES))}")
    array = np.ascontiguousarray(array).reshape(array.shape)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    data = b"".join((header.getvalue(), _bytes(array)))
    return Array(str(array.dtype), array.shape, "numpy.ndarray", data)


def from_array_record(record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a record as read-only views of its buffers: no copy."""
    return {name: _from_array(name, array) for name, array in record.items()}


def _from_array(name: str, array: Array) -> npt.NDArray[Any]:
    if len(name) > MAX_NAME:
        raise RecordError(f"an array's name is {len(name)} characters long; at most {MAX_NAME} are taken")
    if array.stype != "numpy.ndarray" or array.dtype not in DTYPES:
        raise RecordError(
            f"array '{name}' is {array.stype} of {array.dtype}; raw buffers of {sorted(DTYPES)} are taken"
        )
    view = memoryview(array.data)
    head = io.BytesIO(view[:4096])
    try:
        if np.lib.format.read_magic(head) != (1, 0):
            raise RecordError(f"array '{name}' is in a version of .npy that does not travel")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    except ValueError as error:
        raise RecordError(f"array '{name}' is no .npy buffer: {error}") from None
    length = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if dtype != np.dtype(array.dtype) or shape != tuple(array.shape) or fortran or len(view) - head.tell() != length:
        raise RecordError(f"array '{name}' is not what it says: {array.dtype} {tuple(array.shape)}")
    return np.frombuffer(view, dtype=dtype, offset=head.tell()).reshape(shape)


def _bytes(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def array_bytes(record: ArrayRecord) -> int:
    """How many bytes of arrays a record carries."""
    return sum(len(array.data) for array in record.values())


def json_bytes(content: RecordDict) -> int:
    """How many bytes of text a message carries."""
    return sum(
        len(value) for record in content.config_records.values() for value in record.values() if isinstance(value, str)
    )


def model_sha256(arrays: Arrays) -> str:
    """SHA-256 over (name, dtype, shape, little-endian bytes) sorted by name: the model, not its file."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name}\0{array.dtype.name}\0{','.join(map(str, arrays[name].shape))}\0".encode())
        digest.update(_bytes(array))
    return digest.hexdigest()
