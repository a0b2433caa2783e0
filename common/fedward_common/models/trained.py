"""A trained model as one safetensors file: its arrays, and in the file's header all that is needed to use them.

That is the study, the scale that its hospitals measured, the operating points and what the model cannot do: whoever has
the file needs nothing else of the run.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedward_common.errors import ModelError
from fedward_common.models import weights_file
from fedward_common.models.weights import network
from fedward_common.models.weights_file import State
from fedward_common.study import AnyInput, Scale, StudySpec

if TYPE_CHECKING:
    from torch import nn

RESEARCH_USE = "For research use only. Not a medical device: no decision about a patient may rest on this model."
_KEY = "fedward"  # in the file's header


class Trained(BaseModel):
    """What is known of a trained model beside its arrays."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: Literal[1] = 1  # of this layout
    study: StudySpec
    scale: Scale | None = None  # that the run's sites measured, where the study left the scale to them
    thresholds: dict[str, float]  # label: operating point
    model_sha256: str
    limits: tuple[str, ...] = ()  # sentences of the model card

    @property
    def input(self) -> AnyInput:
        """The study's [input] on the scale of the run."""
        return self.study.input.on_scale(self.scale)

    @property
    def header(self) -> dict[str, str]:
        """The header of the safetensors file: all of it under one key, and what people look for under others."""
        return {
            "study": self.study.study.id,
            "study_sha256": self.study.digest,
            "model_sha256": self.model_sha256,
            "use": RESEARCH_USE,
            _KEY: self.model_dump_json(),
        }


def about(path: Path) -> Trained | None:
    """What a file says of its model; None where it holds bare weights. Raises ModelError for what cannot be read."""
    text = weights_file.header(path).get(_KEY)
    try:
        return None if text is None else Trained.model_validate_json(text)
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise ModelError(
            f"{path} cannot be used with what is installed here: {' '.join(reason.split())}; install what trained it"
        ) from None


def read(path: Path) -> tuple[Trained, "nn.Module"]:
    """A trained model, in evaluation: [n, channels, *size] to logits [n, labels].

    Raises ModelError for a file that does not say what it is, was changed, or needs hospitals' own statistics.
    """
    found = about(path)
    if found is None:
        raise ModelError(
            f"{path} holds weights and does not say of which study: take the model.safetensors of a run, or one that "
            "`fedward model add --run` registered"
        )
    arrays = weights_file.read(path)
    if weights_file.sha256(arrays) != found.model_sha256:
        raise ModelError(f"{path} was changed since it was written: take the original")
    if found.study.training.batch_norm in {"local", "recalibrate"}:
        raise ModelError(
            f'{path}: with [training] batch_norm = "{found.study.training.batch_norm}" the model was scored with each '
            "hospital's own BatchNorm statistics, which no file has: train with another batch_norm to use it elsewhere"
        )
    return found, _loaded(found.study, arrays)


def _loaded(study: StudySpec, arrays: State) -> "nn.Module":
    import torch

    model = network(study)
    try:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    except RuntimeError:
        raise ModelError(
            f'the arrays are not those of "{study.model.name}" as it is here: use the Fedward that trained the model'
        ) from None
    return model.eval()
