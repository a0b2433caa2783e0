"""Words that identify nobody, because the standard itself uses them: "head", "phantom", "Siemens".

A name or a description that consists of such words cannot be looked for: it would be found in every file.
"""

import re
from functools import cache

from pydicom._dicom_dict import DicomDictionary
from pydicom._private_dict import private_dictionaries
from pydicom._uid_dict import UID_dictionary

from fedward_client.deidentify.codes import BASIC, CLEAN_PIXELS, METHODS, SAFE_PRIVATE

_WORD = re.compile(r"[^\W_]+")
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def is_standard_term(text: str, *, short_words: bool) -> bool:
    """Whether all words of a text are the standard's; with `short_words`, those of one or two letters are too."""
    return all(word in _words() or (short_words and len(word) < 3) for word in _WORD.findall(text.lower()))


@cache
def _words() -> frozenset[str]:
    """The words of attribute names, UID names, vendors' private creators and what every copy says was done to it."""
    attributes = (f"{entry[2]} {' '.join(_PART.findall(entry[4]))}" for entry in DicomDictionary.values())
    uids = (" ".join(entry[:3]) for entry in UID_dictionary.values())
    methods = (meaning for _, meaning in (BASIC, CLEAN_PIXELS, SAFE_PRIVATE, *METHODS.values()))
    texts = " ".join((*attributes, *uids, *private_dictionaries, *methods)).lower()
    return frozenset(word for word in _WORD.findall(texts) if not word.isdigit())
