"""[input] of a study: how an image becomes a tensor, by name. docs/harmonisation.md says what each step does.

The order of the steps is not the study's: it stands in `fedward_client.harmonize.recipe`, the same at every hospital.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from fedward_common.study_faults import Fault
from fedward_common.study_section import Fraction, Positive, Rule, Section, only_with

LANDMARKS = 9  # of a standard scale: where the deciles 10, 20, … 90 stand between percentiles 1 and 99

Intensity = Literal["percentile", "zscore", "window", "landmarks"]

_PERCENTILES = (1.0, 99.0)
_MAX_UPSAMPLING = 4.0
_AXES = ("LR", "PA", "IS")  # of the patient: left or right, posterior or anterior, inferior or superior


def _size(size: tuple[int, ...]) -> Iterator[Fault]:
    if len(size) not in {2, 3}:
        yield Fault(("size",), f"must be [height, width] or [depth, height, width], not {len(size)} numbers")


def _orientation(orientation: str | None, size: tuple[int, ...]) -> Iterator[Fault]:
    if orientation is None:
        return
    if len(orientation) != 3 or any(sum(letter in axis for letter in orientation) != 1 for axis in _AXES):
        yield Fault(
            ("orientation",),
            'must be three letters, one each of L or R, P or A, I or S: to where columns, rows and frames go, as "LPS"',
        )
    if len(size) == 2:
        yield Fault(("orientation",), "has no effect on 2-D images; remove it, or give size a depth")


def _spacing(spacing: tuple[float, ...] | None, size: tuple[int, ...]) -> Iterator[Fault]:
    if spacing is not None and len(spacing) != len(size):
        yield Fault(("spacing",), f"must be as many numbers as size, {len(size)}: millimetres in the same order")


def _upsampling(limit: float, spacing: tuple[float, ...] | None) -> Iterator[Fault]:
    if spacing is None and limit != _MAX_UPSAMPLING:
        yield Fault(("max_upsampling",), "has no effect without spacing; remove it, or give spacing")


def _percentiles(percentiles: tuple[float, float]) -> Iterator[Fault]:
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        yield Fault(("percentiles",), "must be two numbers from 0 to 100, the lower one first")


def _window(window: tuple[float, float] | None, intensity: str) -> Iterator[Fault]:
    if intensity == "window" and window is None:
        yield Fault(("window",), 'missing; intensity = "window" needs [center, width] in the units of the modality')


def _landmarks(landmarks: tuple[float, ...] | None) -> Iterator[Fault]:
    if landmarks is not None and (len(landmarks) != LANDMARKS or list(landmarks) != sorted(landmarks)):
        yield Fault(("landmarks",), f"must be {LANDMARKS} numbers from 0 to 1, none lower than the one before")


def _statistics(statistics: str, intensity: str) -> Iterator[Fault]:
    if statistics != "image" and intensity == "window":
        yield Fault(("statistics",), 'has no effect with intensity = "window", which measures nothing; remove it')


class Input(Section):
    """[input]: how an image becomes a tensor. Of recordings and tables: `study_series`, `study_table`."""

    kind: Literal["image"] = "image"
    size: Annotated[
        tuple[Annotated[int, Field(ge=8, le=1024)], ...],  # (height, width) or (depth, height, width)
        Field(description="[height, width] or [depth, height, width], each a whole number from 8 to 1024"),
    ] = (128, 128)
    channels: Literal[1, 3] = 1
    orientation: str | None = None  # letters as NIfTI's: to where columns, rows and frames go, for a 3-D size
    spacing: tuple[Annotated[float, Field(ge=0.01, le=100.0)], ...] | None = None  # mm, in the order of size
    max_upsampling: Annotated[float, Field(ge=1.0, le=100.0)] = _MAX_UPSAMPLING  # coarser images are left out
    bias_field: Literal["n4"] | None = None
    crop: Literal["foreground"] | None = None
    intensity: Intensity = "percentile"
    statistics: Literal["image", "foreground"] = "image"  # the pixels that intensity is measured on
    percentiles: tuple[float, float] = _PERCENTILES  # mapped to 0 and 1, for "percentile"
    window: tuple[float, Positive] | None = None  # (center, width) in modality units, for "window"
    landmarks: tuple[Fraction, ...] | None = None  # the standard scale, for "landmarks"; None: measured before round 1

    @property
    def measures_scale(self) -> bool:
        """Whether the sites of a run measure the standard scale before its first round."""
        return self.intensity == "landmarks" and self.landmarks is None

    def on_scale(self, scale: object | None) -> "Input":
        """The same with a scale that was measured, checked as a study's own is; None leaves it as it is."""
        if scale is None:
            return self
        return Input.model_validate({**self.model_dump(), "landmarks": scale})

    rules = (
        Rule(("size",), _size),
        Rule(("orientation", "size"), _orientation),
        Rule(("spacing", "size"), _spacing),
        Rule(("max_upsampling", "spacing"), _upsampling),
        Rule(("percentiles",), _percentiles),
        Rule(("window", "intensity"), _window),
        Rule(("landmarks",), _landmarks),
        Rule(("statistics", "intensity"), _statistics),
        only_with("percentiles", _PERCENTILES, "intensity", "percentile"),
        only_with("window", None, "intensity", "window"),
        only_with("landmarks", None, "intensity", "landmarks"),
    )
