"""How one window of a recording becomes one tensor: units, then the study's rate, then its scale.

The digest names all that: same digest, same bits from the same samples. Change `VERSION` whenever the outcome changes.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import rfc8785

from fedward_client.intake.recording import Values, stretched
from fedward_common.study import SeriesInput

VERSION = 1


@dataclass(frozen=True, slots=True)
class SeriesRecipe:
    """What an [input] section of recordings asks for."""

    input: SeriesInput

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the RFC 8785 JSON of the section and of this code's version."""
        content: dict[str, Any] = {"version": VERSION, "series": self.input.model_dump(mode="json")}
        return hashlib.sha256(rfc8785.dumps(content)).hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what `apply` returns: (signals, samples)."""
        return (self.input.channels, *self.input.size)

    def apply(self, window: Values) -> Values:
        """A window [time, signals] in the study's unit as a contiguous float32 [signals, samples] at its rate."""
        values = stretched(window, self.input.size[0])
        if self.input.intensity == "zscore":
            values = values.astype(np.float64)
            deviation = values.std(axis=0)
            values = (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
        else:
            values = values / self.input.scale
        return np.ascontiguousarray(values.T, dtype=np.float32)
