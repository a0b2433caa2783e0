"""What is known of a network without building it: values only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fedward_common.study_task import Task

if TYPE_CHECKING:
    import torch

Option = bool | int | float | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both valid."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    values: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return " or ".join(f'"{value}"' for value in self.values)


@dataclass(frozen=True, slots=True)
class Widths:
    """Up to `most` whole numbers, each from 1 to `high`: the widths of layers."""

    most: int
    high: int

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, tuple) and 1 <= len(value) <= self.most and all(1 <= each <= self.high for each in value)
        )

    def __str__(self) -> str:
        return f"a list of 1 to {self.most} numbers, each from 1 to {self.high}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What a person choosing a network wants to know, and what `check` holds a study against.

    An option has the type of its default; `limits` says which values of that type are valid, all where it is silent.
    """

    name: str  # lower-case letters, digits and hyphens
    title: str
    paper: str
    dims: tuple[int, ...]  # how many axes an example may have: 2 or 3 an image, 1 a recording or DNA, 0 a row
    min_size: int  # pixels, voxels or samples that each axis needs at least
    options: Mapping[str, Option] = field(default_factory=dict)  # name to default
    limits: Mapping[str, Range | Choice | Widths] = field(default_factory=dict)
    batch_norm: bool = (
        False  # whether some choice of options gives it batch normalisation, whose statistics are a site's
    )
    tasks: tuple[Task, ...] = ("classification",)  # what it can learn to do
    layers: int | str = 0  # how many learn without labels, or the option that lists their widths; of a `Layered`


@runtime_checkable
class Detector(Protocol):
    """What a network that finds boxes has beside its output, as properties or plain attributes: no buffers."""

    @property
    def anchors(self) -> "torch.Tensor":
        """Boxes [anchors, 2 * dims] float32 in voxels, in the order of the output: lower corner, then upper corner.

        Axes in the order of the array; corners on the voxels' edges.
        """

    @property
    def levels(self) -> Sequence[int]:
        """How many of the anchors each level has, the finest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A network's card, and where it is built.

    `builder` is "package.module:function"; it is imported when the network is built, not before, and called as
    `function(dims=…, size=…, channels=…, classes=…, **options)` with every option filled in. It returns a torch module
    that takes float32 [n, channels, *size], images in [0, 1], and gives by the card's task

    classification   logits [n, classes]
    segmentation     logits [n, classes, *size], of each structure by itself
    detection        logits and box differences [n, anchors, classes + 2 * dims], of a `Detector`
    registration     displacements [n, dims, *size] in voxels, of [n, 2 * channels, *size]: moving, then fixed images
    survival         log-risks [n, 1]; `classes` is 1

    `classes` is `registry.outputs` of a study's task and labels.
    """

    card: ModelCard
    builder: str
