"""What a study's patterns mean for a network's arrays: which are frozen, and at which rate the others learn."""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from fedward_common.errors import ModelError
from fedward_common.study_faults import near

if TYPE_CHECKING:
    from fedward_common.study_small_sections import Model
    from fedward_common.study_spec import StudySpec

_SHOWN = 3


def frozen_names(study: "StudySpec", state_names: Iterable[str]) -> set[str]:
    """Which of these arrays, parameters and buffers alike, no site changes: their patterns stand in [model] frozen."""
    return {name for name in state_names if any(fnmatchcase(name, pattern) for pattern in study.model.frozen)}


def of_layer(name: str, layer: int) -> bool:
    """Whether an array is that of a layer which can learn alone, by its name (`layerwise.Layered`)."""
    return name.startswith(f"layers.{layer}.")


def rate_factor(model: "Model", name: str) -> float:
    """The factor on the optimizer's learning rate for one parameter; 1 where no pattern matches its name."""
    matching = [pattern for pattern in model.learning_rates if fnmatchcase(name, pattern)]
    return model.learning_rates[max(matching, key=lambda pattern: (len(pattern), pattern))] if matching else 1.0


def check_layers(study: "StudySpec", names: Collection[str], parameters: Collection[str]) -> None:
    """Raise ModelError where a pattern matches nothing in the network, or nothing is left to train.

    `names` are those of the state_dict, in order; `parameters` are the learned ones of them.
    """
    for pattern in study.model.frozen:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ModelError(f'[model] frozen: "{pattern}" matches no array of {_network(study, names, pattern)}')
    frozen = frozen_names(study, names)
    learned = [name for name in names if name in parameters and name not in frozen]
    if not learned:
        raise ModelError(
            "[model] frozen matches every layer, so nothing would be trained: leave some out, say the last"
        )
    for pattern in study.model.learning_rates:
        if not any(fnmatchcase(name, pattern) for name in learned):
            raise ModelError(
                f'[model] learning_rates: "{pattern}" matches no array that learns in '
                f"{_network(study, learned, pattern)}"
            )


def _network(study: "StudySpec", names: Collection[str], pattern: str) -> str:
    return f'"{study.model.name}", which has {some(names)}{near(pattern, list(names))}'


def some(names: Collection[str]) -> str:
    """A few names of many: the first and the last."""
    listed = list(names)
    shown = listed if len(listed) <= 2 * _SHOWN else [*listed[:_SHOWN], "…", *listed[-_SHOWN:]]
    return ", ".join(shown)
