"""Files whose headers differ in nothing but which slice they are: what one of them says need not be worked out again.

Most files of an archive are slices of series, and most of what a scan does with one is the same for the next. What a
header says is remembered under the bytes of its elements but a few; of these, each slice's own are read.
"""

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from fedward_client.intake import describe, elements
from fedward_client.intake.geometry import Plane
from fedward_client.intake.header_scan import Scanned

if TYPE_CHECKING:
    from fedward_client.intake.dicom import Header

MOST = 512  # headers that are remembered: several series may come in turns

Key = tuple[Any, ...]


class Sibling(NamedTuple):
    """A header, the plane of its frame, and how many bytes of pixels it needs: None where they are compressed."""

    header: "Header"
    plane: Plane | None
    needed: int | None


_POSITION = elements.tag_of("ImagePositionPatient")
# what slices of a series differ in, with its VR (PS3.6)
_OWN: Mapping[BaseTag, str] = {
    elements.tag_of("SOPInstanceUID"): "UI",
    _POSITION: "DS",
    **{elements.tag_of(keyword): elements.vr_of(keyword) for keyword in describe.TURNS},
}
_known: dict[Key, Sibling] = {}


def key_of(scanned: Scanned, header: Container[int], *, encapsulated: bool) -> Key:
    """What is the same of all slices of a series, as far as a header is made of it: of the tags in `header`."""
    shared = [item for item in scanned.elements.items() if item[0] in header and item[0] not in _OWN]
    own = [tag for tag in scanned.elements if tag in _OWN]
    return scanned.syntax, encapsulated, *scanned.meta.values(), *shared, *own


def find(key: Key) -> Sibling | None:
    """An image with this key that was read before."""
    return _known.get(key)


def remember(key: Key, sibling: Sibling) -> None:
    """Keep an image for those that have the same key; the one that came first goes where there are too many."""
    if len(_known) >= MOST:
        del _known[next(iter(_known))]
    _known[key] = sibling


def own_of(scanned: Scanned, sibling: Sibling) -> dict[str, Any] | None:
    """What a slice says by itself, by the names of `Header`; None where it takes pydicom to tell."""
    raw = {}
    for tag, vr in _OWN.items():
        if (found := scanned.elements.get(tag)) is None:
            continue
        if not found[1].isascii() or found[0] not in (None, vr.encode()):
            return None
        raw[tag] = RawDataElement(tag, vr, len(found[1]), found[1], 0, scanned.implicit, True)
    own = cast("Dataset", _Raw(raw))
    place = None
    if _POSITION in raw:
        place = None if sibling.plane is None else sibling.plane.place_of(elements.numbers(own, "ImagePositionPatient"))
        if place is None:  # this one's position or the other's is none, or both lie nowhere
            return None
    return {
        "instance_uid": elements.text(own, "SOPInstanceUID"),
        "place_mm": None if place is None else round(place, 4),
        "turn": describe.turn(own),
    }


class _Raw:
    """Of a data set as much as `elements` looks at while nothing needs pydicom; that takes its time to make one."""

    __slots__ = ("_dict",)

    def __init__(self, raw: dict[BaseTag, RawDataElement]) -> None:
        self._dict = raw
