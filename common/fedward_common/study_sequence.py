"""[input] kind = "sequence": windows of DNA in a column of a hospital's table, one-hot.

The hospital's map says which column it is and how many bases around the middle are kept; a study takes up to as many.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedward_common import dna
from fedward_common.study_section import Unscaled
from fedward_common.study_table import Name


class SequenceInput(Unscaled):
    """[input] of sequences: the `length` bases around the middle of `column`, by the name in the sites' maps."""

    kind: Literal["sequence"]
    column: Name
    length: Annotated[int, Field(ge=8, le=dna.MAX_LENGTH)]  # bases

    missing: ClassVar[Literal["leave-out"]] = "leave-out"  # a row without a sequence takes no part

    @property
    def features(self) -> tuple[str, ...]:
        """The bases, by the names that the sites' maps give them."""
        return dna.names(self.column, self.length)

    @property
    def size(self) -> tuple[int, ...]:
        """Bases of a window."""
        return (self.length,)

    @property
    def channels(self) -> int:
        """A, C, G and T."""
        return 4
