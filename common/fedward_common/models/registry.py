"""Finds a network by name, refuses what cannot work, builds what can. Never imports torch before `build`."""

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import TYPE_CHECKING, cast

from fedward_common.errors import ModelError
from fedward_common.models.cards import Architecture, Detector, ModelCard, Option
from fedward_common.models.shipped import SHIPPED
from fedward_common.study_faults import near
from fedward_common.study_task import Task

if TYPE_CHECKING:
    from torch import nn

ENTRY_POINTS = "fedward.models"

_registered: dict[str, Architecture] = {each.card.name: each for each in SHIPPED}


def names() -> list[str]:
    """The names of all networks, those of installed plug-ins included, sorted."""
    return sorted({*_registered, *_plug_ins(tuple(sys.path)).names})


def describe(name: str) -> ModelCard:
    """The card of a network; `ModelError` where there is none of that name."""
    return _find(name).card


def register(card: ModelCard, builder_path: str) -> None:
    """Add a network in this process: its card, and "package.module:function" that builds it (see `Architecture`).

    Every process that trains or aggregates must do the same, so an installed entry point is the better way.
    """
    if card.name in names():
        raise ModelError(f'the model name "{card.name}" is taken: choose another one')
    _registered[card.name] = Architecture(card=card, builder=builder_path)


def check(
    name: str,
    options: Mapping[str, Option],
    size: tuple[int, ...],
    channels: int,
    classes: int,
    *,
    task: Task = "classification",
) -> None:
    """Refuse, with a `ModelError` in one sentence, what `build` could not make or what could not learn."""
    card = describe(name)
    _check_task(card, task, size)
    for key, value in options.items():
        _check_option(card, key, value)
    if len(size) not in card.dims:
        raise ModelError(f'model "{name}" takes {_kinds(card.dims)}, and the study has {_of(size)}')
    if min(size, default=card.min_size) < card.min_size:
        least = _by((card.min_size,) * len(size))
        what = "images" if len(size) > 1 else "windows"
        raise ModelError(f'model "{name}" needs {what} of at least {least}, and the size is {_by(size)}')
    if channels < 1:
        raise ModelError(f"an example has at least 1 channel, not {channels}")
    _check_outputs(task, classes)


def outputs(task: Task, labels: int) -> int:
    """How many `classes` a network is built with for a study of so many labels: those, of survival one, the log-risk.

    A network for registration gives a displacement whatever the number of structures that it is scored on, 0 included.
    """
    return 1 if task == "survival" else labels


def example_shape(task: Task, channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
    """[channels, *size] of what a network takes: of a pair of images for registration."""
    return (2 * channels if task == "registration" else channels, *size)


def has_batch_norm(name: str, options: Mapping[str, Option]) -> bool:
    """Whether a network with these options has BatchNorm layers; `ModelError` where there is none of that name.

    A card that can have them and lets no option called "norm" choose is taken to have them always.
    """
    card = describe(name)
    return card.batch_norm and {**card.options, **options}.get("norm", "batch") == "batch"


def unsupervised_layers(name: str, options: Mapping[str, Option]) -> int:
    """How many layers of a network can learn without labels, one after the other; `ModelError` as `describe`."""
    card = describe(name)
    if isinstance(card.layers, int):
        return card.layers
    widths = {**card.options, **options}[card.layers]
    return len(widths) if isinstance(widths, tuple) else 0


def build(
    name: str,
    *,
    options: Mapping[str, Option],
    size: tuple[int, ...],
    channels: int,
    classes: int,
    task: Task = "classification",
) -> "nn.Module":
    """A network with random weights; what it takes and gives by task: `Architecture`. `ModelError` as `check`.

    `channels` are those of one image, `classes` the `outputs` that the task needs.
    """
    check(name, options, size, channels, classes, task=task)
    architecture = _find(name)
    try:
        builder = EntryPoint(name, architecture.builder, ENTRY_POINTS).load()
    except (ImportError, AttributeError) as error:
        raise ModelError(f'model "{name}" cannot be built here: {error}; install what it needs') from error
    from fedward_common.models.layerwise import Layered

    filled = {**architecture.card.options, **options}
    network = cast("nn.Module", builder(dims=len(size), size=size, channels=channels, classes=classes, **filled))
    if task == "detection" and not isinstance(network, Detector):
        raise ModelError(f'model "{name}" finds no boxes: it has no anchors and levels; choose retinanet, or repair it')
    if architecture.card.layers and not isinstance(network, Layered):
        raise ModelError(
            f'model "{name}" has no layers that learn alone, as its card says: it is no `layerwise.Layered`; repair it'
        )
    return network


def _find(name: str) -> Architecture:
    points = _plug_ins(tuple(sys.path)).select(name=name)
    if len(points) + (name in _registered) > 1:
        packages = ", ".join(sorted(point.dist.name if point.dist else point.value for point in points))
        raise ModelError(f'the model name "{name}" is taken more than once: uninstall or rename that of {packages}')
    if name in _registered:
        return _registered[name]
    for point in points:
        return _plug_in(point)
    known = names()
    raise ModelError(f'there is no model "{name}"; choose one of {", ".join(known)}{near(name, known)}')


@lru_cache(maxsize=1)  # a search reads a file of every installed package, and each question that a site reads needs one
def _plug_ins(path: tuple[str, ...]) -> EntryPoints:  # noqa: ARG001 - what is installed follows from it
    return entry_points(group=ENTRY_POINTS)


def _plug_in(point: EntryPoint) -> Architecture:
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise ModelError(f"the plug-in {point.value} cannot be imported: {error}; repair or uninstall it") from error
    if not isinstance(found, Architecture) or found.card.name != point.name:
        raise ModelError(f'the plug-in {point.value} is no Architecture named "{point.name}": repair or uninstall it')
    return found


def _check_task(card: ModelCard, task: Task, size: tuple[int, ...]) -> None:
    if task in card.tasks:
        return
    others = (describe(each) for each in names())
    able = [each.name for each in others if task in each.tasks and len(size) in each.dims]
    choice = f"choose one of {', '.join(able)}" if able else f"no model does that with {_of(size)}"
    raise ModelError(f'model "{card.name}" is for {" or ".join(card.tasks)}, and the task is {task}: {choice}')


def _check_outputs(task: Task, classes: int) -> None:
    if task == "classification" and classes < 2:
        raise ModelError(f"a model tells at least 2 classes apart, not {classes}")
    if task == "segmentation" and classes < 1:
        raise ModelError(f"segmentation is of at least 1 structure, not {classes}")
    if task == "detection" and classes < 1:
        raise ModelError(f"detection is of at least 1 kind of finding, not {classes}")
    if task == "survival" and classes != 1:
        raise ModelError(f"survival has 1 output, the log-risk, not {classes}")


def _check_option(card: ModelCard, key: str, value: Option) -> None:
    if key not in card.options:
        known = f"it has {', '.join(sorted(card.options))}" if card.options else "it has none"
        raise ModelError(f'model "{card.name}" has no option "{key}"; {known}{near(key, sorted(card.options))}')
    default, limits = card.options[key], card.limits.get(key)
    if not _same_type(value, default):
        raise ModelError(f'option "{key}" of model "{card.name}" must be {_kind(default)}, not {value!r}')
    if limits is not None and value not in limits:
        raise ModelError(f'option "{key}" of model "{card.name}" must be {limits}, not {value!r}')


def _same_type(value: Option, default: Option) -> bool:
    """A whole number may stand for a float; true and false are no numbers."""
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def _kind(default: Option) -> str:
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        tuple: "a list of whole numbers",
    }[type(default)]


def _kinds(dims: tuple[int, ...]) -> str:
    images = " or ".join(f"{each}-D" for each in dims if each > 1)
    others = {0: "rows of tables", 1: "recordings or sequences"}
    return " or ".join([f"{images} images"] * bool(images) + [others[each] for each in dims if each in others])


def _of(size: tuple[int, ...]) -> str:
    if len(size) > 1:
        return f"{len(size)}-D images of {_by(size)}"
    return f"windows of {size[0]} samples" if size else "rows of a table"


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
