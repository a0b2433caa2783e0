"""Fetch what is wanted and not here yet: studies, their series, the objects that are missing, politely.

The archive is asked for one thing at a time, within its hours and at its rate. What fails for a moment is tried again
after growing pauses; what is refused for good ends the run with a sentence. A run that was ended goes on where it was:
the journal says what came, and the archive how many objects there are.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial

from fedward_client.receiver.faults import PartlyFailed, PeerAway
from fedward_client.receiver.gate import ATTEMPTS, Gate
from fedward_client.receiver.inbox import NO_ROOM, NOT_WRITTEN, Inbox
from fedward_client.receiver.query import Instance, Peer, Series, Study, Wanted, questions
from fedward_client.site import Site
from fedward_common.errors import DataError, PacsError
from fedward_common.events import Event, Listener


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What an archive has of what is wanted, in numbers for the site's own people.

    `instances` counts where the archive says how many there are; `modalities` are of series, `years` of studies.
    """

    studies: int
    series: int
    instances: int
    modalities: dict[str, int] = field(default_factory=dict)
    years: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What a run found at the archive. A series is complete where all its objects are here, now or before."""

    studies: int
    series: int
    incomplete: int


def survey(site: Site, peer: Peer, wanted: Wanted, listener: Listener) -> Survey:
    """Count what is wanted at the archive; nothing is fetched. Raises PacsError."""
    studies = series = instances = 0
    modalities: Counter[str] = Counter()
    years: Counter[str] = Counter()
    for study, found in _wanted(peer, wanted, Gate(site, listener)):
        studies += 1
        years[str(study.day.year) if study.day is not None else ""] += 1
        series += len(found)
        instances += sum(each.instances or 0 for each in found)
        modalities.update(each.modality for each in found)
    return Survey(
        studies=studies,
        series=series,
        instances=instances,
        modalities=dict(sorted(modalities.items())),
        years=dict(sorted(years.items())),
    )


def fetch(inbox: Inbox, peer: Peer, wanted: Wanted, listener: Listener) -> Fetched:
    """Bring what is wanted and not here into the inbox.

    A series that stays incomplete is counted and raises nothing: a later run asks for the rest of it. Raises PacsError
    where the archive refuses or stays away, DataError where no room is left.
    """
    gate = Gate(inbox.site, listener)
    studies = series = incomplete = 0
    for _, found in _wanted(peer, wanted, gate):
        studies += 1
        series += len(found)
        incomplete += sum(not _complete(inbox, peer, each, gate) for each in found)
    return Fetched(studies=studies, series=series, incomplete=incomplete)


def _wanted(peer: Peer, wanted: Wanted, gate: Gate) -> Iterator[tuple[Study, list[Series]]]:
    """Each study with the series of it that are wanted, the oldest first; those without one are left out."""
    found: dict[str, Study] = {}
    for question in questions(wanted, date.today()):
        found.update((study.uid, study) for study in gate.ask(partial(peer.studies, question)))
    studies = sorted(found.values(), key=lambda study: (study.day or date.min, study.uid))
    for number, study in enumerate(studies):
        gate.listener(Event(site=gate.site.name, stage="receive", done=number, total=len(studies)))
        series = [each for each in gate.ask(partial(peer.series, study)) if wanted.takes(study, each)]
        if series:
            yield study, sorted(series, key=lambda each: each.uid)
    gate.listener(Event(site=gate.site.name, stage="receive", done=len(studies), total=len(studies)))


def _complete(inbox: Inbox, peer: Peer, series: Series, gate: Gate) -> bool:
    """Fetch what is missing of a series; whether all of it is here then.

    What an archive leaves out is asked for once more, object by object: one that it cannot send may have kept others.
    """
    if series.instances and len(_known(inbox, series)) >= series.instances:
        return True
    listed = gate.ask(partial(peer.instances, series))
    missing, attempts = _missing(inbox, series, listed), 0
    while missing:
        failure = _fetch(inbox, peer, series, missing, whole=len(missing) == len(listed), gate=gate)
        left = _missing(inbox, series, listed)
        if failure is None:
            return not left or _one_by_one(inbox, peer, series, left, gate=gate)
        attempts = attempts + 1 if len(left) == len(missing) else 0
        if attempts == ATTEMPTS:
            raise failure
        gate.pause(attempts, failure)
        missing = left
    return True


def _one_by_one(inbox: Inbox, peer: Peer, series: Series, missing: Sequence[Instance], *, gate: Gate) -> bool:
    for each in missing:
        failure = _fetch(inbox, peer, series, [each], whole=False, gate=gate)
        if failure is not None:
            raise failure
    return not _missing(inbox, series, missing)


def _fetch(
    inbox: Inbox, peer: Peer, series: Series, missing: Sequence[Instance], *, whole: bool, gate: Gate
) -> PeerAway | None:
    """Ask for objects once; what went wrong for the moment, if anything did."""
    before, refused = inbox.tally.size, _unwritten(inbox)
    failure: PacsError | None = None
    with gate.passing(lambda: inbox.tally.size - before):
        try:
            peer.fetch(series, missing, whole=whole, inbox=inbox)
        except PartlyFailed:
            pass  # the journal says what came
        except PacsError as error:
            failure = error
    if _unwritten(inbox) > refused:  # whatever the archive then said
        raise DataError(
            f"no more can be received at site '{inbox.site.name}': the disk of the data folder is full, has less than "
            "[pacs] min_free_mib left, or cannot be written to; make room, then run this again, and it goes on"
        )
    if failure is not None and not isinstance(failure, PeerAway):
        raise failure
    return failure


def _unwritten(inbox: Inbox) -> int:
    return inbox.tally.refused[NO_ROOM] + inbox.tally.refused[NOT_WRITTEN]


def _known(inbox: Inbox, series: Series) -> set[str]:
    return inbox.journal.instances(inbox.site.pseudonym("series", series.uid))


def _missing(inbox: Inbox, series: Series, listed: Sequence[Instance]) -> list[Instance]:
    known = _known(inbox, series)
    return [each for each in listed if inbox.site.pseudonym("instance", each.uid) not in known]
