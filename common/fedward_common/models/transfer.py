"""Trained weights into a network: which array goes where, and what is done so that it fits. Arrays in, arrays out.

Names: without a map the file's names are the network's. With one, only names that begin with one of its prefixes are
taken, the longest prefix changed to what it stands for; the rest of the file is left alone. A name that leads nowhere
is refused: half a model taken by mistake trains too, and nobody would notice.

Shapes: three things may differ.
- Grey images: the first kernel of a network for colour is summed over its three channels, so that it answers to a grey
  image as it did to the same image three times.
- Depth, where `inflate` says so: a 2-D kernel is repeated along the depth and divided by it, so that it answers to a
  volume that is constant along the depth as it did to one slice of it (Carreira and Zisserman 2017, arXiv 1705.07750,
  section 3.1.1). Of a transposed convolution an output gets depth / stride of the repeats, so it is divided by these.
- The head, the last layer, whose outputs are the labels: one that then has another shape, or is of other labels, keeps
  the weights drawn from the seed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedward_common.errors import ModelError
from fedward_common.models.layer_rules import some
from fedward_common.study_faults import near, printable

Array = npt.NDArray[np.generic]
State = dict[str, Array]

COLOURS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Transferred:
    """What became of a network's arrays, by name in the order of the network, and of the file's."""

    taken: Sequence[str]  # also those of the two below
    summed: Sequence[str]  # over colour channels
    inflated: Sequence[str]
    head: Sequence[str]  # left at random, for their shape is another or their labels are
    other_labels: bool  # the latter
    absent: Sequence[str]  # left at random, for the file has none
    unused: Sequence[str]  # in the file, under no prefix of the map

    def __str__(self) -> str:
        """In sentences for a person."""
        network = len(self.taken) + len(self.head) + len(self.absent)
        sentences = [f"{len(self.taken)} of the network's {network} arrays are taken over"]
        if self.summed:
            sentences.append(f"Summed over colour channels: {some(self.summed)}")
        if self.inflated:
            sentences.append(f"Spread along the depth: {len(self.inflated)}, {some(self.inflated)}")
        if self.head:
            why = "tells other labels apart" if self.other_labels else "has another shape"
            sentences.append(f"The head {why} and stays at its random start: {some(self.head)}")
        if self.absent:
            sentences.append(f"Not in the file, at their random start: {len(self.absent)}, {some(self.absent)}")
        if self.unused:
            sentences.append(f"Not asked for by the map: {len(self.unused)} of the file, {some(self.unused)}")
        return " ".join(f"{printable(sentence)}." for sentence in sentences)


def transfer(
    state: Mapping[str, Array],
    source: Mapping[str, Array],
    *,
    prefixes: Mapping[str, str],
    inflate: bool,
    take_head: bool,
    strides: Mapping[str, int],
    channels: int,
    classes: int,
) -> tuple[State, Transferred]:
    """A network's state with `source` in it, and what was done. `state` is in the order of the state_dict.

    `channels` and `classes` are the network's, `strides` those along the depth of its transposed convolutions, by the
    names of their kernels. Without `take_head` the head stays as it is, whatever its shape.

    Raises ModelError for a prefix that begins no name of the source, a name that the network lacks, an array whose
    shape or type does not fit or that holds NaN or infinity, and where nothing is taken over.
    """
    origin = _origins(source, prefixes, list(state))
    stem = next((name for name, array in state.items() if array.ndim > 2), "") if channels == 1 else ""

    def is_summed(name: str) -> bool:
        array, target = source[origin[name]], state[name]
        return name == stem and array.ndim > 2 and (array.shape[1], target.shape[1]) == (COLOURS, 1)

    def is_inflated(name: str) -> bool:
        return inflate and state[name].ndim == 5 and source[origin[name]].ndim == 4

    def adapted(name: str) -> Array:
        array = source[origin[name]]
        if is_summed(name):
            array = array.sum(axis=1, keepdims=True, dtype=np.float64)
        if is_inflated(name):
            array = inflated_kernel(array, state[name].shape[2], strides.get(name, 1))
        return array

    head = [name for name in _head(state, classes) if name in origin]
    if take_head and all(adapted(name).shape == state[name].shape for name in head):
        head = []
    taken = [name for name in state if name in origin and name not in head]
    result = dict(state)
    for name in taken:
        result[name] = _fitted(name, adapted(name), state[name], source[origin[name]].shape)
    if not any(state[name].dtype.kind == "f" for name in taken):
        if head:
            raise ModelError(
                "the file has nothing for the network but a head of other labels: remove [model] start, or name other "
                "weights"
            )
        raise ModelError(
            f"none of the network's layers is in the file, which has {some(source)}; the network has {some(state)}"
        )
    return result, Transferred(
        taken=taken,
        summed=[name for name in taken if is_summed(name)],
        inflated=[name for name in taken if is_inflated(name)],
        head=head,
        other_labels=not take_head,
        absent=[name for name in state if name not in origin],
        unused=[name for name in source if name not in origin.values()],
    )


def inflated_kernel(kernel: Array, depth: int, stride: int = 1) -> Array:
    """A kernel [out, in, height, width] as [out, in, depth, height, width], whose sum over the depth it is.

    With a `stride`, of a transposed convolution along the depth, it is the sum over each output's depth / stride taps.
    """
    return np.repeat(kernel[:, :, np.newaxis], depth, axis=2).astype(np.float64) / (depth / stride)


def _origins(source: Collection[str], prefixes: Mapping[str, str], network: Sequence[str]) -> dict[str, str]:
    """By name in the network, the name in the file."""
    used: set[str] = set()
    origin: dict[str, str] = {}
    for name in source:
        prefix = max((each for each in prefixes or ("",) if name.startswith(each)), key=len, default=None)
        if prefix is None:
            continue
        used.add(prefix)
        target = prefixes.get(prefix, "") + name.removeprefix(prefix)
        if target not in network:
            raise ModelError(_nowhere(name, target, network, mapped=bool(prefixes)))
        if target in origin:
            raise ModelError(printable(f'[model] start.map: "{origin[target]}" and "{name}" both become "{target}"'))
        origin[target] = name
    for prefix in sorted(prefixes.keys() - used):
        raise ModelError(
            printable(
                f'[model] start.map: "{prefix}" is the longest prefix of no name in the file, which has '
                f"{some(source)}{near(prefix, list(source))}"
            )
        )
    return origin


def _nowhere(name: str, target: str, network: Sequence[str], *, mapped: bool) -> str:
    what = f'"{name}" of the file would be "{target}"' if name != target else f'the file has "{name}"'
    todo = (
        "map a longer prefix, so that this one is left out"
        if mapped
        else 'say in [model] start.map which names to take, such as {"features." = "features."}'
    )
    return printable(f"{what}, which the network lacks: it has {some(network)}{near(target, network)}; {todo}")


def _head(state: Mapping[str, Array], classes: int) -> list[str]:
    """The arrays of the last layer, where that tells the labels apart."""
    layer = list(state)[-1].rpartition(".")[0]
    names = [name for name in state if name.rpartition(".")[0] == layer]
    return names if all(state[name].shape[:1] == (classes,) for name in names) else []


def _fitted(name: str, array: Array, target: Array, found: tuple[int, ...]) -> Array:
    """`array` as a new one of the target's type; ModelError where it does not fit: `found` is its shape in the file."""
    if array.shape != target.shape:
        hint = "; inflate = true takes 2-D kernels" if _could_be_inflated(array.shape, target.shape) else ""
        raise ModelError(
            printable(f'"{name}" has the shape {_by(found)} in the file and {_by(target.shape)} in the network{hint}')
        )
    if (array.dtype.kind == "f") != (target.dtype.kind == "f"):
        raise ModelError(printable(f'"{name}" is of {array.dtype} in the file and of {target.dtype} in the network'))
    with np.errstate(over="ignore"):  # told below
        fitted = array.astype(target.dtype)
    if not np.isfinite(fitted).all():
        raise ModelError(printable(f'"{name}" in the file holds NaN, infinity or numbers too large for the network'))
    return fitted


def _could_be_inflated(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return len(target) == 5 and shape == target[:2] + target[3:]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "of a single number"
