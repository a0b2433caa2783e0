"""What stands for an identifier: keyed hashes under the site's key, the same at each run, and dates moved by days.

Nobody without the key can tell which patient a pseudonym was, or how far a date was moved; there is no table to lose.
"""

import re
from datetime import date, timedelta

from pydicom._uid_dict import UID_dictionary

from fedward_client.site import Site

MOST_DAYS = 3650  # dates move back by 1 to 3650 days

_UUID_VERSION_8 = 8 << 76, 0xF << 76  # RFC 9562, 5.8: bits of our own
_UUID_VARIANT = 2 << 62, 3 << 62
_DATE = re.compile(r"(\d{4})(?:[.-]?(\d{2})(?:[.-]?(\d{2}))?)?")
_MOMENT = re.compile(r"(\d{4,8})(\d{0,6}(?:\.\d{0,6})?(?:[+-]\d{4})?)")


def is_standard(uid: str) -> bool:
    """Whether a UID is one of the standard's own: a class, a syntax, a well-known instance. Those say nothing."""
    return uid in UID_dictionary


def patient(site: Site, patient_id: str) -> str:
    """A patient's pseudonym, the same that label tables are read under."""
    return site.pseudonym("patient", patient_id)


def uid(site: Site, original: str) -> str:
    """The UID that stands for another: 2.25 and a UUID (PS3.5 B.2) of 122 bits of the keyed hash."""
    number = int(site.pseudonym("uid", original), 16)
    for value, mask in (_UUID_VERSION_8, _UUID_VARIANT):
        number = number & ~mask | value
    return f"2.25.{number}"


def days(site: Site, patient_id: str) -> int:
    """By how many days a patient's dates move back: one number, so that the time between two of them stays."""
    return 1 + int(site.pseudonym("days", patient_id), 16) % MOST_DAYS


def moved_date(text: str, back: int) -> str:
    """A date (VR DA) moved back by days, "" for what is no date. A year or a month alone keeps its precision."""
    found = _DATE.fullmatch(text.strip(" \0"))
    if not found:
        return ""
    year, month, day = found.groups()
    try:
        # the middle of what is not said: for half of all cases it is the right year or month
        moved = date(int(year), int(month or 7), int(day or (15 if month else 1))) - timedelta(days=back)
    except (ValueError, OverflowError):
        return ""
    return f"{moved:%Y%m%d}".rjust(8, "0")[: 8 if day else 6 if month else 4]


def moved_moment(text: str, back: int) -> str:
    """A date and time (VR DT) with its date moved back, time and offset unchanged; "" for what is none."""
    found = _MOMENT.fullmatch(text.strip(" \0"))
    if not found or len(found[1]) not in (4, 6, 8) or (len(found[1]) < 8 and found[2][:1].isdigit()):
        return ""
    moved = moved_date(found[1], back)
    return moved + found[2] if moved else ""
