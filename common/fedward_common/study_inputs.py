"""[input]: which kinds there are, one a module, and how one is told from another."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Tag

from fedward_common.study_compound import CompoundInput
from fedward_common.study_input import Input
from fedward_common.study_section import Section
from fedward_common.study_sequence import SequenceInput
from fedward_common.study_series import SeriesInput
from fedward_common.study_table import FeatureScale, TableInput

INPUTS: Mapping[str, type[Section]] = {
    "image": Input,
    "series": SeriesInput,
    "sequence": SequenceInput,
    "compound": CompoundInput,
    "table": TableInput,
}


def input_kind(section: object) -> str:
    """Which of `INPUTS` a section is; of one that is no table the words for images are as good as any."""
    kind = section.get("kind", "image") if isinstance(section, Mapping) else getattr(section, "kind", "image")
    return kind if isinstance(kind, str) else ""


AnyInput = Annotated[
    Annotated[Input, Tag("image")]
    | Annotated[SeriesInput, Tag("series")]
    | Annotated[SequenceInput, Tag("sequence")]
    | Annotated[CompoundInput, Tag("compound")]
    | Annotated[TableInput, Tag("table")],
    Discriminator(input_kind),
]


Scale = tuple[float, ...] | FeatureScale  # what sites measure: `landmarks` of images, of features of tables
