"""How one row of a table becomes one tensor: on the scale of all hospitals (`fedward_common.feature_scale`)."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rfc8785

from fedward_common.feature_scale import scaled
from fedward_common.study import TableInput

VERSION = 1


@dataclass(frozen=True, slots=True)
class TableRecipe:
    """What an [input] section of tables asks for, at one site."""

    input: TableInput
    site: str

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the RFC 8785 JSON of the section, its scale included, the site and this code's version."""
        content: dict[str, Any] = {"version": VERSION, "site": self.site, "table": self.input.model_dump(mode="json")}
        return hashlib.sha256(rfc8785.dumps(content)).hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what `apply` returns: (features,)."""
        return (self.input.channels,)

    def apply(self, row: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A row's features [features], NaN where one is missing, as float32 [features].

        Raises what `scaled` raises.
        """
        found: npt.NDArray[np.float32] = scaled(row[None], self.input, self.site)[0]
        return found
