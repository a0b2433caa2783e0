"""The opt-out list: patients who take no part, whatever a study or the label table says.

A text file beside the images, `opt-out.txt` or what site.toml names: one patient id a line, as the images have it;
of a BIDS folder 01 or sub-01.
Empty lines and lines that begin with "#" are passed over. It is read at every scan and for every question of a run, so
a list that is made or grows while a site is up holds at once.
"""

from fedward_client.site import Site
from fedward_common.errors import DataError


def opted_out(site: Site) -> frozenset[str]:
    """The pseudonyms of a site's patients who take no part. Raises what `listed` raises."""
    return frozenset(site.pseudonym("patient", line) for line in listed(site))


def listed(site: Site) -> frozenset[str]:
    """The ids on a site's list, for what never tells or keeps them. Raises DataError where it cannot be read.

    A list that was there when the site was opened, and is gone, is one that cannot be read.
    """
    if site.opt_out is None:
        return frozenset()
    try:
        text = site.opt_out.read_bytes().decode(site.labels.encoding)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not site.opt_out_is_there:
            return frozenset()
        raise DataError(f"the opt-out list cannot be read ({error.strerror}): nobody is used until it can") from None
    except UnicodeDecodeError:
        raise DataError(
            f"the opt-out list is not {site.labels.encoding} text: save it as UTF-8, or name its encoding under "
            "[labels] encoding in site.toml; nobody is used until it can be read"
        ) from None
    lines = (line.strip() for line in text.removeprefix("\ufeff").splitlines())
    found = {line for line in lines if line and not line.startswith("#")}
    return frozenset(found | {site.patient_of(line) for line in found})
