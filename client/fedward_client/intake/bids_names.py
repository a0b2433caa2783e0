"""File names of the Brain Imaging Data Structure (BIDS 1.11): entities, suffix, extension. Pure."""

import re
from dataclasses import dataclass, field

from fedward_common.errors import UnreadableFile

DESCRIPTION = "dataset_description.json"
PARTICIPANTS = "participants.tsv"
PASSED_BY = frozenset({"derivatives", "sourcedata", "code", "stimuli", "phenotype"})  # folders without raw images
MISSING = "n/a"  # what stands in a table where nothing is known

# in the order that names must have them (BIDS 1.11, schema/rules/entities.yaml)
ENTITIES = (
    *("sub", "tpl", "ses", "cohort", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec"),
    *("dir", "run", "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "split", "recording", "chunk"),
    *("atlas", "seg", "scale", "res", "den", "label", "prov", "desc"),
)

_LABEL = "[0-9a-zA-Z+]+"
_ENTITY = re.compile(f"([a-z]+)-({_LABEL})")
_SUFFIX = re.compile("[0-9a-zA-Z]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class BidsName:
    """A name in its parts; `entities` are (key, label) in the name's order, `extension` begins with its point."""

    entities: tuple[tuple[str, str], ...] = field(repr=False)
    suffix: str  # T1w, FLAIR, bold
    extension: str

    def entity(self, key: str) -> str:
        """The label of an entity, "" where the name has none."""
        return dict(self.entities).get(key, "")

    def covers(self, other: "BidsName") -> bool:
        """Whether a sidecar of this name holds for `other`: of its suffix, without an entity that `other` lacks."""
        return self.suffix == other.suffix and set(self.entities) <= set(other.entities)


def label(key: str, text: str) -> str | None:
    """The label of a text that is one entity, "01" of "sub-01"; None for any other."""
    found = _ENTITY.fullmatch(text)
    return found[2] if found is not None and found[1] == key else None


def parsed(name: str) -> BidsName:
    """A file name in its parts. Raises UnreadableFile with what the specification asks for."""
    stem, point, extension = name.partition(".")
    *pairs, suffix = stem.split("_")
    found = [_ENTITY.fullmatch(pair) for pair in pairs]
    entities = tuple((pair[1], pair[2]) for pair in found if pair is not None)
    if len(entities) < len(pairs) or not _SUFFIX.fullmatch(suffix):
        raise UnreadableFile("its name is not made of key-label pairs and a suffix, as BIDS asks for")
    keys = [key for key, _ in entities]
    if not set(keys) <= set(ENTITIES):
        raise UnreadableFile("its name has an entity that BIDS does not know")
    if keys != sorted(set(keys), key=ENTITIES.index):
        raise UnreadableFile("the entities of its name are not each once, in the order of BIDS")
    return BidsName(entities=entities, suffix=suffix, extension=point + extension)
