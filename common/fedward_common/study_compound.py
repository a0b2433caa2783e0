"""[input] kind = "compound": molecules written as SMILES in a column of a hospital's table, as their fingerprints.

The hospital's map says which column it is, and makes the same fingerprints as the study asks for.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedward_common import compounds
from fedward_common.study_section import Unscaled
from fedward_common.study_table import Name


class CompoundInput(Unscaled):
    """[input] of compounds: the fingerprints of `column`, by the name in the sites' maps."""

    kind: Literal["compound"]
    column: Name
    radius: Annotated[int, Field(ge=1, le=compounds.MAX_RADIUS)] = 2  # bonds
    bits: Annotated[int, Field(ge=64, le=compounds.MAX_BITS)] = 1024

    missing: ClassVar[Literal["leave-out"]] = "leave-out"  # a row without a compound takes no part

    @property
    def features(self) -> tuple[str, ...]:
        """The bits, by the names that the sites' maps give them."""
        return compounds.names(self.column, self.radius, self.bits)

    @property
    def size(self) -> tuple[int, ...]:
        """A fingerprint has no extent."""
        return ()

    @property
    def channels(self) -> int:
        """The bits."""
        return self.bits
