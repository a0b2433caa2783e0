"""How one window of DNA becomes one tensor: one-hot (`fedward_common.dna`)."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rfc8785

from fedward_common.dna import one_hot
from fedward_common.study import SequenceInput

VERSION = 1


@dataclass(frozen=True, slots=True)
class SequenceRecipe:
    """What an [input] section of sequences asks for."""

    input: SequenceInput

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the RFC 8785 JSON of the section and of this code's version."""
        content: dict[str, Any] = {"version": VERSION, "sequence": self.input.model_dump(mode="json")}
        return hashlib.sha256(rfc8785.dumps(content)).hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what `apply` returns: (4, bases)."""
        return (self.input.channels, *self.input.size)

    def apply(self, row: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A window's bases [bases] by their codes, as float32 [4, bases]."""
        return one_hot(row)
