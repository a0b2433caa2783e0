"""[model] start and the rules for layers: where a network's first weights come from, and which of its layers learn.

Patterns are those of Python's `fnmatch`, case kept, on the names of a network's arrays, such as `features.0.weight`; a
`*` stands for dots too. Of several learning rates that match a name the longest pattern counts, of equally long ones
the last in the alphabet: a table has no order in a study's canonical JSON, so none may matter.
"""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from fedward_common.study_faults import Fault
from fedward_common.study_section import Fingerprint, Positive, Rule, Section, Slug

MAX_NAME = 256  # characters of an array's name, and so of a prefix or a pattern; records.py takes no longer ones
MAX_ENTRIES = 1000

Prefix = Annotated[str, Field(max_length=MAX_NAME)]
Pattern = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME, description='a pattern of names in quotes, such as "features.*"')
]
Patterns = Annotated[tuple[Pattern, ...], Field(max_length=MAX_ENTRIES)]
Factors = Annotated[
    dict[
        Pattern, Annotated[Positive, Field(description="a factor above 0; to hold a layer as it is, name it in frozen")]
    ],
    Field(max_length=MAX_ENTRIES),
]


def _one_source(file: str | None, model: str | None) -> Iterator[Fault]:
    if file is None and model is None:
        yield Fault(
            ("file",), 'missing; say where the weights are: file = "weights.safetensors", or model = a name at the hub'
        )
    if file is not None and model is not None:
        yield Fault(("model",), "cannot stand beside file; keep the one that holds the weights")


def _file(file: str | None) -> Iterator[Fault]:
    if file is not None and not (file.strip() and file.isprintable()):
        yield Fault(("file",), "must be the path of a safetensors file, relative to the study's")


class Start(Section):
    """[model] start: trained weights to begin with.

    `sha256` is that of `records.model_sha256`: of names, types, shapes and values, not of a file, so that it is the one
    which results and model cards tell. It is filled in when a study is resolved for a run: a digest that a hospital
    approves then covers every weight. So is `head`: false where the file says that it is of another task or of other
    labels, in order, than the study.
    """

    file: Annotated[str, Field(max_length=4096)] | None = None  # its path from the study file; resolved: its name alone
    model: Slug | None = None  # a model that is registered at the hub
    sha256: Fingerprint | None = None
    map: Annotated[dict[Prefix, Prefix], Field(max_length=MAX_ENTRIES)] = Field(
        default={}
    )  # in the file: in the network
    inflate: bool = False  # 2-D kernels may become 3-D ones
    head: bool | None = None  # whether the last layer is taken, where it fits

    rules = (Rule(("file", "model"), _one_source), Rule(("file",), _file))


def repeated(frozen: tuple[str, ...]) -> Iterator[Fault]:
    """The rule that each pattern stands once."""
    if len(set(frozen)) < len(frozen):
        yield Fault(("frozen",), "names one pattern twice; name each once")
