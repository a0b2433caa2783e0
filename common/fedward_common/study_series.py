"""[input] kind = "series": how the recordings of a wearable sensor become windows of equal length."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from fedward_common.study_faults import Fault
from fedward_common.study_section import Positive, Rule, Unscaled, only_with

MAX_SAMPLES = 2**16  # of a window
MAX_SIGNALS = 256

Unit = Literal["mg", "g", "m/s2", "deg/s", "rad/s", "N", "V", "mV", "uV", "bpm", "1"]
Name = Annotated[str, Field(min_length=1, max_length=128)]


def _signals(signals: tuple[str, ...]) -> Iterator[Fault]:
    if len(set(signals)) < len(signals):
        yield Fault(("signals",), "names one signal twice; name each once")


def _window(window_s: float, rate_hz: float) -> Iterator[Fault]:
    samples = round(window_s * rate_hz)
    if not 2 <= samples <= MAX_SAMPLES:
        yield Fault(
            ("window_s",),
            f"must be a window of 2 to {MAX_SAMPLES} samples; {window_s:g} s at {rate_hz:g} Hz are {samples}",
        )


def _step(step_s: float | None, rate_hz: float) -> Iterator[Fault]:
    if step_s is not None and round(step_s * rate_hz) < 1:
        yield Fault(("step_s",), f"must be a sample at least: {step_s:g} s at {rate_hz:g} Hz are none")


class SeriesInput(Unscaled):
    """[input] of recordings: windows of `signals`, in that order, at `rate_hz`."""

    kind: Literal["series"]
    signals: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_SIGNALS)]  # as the recordings name them
    unit: Unit  # of all of them; recordings in another of the same kind are converted
    rate_hz: Annotated[float, Field(gt=0.0, le=100_000.0)]
    window_s: Positive
    step_s: Positive | None = None  # from one window to the next; None: the window's length
    intensity: Literal["none", "zscore"] = "none"  # zscore: each signal of a window less its mean, by its deviation
    scale: Positive = 1.0  # the value, in `unit`, that becomes 1, for "none"

    rules = (
        Rule(("signals",), _signals),
        Rule(("window_s", "rate_hz"), _window),
        Rule(("step_s", "rate_hz"), _step),
        only_with("scale", 1.0, "intensity", "none"),
    )

    @property
    def size(self) -> tuple[int, ...]:
        """Samples of a window."""
        return (round(self.window_s * self.rate_hz),)

    @property
    def channels(self) -> int:
        """How many signals."""
        return len(self.signals)
