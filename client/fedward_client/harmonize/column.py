"""How what stands in one column of a table becomes one tensor: DNA one-hot, a compound's fingerprint as it is."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rfc8785

from fedward_common.dna import one_hot
from fedward_common.study import CompoundInput, SequenceInput

VERSION = 1


@dataclass(frozen=True, slots=True)
class ColumnRecipe:
    """What an [input] section of sequences or of compounds asks for."""

    input: CompoundInput | SequenceInput

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the RFC 8785 JSON of the section and of this code's version."""
        content: dict[str, Any] = {"version": VERSION, "column": self.input.model_dump(mode="json")}
        return hashlib.sha256(rfc8785.dumps(content)).hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what `apply` returns: (4, bases) or (bits,)."""
        return (self.input.channels, *self.input.size)

    def apply(self, row: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A row's features, as the hospital's map makes them, as float32 of `shape`."""
        if isinstance(self.input, SequenceInput):
            return one_hot(row)
        return row
