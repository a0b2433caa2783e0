"""A model on its way to the sites, and updates on their way back, in fewer bytes: as the study's [update] says.

Up: a site sends the difference to the model that it was sent, and keeps what the coding did not say; that is added to
its next difference, so it comes late but is not lost (error feedback: Karimireddy et al. 2019, arXiv 1901.09847). It is
kept in fewer bytes too: of a value that bf16 leaves out at most 1/256 is lost, of one that int8 leaves out at most
1/253 of the largest in its block.
Down: the model itself, coded by bf16 or int8, as it is for top-k. Sites train from the decoded model; the hub keeps the
model at full precision and adds the differences to that, so what the way down rounds off never gets into it.

float32 arrays of SMALL values or more are coded, all of them as one vector, in the order of their names. Smaller ones
(biases, norms), arrays of other types and a strategy's own ("control/…") travel as they are. The parts of the vector
are called "coded/…"; the names of a network's arrays hold no "/".
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward_common.codecs import Bf16, Codec, Flat, Int8, TopK, chunks, squared
from fedward_common.errors import RecordError
from fedward_common.streams import stream
from fedward_common.study import StudySpec, Update

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Shapes = Mapping[str, tuple[int, ...]]

SMALL = 1024  # values; fewer are not worth a rounding
_CODED = "coded/"  # how the names of coded parts begin
_LARGEST = np.float32(1e38)  # of a value that is coded: nothing overflows on the way

_UP: Mapping[str, Callable[[Update, np.random.Generator | None], Codec]] = {
    "bf16": lambda _update, _random: Bf16(),
    "int8": lambda _update, random: Int8(random),
    "top-k": lambda update, _random: TopK(update.share),
}
_DOWN: Mapping[str, Codec] = {"bf16": Bf16(), "int8": Int8()}
_KEPT = _DOWN  # what waits at a site; of top-k it grows over many rounds, which a rounding would stop
_WHOLE = "residual"  # what waits, not coded


@dataclass(frozen=True, kw_only=True, slots=True)
class Coded:
    """A coded update."""

    arrays: dict[str, Array]  # what travels
    residual: dict[str, Array]  # what it does not say of the coded arrays: to be added to the site's next update
    norm: float  # the L2 norm of what travels, over all float arrays of the model


def rounding(study: StudySpec, site: str, number: int) -> np.random.Generator:
    """The random numbers that round a site's update of round `number`: the same ones in every run of a study."""
    return stream(study.training.seed, "update rounding", site, number)


def encode_model(arrays: Arrays, update: Update) -> dict[str, Array]:
    """A model as it travels down. RecordError where it is to be coded and holds NaN or Inf."""
    codec, shapes = _DOWN.get(update.compression), _coded(_float32(arrays))
    if codec is None or not shapes:
        return dict(arrays)
    flat = _gathered(arrays, shapes)
    _check(flat, "model")
    parts, _ = codec.encode(flat)
    return _plain(arrays, shapes) | _named(parts)


def decode_model(coded: Arrays, shapes: Shapes, update: Update) -> dict[str, Array]:
    """The model that came; `shapes` are those of the network's float32 arrays.

    RecordError, in words, for parts that do not fit. Whether the arrays that came as they are fit the network is seen
    when they are loaded into it.
    """
    codec, shapes = _DOWN.get(update.compression), _coded(shapes)
    if codec is None or not shapes:
        return dict(coded)
    flat = np.zeros(sum(map(prod, shapes.values())), np.float32)
    codec.decode(_parts(coded), flat)
    return _together(coded, flat, shapes)


def encode_update(
    arrays: Arrays,
    reference: Arrays,
    update: Update,
    *,
    residual: Arrays,
    weight: float = 1,
    random: np.random.Generator | None,
) -> Coded:
    """An update as it travels up: `arrays` is the trained model, `reference` the one that training began from.

    `residual` is what the site's last update left, empty before the first, of which `weight` is added; `random` rounds
    for int8. Nothing given is changed. RecordError where the update holds NaN, Inf or values too large to be coded, and
    where the residual is not one of such a model.
    """
    shapes = _coded(_float32(arrays)) if update.compression in _UP else {}
    plain = _plain(arrays, shapes)
    length = sum(
        squared(array - reference[name]) for name, array in plain.items() if array.dtype.kind == "f" and "/" not in name
    )
    if not shapes:
        return Coded(arrays=plain, residual={}, norm=sqrt(length))
    flat = np.zeros(sum(map(prod, shapes.values())), np.float32)
    if residual:
        _recall(residual, update, flat)
        flat *= np.float32(weight)
    _add_differences(arrays, reference, flat, shapes)
    _check(flat, "update")
    parts, said = _UP[update.compression](update, random).encode(flat)
    return Coded(arrays=plain | _named(parts), residual=_kept(flat, update), norm=sqrt(length + said))


def decode_update(coded: Arrays, base: Arrays, update: Update) -> dict[str, Array]:
    """The update that came as ordinary arrays: `base` plus the differences, in `base`'s names, shapes and types.

    `base` is the hub's model at full precision. RecordError, in words, for parts that do not fit; whether arrays that
    came as they are fit the model, and whether all values are finite, is the update gate's to say. A strategy's own
    arrays pass. No more memory is taken than the model's.
    """
    shapes = _coded(_float32(base)) if update.compression in _UP else {}
    if not shapes:
        return dict(coded)
    flat = _gathered(base, shapes)
    _UP[update.compression](update, None).decode(_parts(coded), flat)
    return _together(coded, flat, shapes)


# One vector of all coded arrays --------------------------------------------------------------------------------------


def _float32(arrays: Arrays) -> Shapes:
    return {name: array.shape for name, array in arrays.items() if array.dtype == np.float32}


def _coded(shapes: Shapes) -> Shapes:
    """Of float32 arrays' shapes, those that are coded, by name in order."""
    return {name: shapes[name] for name in sorted(shapes) if prod(shapes[name]) >= SMALL and "/" not in name}


def _places(flat: Flat, shapes: Shapes) -> Iterator[tuple[str, Flat]]:
    """Each array's name and its place in the vector."""
    start = 0
    for name, shape in shapes.items():
        yield name, flat[start : start + prod(shape)]
        start += prod(shape)


def _gathered(arrays: Arrays, shapes: Shapes) -> Flat:
    """A copy: one allocation, which the system hands over in large pages and so far faster than many."""
    flat = np.empty(sum(map(prod, shapes.values())), np.float32)
    for name, place in _places(flat, shapes):
        place[...] = arrays[name].reshape(-1)
    return flat


def _add_differences(arrays: Arrays, reference: Arrays, flat: Flat, shapes: Shapes) -> None:
    """Add arrays minus reference to the vector."""
    with np.errstate(over="ignore", invalid="ignore"):  # looked for afterwards
        for name, place in _places(flat, shapes):
            array, base = arrays[name].reshape(-1), reference[name].reshape(-1)
            for start, chunk in chunks(place):
                end = start + chunk.size
                np.add(chunk, array[start:end] - base[start:end], out=chunk)


def _kept(left: Flat, update: Update) -> dict[str, Array]:
    """What an update left, as it waits."""
    codec = _KEPT.get(update.compression)
    return {_WHOLE: left} if codec is None else codec.encode(left)[0]


def _recall(residual: Arrays, update: Update, flat: Flat) -> None:
    """Add what waited to the vector."""
    if _WHOLE in residual:
        if residual[_WHOLE].shape != flat.shape:
            raise RecordError("what an update left is not of this model")
        flat += residual[_WHOLE]
    else:
        _KEPT[update.compression].decode(residual, flat)


def _check(flat: Flat, what: str) -> None:
    if not (flat.min() > -_LARGEST and flat.max() < _LARGEST):  # as for NaN
        raise RecordError(f"the {what} holds NaN, Inf or values too large to be sent: its training went astray")


def _together(coded: Arrays, flat: Flat, shapes: Shapes) -> dict[str, Array]:
    """The arrays that came as they are, and those of the vector. RecordError where one came twice."""
    plain = {name: array for name, array in coded.items() if not name.startswith(_CODED)}
    if twice := sorted(plain.keys() & shapes.keys()):
        raise RecordError(f"array '{twice[0]}' came as it is, where it should be coded")
    return plain | {name: place.reshape(shapes[name]) for name, place in _places(flat, shapes)}


def _plain(arrays: Arrays, shapes: Shapes) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if name not in shapes}


def _parts(coded: Arrays) -> dict[str, Array]:
    return {name.removeprefix(_CODED): array for name, array in coded.items() if name.startswith(_CODED)}


def _named(parts: Arrays) -> dict[str, Array]:
    return {_CODED + name: array for name, array in parts.items()}
