"""What travels between hub and site: questions, answers and arrays, as Flower records. Nothing else does.

A question holds the whole study as data, so a site can check what it is asked against what it approved. An answer is
one JSON object of known keys beside raw typed arrays (`.npy` buffers, never pickle). Everything is checked on reading:
keys, types, sizes, dtypes; what does not fit is a `RecordError` in words.

The layout also suits Flower's stock strategies: "arrays", "config" and "metrics" with "num-examples". On the way
through a SuperLink it is packed into as few records as there can be (`packing`).
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedward_common import npy
from fedward_common.array_blocks import pack, view
from fedward_common.cohort_statistics import Statistics, Wanted
from fedward_common.errors import RecordError
from fedward_common.metrics import Evaluation
from fedward_common.study import Scale, Slug, StudySpec
from fedward_common.study_cohort import MAX_LABEL, MAX_LABELS
from fedward_common.study_section import RunId, Version

Arrays = Mapping[str, npt.NDArray[Any]]

MAX_JSON_BYTES = 4 * 2**20
MAX_ARRAYS = 100_000
MAX_NAME = 256
MAX_COUNT = 10**9  # patients, images, steps: sums over sites and rounds stay exact in float64 and fit 64 bits
MAX_LOSS = 1e9
MAX_SECONDS = 1e9
MAX_REASON = 500  # characters of a text that somebody else wrote, where people read it
MAX_NOTICE = 2 * MAX_REASON
MAX_FAULTS = 1000
WAITS = "waits for approval"  # how a refusal begins that the site's steward can lift: the hub asks again
CONTROL = "control/"  # how a strategy's own arrays are named beside the model's, whose names hold no "/"
_SHOWN = 40  # characters of a name that is refused


def _few_labels(evaluation: Evaluation) -> Evaluation:
    for e in (evaluation, *(group for groups in evaluation.subgroups.values() for group in groups.values())):
        if max(len(held) for held in (e.sketches, e.figures, e.overlaps, e.unregistered, e.detections)) > MAX_LABELS:
            raise ValueError(f"figures of more than {MAX_LABELS} labels")
    return evaluation


Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Some = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Seconds = Annotated[float, Field(ge=0.0, le=MAX_SECONDS)]
_Value = TypeVar("_Value")
ByLabel = Annotated[dict[Annotated[str, Field(max_length=MAX_LABEL)], _Value], Field(max_length=MAX_LABELS)]
Scores = Annotated[Evaluation, AfterValidator(_few_labels)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def bound(study: StudySpec) -> StudySpec:
    """A study whose digest covers its first weights; ValueError for another: what is approved must not change."""
    if study.model.start is not None and study.model.start.sha256 is None:
        raise ValueError("[model] start has no sha256, so the study's digest does not cover its first weights")
    return study


class Question(_Record):
    """What the hub asks a site. The round and what a strategy adds (FedProx's mu) ride in Flower's own config."""

    kind: Literal["stats", "prepare", "train", "evaluate"]
    study: Annotated[StudySpec, AfterValidator(bound)]
    run: RunId
    statistics: Wanted = "catalog"  # stats: which
    scale: Scale | None = None  # where the sites of the run measured it; it is not in the study then
    score_incoming: bool = False  # train: also score the model as it came, on validation patients
    side: Literal["validation", "test"] = "validation"  # evaluate: on whom
    model: Literal["sent", "alone", "other"] = "sent"  # evaluate: the common one; the site's own; another site's own
    fold: Annotated[int, Field(ge=0)] | None = None  # evaluate: whose patients are scored now; the scores stay there
    hand_over: bool = False  # evaluate, alone: the site's own model comes beside its figures
    thresholds: ByLabel[float] | None = None  # evaluate: a label's operating point
    notice: Annotated[str, Field(max_length=MAX_NOTICE)] | None = None  # train: why the site's last update was refused
    counted: Annotated[int, Field(ge=0)] | None = None  # train: the last round with an update of the site's; 0 for none

    @model_validator(mode="after")
    def _has_its_fold(self) -> Self:
        if self.fold is not None and (self.kind != "evaluate" or self.fold >= (self.study.split.folds or 0)):
            raise ValueError("the fold is none of the study's, or nothing is to be scored")
        if self.score_incoming and self.study.split.folds is not None:
            raise ValueError("the study has folds, and nothing of one is told before all are scored")
        return self

    @model_validator(mode="after")
    def _has_its_scale(self) -> Self:
        given, wanted = self.scale is not None, self.kind != "stats" and self.study.input.measures_scale
        if given != wanted:
            raise ValueError("the study's scale is measured by its sites, and no question comes with another or none")
        if self.scale is not None:
            self.study.input.on_scale(self.scale)
        if self.kind == "stats" and self.statistics == "scale" and not self.study.input.measures_scale:
            raise ValueError("the study has its scale, or needs none: nothing is to be measured")
        return self


class Prepared(_Record):
    """A site is ready: its cohort is frozen, its tensors are cached. Counts that the small-cell rule keeps are None."""

    site: Slug
    fedward: Version
    cohort: Digest
    total: Count | None  # patients on any side
    patients: dict[Literal["train", "validation", "test"], Count | None]
    unlabelled: Count = 0  # beside them: training patients without a label, for rounds that take them
    folds: Annotated[tuple[Count, ...], Field(max_length=1000)] = ()  # training patients of each fold
    local_model: bool = False  # whether the site's policy lets the model leave that it trains without the others
    seconds: Seconds

    @property
    def told_patients(self) -> int:
        """How many patients it has in the study, as far as its small-cell rule tells: or as many as its sides."""
        return sum(count for count in self.patients.values() if count is not None) if self.total is None else self.total

    def learn_from(self, fold: int | None = None, *, unlabelled: bool = False) -> int:
        """How many patients a round's update is of: those without a label too, where they take part."""
        if fold is not None:
            return self.folds[fold] if fold < len(self.folds) else 0
        return (self.patients["train"] or 0) + (self.unlabelled if unlabelled else 0)


class Trained(_Record):
    """What training gave, beside the arrays."""

    site: Slug
    study: Digest
    round: Some
    cohort: Digest
    patients: Some  # the weight of this update
    images: Some
    steps: Some
    train_loss: Annotated[float, Field(ge=0.0, le=MAX_LOSS)]  # q-FedAvg takes powers of it
    incoming: Scores | None  # of the model as it came, on validation patients
    train_seconds: Seconds
    seconds: Seconds


class Evaluated(_Record):
    """A model's score sketches on one side of the split."""

    site: Slug
    cohort: Digest
    evaluation: Scores
    personal: Scores | None = None  # of the site's own model, where the strategy keeps one there
    seconds: Seconds


Answer = TypeVar("Answer", Statistics, Prepared, Trained, Evaluated)


def arrays_in(content: RecordDict) -> ArrayRecord:
    """A message's arrays, an empty record where it has none.

    Neither this nor `texts_in` goes through flwr's `array_records` and `config_records`: each look at those makes an
    object that refers to itself and to the message, whose arrays then take memory until the garbage collector comes by.
    """
    record = content.get("arrays")
    return record if isinstance(record, ArrayRecord) else ArrayRecord()


def texts_in(content: RecordDict) -> dict[str, ConfigRecord]:
    """A message's records of text and numbers."""
    return {name: record for name, record in content.items() if isinstance(record, ConfigRecord)}


def question_record(question: Question, arrays: ArrayRecord | None, config: ConfigRecord | None = None) -> RecordDict:
    """The content of a question's message; `config` is what the strategy wants sites to know."""
    content = RecordDict({"config": ConfigRecord({**(config or {}), "fedward": question.model_dump_json()})})
    if arrays is not None:
        content["arrays"] = arrays
    return content


def read_question(content: RecordDict) -> tuple[Question, dict[str, float]]:
    """The question in a message, and the numbers beside it: see `read_config`."""
    return read_config(texts_in(content).get("config", {}))


def read_config(config: Mapping[str, object]) -> tuple[Question, dict[str, float]]:
    """The question in a message's config, and the numbers that the strategy put beside it.

    For training these are held against the study: "server-round" is one of its rounds, and "proximal-mu" (FedProx's,
    0 where it is missing) is the study's own. `RecordError` otherwise.
    """
    try:
        text = config["fedward"]
    except KeyError as error:
        raise RecordError(f"the message holds no Fedward question: {error} is missing") from None
    question = _parse(Question, text, "question")
    numbers = {key: v for key, v in config.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    if question.kind == "train":
        _check_steering(question.study, numbers)
    return question, numbers


def _check_steering(study: StudySpec, numbers: Mapping[str, float]) -> None:
    """Raise unless the hub steers training as the study says: the approved study binds the hub too."""
    number = numbers.get("server-round")
    if not isinstance(number, int) or not 1 <= number <= study.rounds:
        raise RecordError(f"the hub asks for a round that is none of the study's 1 to {study.rounds}")
    if numbers.get("proximal-mu", 0.0) != study.strategy.options.get("proximal_mu", 0.0):
        raise RecordError("the hub asks for another proximal_mu than the study says")


def answer_record(answer: Statistics | Prepared | Trained | Evaluated, arrays: ArrayRecord | None = None) -> RecordDict:
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
        text = texts_in(content)["fedward"]["answer"]
    except KeyError as error:
        raise RecordError(f"the reply holds no Fedward answer: {error} is missing") from None
    return _parse(kind, text, "answer")


_Parsed = TypeVar("_Parsed", bound=BaseModel)


def _parse(kind: type[_Parsed], text: object, what: str) -> _Parsed:
    if not isinstance(text, str):
        raise RecordError(f"the {what} is not text")
    if len(text) > MAX_JSON_BYTES:
        raise RecordError(f"the {what} is {len(text)} characters long; at most {MAX_JSON_BYTES} are taken")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RecordError(f"the {what} does not fit a {kind.__name__}: {_first_fault(error)}") from None
    except UnicodeEncodeError:
        raise RecordError(f"the {what} is no Unicode text") from None


def _first_fault(error: ValidationError) -> str:
    if error.error_count() > MAX_FAULTS:  # a million of them take seconds to list
        return f"{error.error_count()} of its values are wrong"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{printable(where, MAX_NAME)}: {printable(first['msg'], MAX_NAME)}" if where else printable(first["msg"])


def printable(text: str, limit: int = MAX_REASON) -> str:
    """A text that somebody else wrote as one line of at most `limit` characters; what cannot be printed is escaped."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def to_array_record(arrays: Arrays) -> ArrayRecord:
    """Arrays as a Flower ArrayRecord, in their order: views of one block, in which they can travel as they are."""
    return view(pack({name: np.asarray(array) for name, array in arrays.items()}))


def record_of(arrays: Mapping[str, Array]) -> ArrayRecord:
    """A record of these very arrays; flwr's own way makes others, of bytes only."""
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = array
    return record


def plain(record: ArrayRecord) -> ArrayRecord:
    """The same arrays as flwr makes them, each with its own bytes: code that is not ours may build others of them."""
    return record_of({name: Array(a.dtype, a.shape, a.stype, bytes(a.data)) for name, a in record.items()})


def from_array_record(record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a record as read-only views of its buffers: no copy. `RecordError` names an array that is none."""
    if len(record) > MAX_ARRAYS:
        raise RecordError(f"the message holds {len(record)} arrays; at most {MAX_ARRAYS} are taken")
    return {name: _from_array(name, array) for name, array in record.items()}


def _from_array(name: str, array: Array) -> npt.NDArray[Any]:
    if len(name) > MAX_NAME:
        raise RecordError(f"an array's name is {len(name)} characters long; at most {MAX_NAME} are taken")
    shown = _cut(name)
    if not name.isprintable():
        raise RecordError(f"an array's name cannot be printed: {shown}")
    if array.stype != "numpy.ndarray" or array.dtype not in npy.DTYPES:
        raise RecordError(
            f"array {shown} is {_cut(array.stype)} of {_cut(array.dtype)}; "
            f"raw buffers of {', '.join(sorted(npy.DTYPES))} are taken"
        )
    try:
        view = npy.load(array.data, array.dtype)
    except RecordError as error:
        raise RecordError(f"array {shown} {error}") from None
    if view.shape != tuple(array.shape):
        raise RecordError(f"array {shown} is not what it says: its buffer has the shape {view.shape}")
    return view


def _cut(text: str) -> str:
    """The beginning of a text from the wire, quoted and printable."""
    return repr(text[:_SHOWN]) + ("…" if len(text) > _SHOWN else "")


def array_bytes(record: ArrayRecord) -> int:
    """How many bytes of arrays a record carries."""
    return sum(len(array.data) for array in record.values())


def json_bytes(content: RecordDict) -> int:
    """How many bytes of text a message carries."""
    return sum(
        len(value) for record in texts_in(content).values() for value in record.values() if isinstance(value, str)
    )


def model_sha256(arrays: Arrays) -> str:
    """SHA-256 over (name, dtype, shape, little-endian bytes) sorted by name: the model, not its file."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name}\0{array.dtype.name}\0{','.join(map(str, arrays[name].shape))}\0".encode())
        digest.update(npy.raw(array))
    return digest.hexdigest()
