"""A folder of DICOM files, de-identified into another: DST/<patient>/<series>/<instance>.dcm, all names pseudonyms.

Files appear whole or not at all; what stands in DST whole is not written again, so an interrupted run goes on where it
was. One bad file goes to quarantine with its reason. What is no DICOM is never copied. At the end everything written is
searched for what identified the source (`fedward_client.deidentify.proof`), and what is not clean leaves DST.
"""

import csv
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fedward_client.deidentify.files import Place, cleaned, place_of
from fedward_client.deidentify.proof import Leak, Proof, prove
from fedward_client.deidentify.rules import Profile
from fedward_client.intake.labels import AGE, SEX, SPLIT, read_labels, words_in
from fedward_client.intake.optout import opted_out
from fedward_client.intake.walk import Entry, file_key, walk
from fedward_client.label_settings import LABELS
from fedward_client.site import Site
from fedward_common.disk import write_durably
from fedward_common.errors import DataError, UnreadableFile, UsageError

MARK = ".fedward-deidentified"
JOURNAL = ".fedward-written"  # a line for each whole file: its size and its name, which is made of pseudonyms
QUARANTINE = "deidentified-quarantine"  # in the state folder: what the proof found identifiers in
VERSION = 1

Tell = Callable[[str, int, int], None]  # what is being done, steps done, steps in all


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What became of a folder's files; `files` is the sum of the numbers down to `links` and of the quarantine."""

    files: int
    written: int
    already_there: int  # from an earlier run, or a second file of one instance
    not_dicom: int
    dicomdir: int
    links: int  # not followed
    opted_out: int  # of patients on the site's opt-out list
    quarantine: dict[str, str]  # by the file's pseudonym, the reason
    blanked: int  # of the written files, those in which pixels were blanked
    labelled: int  # patients in the label table that was written
    proof: Proof

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """What the proof found; empty in a run that went well."""
        return self.proof.leaks


def deidentify(
    site: Site, source: Path, target: Path, profile: Profile, tell: Tell = lambda _stage, _done, _total: None
) -> Report:
    """De-identify `source` into `target` under the site's key, and prove it.

    Raises UsageError for folders that cannot be used, DataError where `source` holds nothing to read.
    """
    site = _with_data(site, source)
    target = _prepared(site, target, profile)
    total = sum(1 for _ in walk(site))
    if not total:
        raise DataError("the source folder holds no files; give the folder that holds the DICOM files")
    written, counts, out = _Written(target), Counter[str](), opted_out(site)
    for patient in out:  # whom an earlier run may have copied
        shutil.rmtree(target / patient, ignore_errors=True)
    quarantine: dict[str, str] = {}
    for done, entry in enumerate(walk(site)):
        tell("De-identifying", done, total)
        try:
            counts.update(_taken(site, entry, written, profile, out))
        except UnreadableFile as error:
            quarantine[file_key(site, entry.path)] = str(error)
    labelled = _write_labels(site, target, out)
    proof = prove(site, source, target, profile, tell)
    _banish(site, target, proof)
    return Report(
        files=counts.total() - counts["blanked"] + len(quarantine),
        written=counts["written"],
        already_there=counts["already there"],
        not_dicom=counts["not DICOM"],
        dicomdir=counts["DICOMDIR"],
        links=counts["link"],
        opted_out=counts["opted out"],
        quarantine=quarantine,
        blanked=counts["blanked"],
        labelled=labelled,
        proof=proof,
    )


def source_paths(site: Site, source: Path) -> dict[str, str]:
    """By file pseudonym, the names of the source's files, each on one line; for the site's own people alone."""
    site = _with_data(site, source)
    names = {file_key(site, entry.path): str(entry.path.relative_to(site.data)) for entry in walk(site)}
    return {key: "".join(_printable(char) for char in name) for key, name in names.items()}


def _printable(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def _with_data(site: Site, source: Path) -> Site:
    """The site as `walk` and `file_key` need it: with `source` as its data."""
    if not source.is_dir():
        raise UsageError("the source is no folder that exists; give the folder that holds the DICOM files")
    return replace(site, data=source.resolve())


def _prepared(site: Site, target: Path, profile: Profile) -> Path:
    """The target folder, marked as ours. Raises UsageError for one that is not, or was made with other choices."""
    target = target.absolute().resolve()
    if target == site.data or target.is_relative_to(site.data) or site.data.is_relative_to(target):
        raise UsageError("the target folder must not be in the source folder, nor the other way round; give another")
    mark = json.dumps(
        {
            "version": VERSION,
            "made by": site.pseudonym("deidentified", ""),
            "retain": sorted(profile.retain),
            "burned in": profile.burned_in,
        }
    )
    try:
        target.mkdir(parents=True, exist_ok=True)
        if not (target / MARK).exists():
            if any(target.iterdir()):
                raise UsageError("the target folder is not empty and was not made by this command; give an empty one")
            write_durably(target / MARK, mark.encode())
        if (target / MARK).read_text("utf-8") != mark:
            raise UsageError("the target folder was made with another key or other choices; give an empty one")
    except OSError as error:
        raise UsageError(f"the target folder cannot be written ({error.strerror}); give another") from None
    return target


def _taken(site: Site, entry: Entry, written: "_Written", profile: Profile, out: Collection[str]) -> list[str]:
    """What became of an entry, as the words that are counted."""
    if entry.link:
        return ["link"]
    if entry.refused:
        raise UnreadableFile(entry.refused)
    place = place_of(site, entry.path)
    if not isinstance(place, Place):
        return [place]
    if place.patient in out:
        return ["opted out"]
    if written.has(place.path):
        return ["already there"]
    file = cleaned(site, entry.path, profile)
    written.write(place.path, file.data)
    return ["written", "blanked"] if file.blanked else ["written"]


class _Written:
    """What stands in a target folder, whole: a file of another size than the journal's is written again."""

    def __init__(self, target: Path) -> None:
        self._target, self._journal = target, target / JOURNAL
        lines = self._journal.read_text("utf-8").splitlines() if self._journal.exists() else []
        self._sizes = {name: size for size, _, name in (line.partition(" ") for line in lines)}

    def has(self, path: Path) -> bool:
        """Whether a file, relative to the target, is there whole."""
        try:
            return str((self._target / path).stat().st_size) == self._sizes.get(str(path))
        except FileNotFoundError:
            return False

    def write(self, path: Path, data: bytes) -> None:
        """Write a file, which appears whole or not at all, and then its line: one that is torn counts for nothing."""
        write_durably(self._target / path, data)
        self._sizes[str(path)] = str(len(data))
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(f"{len(data)} {path}\n")


def _write_labels(site: Site, target: Path, out: Collection[str]) -> int:
    """The site's label table under the new patient ids, so that the target is a site's folder; how many patients.

    None is written where its rows are of studies or files: those have other names in the target.
    """
    labels = read_labels(site).rows if site.labels.by == "patient" else {}
    rows = {patient: row for patient, row in labels.items() if patient not in out and words_in(site, row)}
    if not rows:
        return 0
    columns = sorted({column for row in rows.values() for column in row} - {SPLIT, SEX, AGE})
    split = [SPLIT] if any(SPLIT in row for row in rows.values()) else []
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["patient_id", *(columns if site.labels.findings else ["label"]), *split])
    for patient, row in sorted(rows.items()):
        table.writerow([patient, *(row[column] for column in columns), *(row[column] for column in split)])
    write_durably(target / LABELS, text.getvalue().encode())
    return len(rows)


def _banish(site: Site, target: Path, proof: Proof) -> None:
    """Move what is not clean out of the target, to where only the site's own people look."""
    for path in proof.unclean:
        place = site.ensure_state() / QUARANTINE / path.name
        place.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.move(target / path, place)


def counted(report: Report) -> Iterator[tuple[str, int]]:
    """The quarantine in numbers: files by reason, most first."""
    yield from Counter(report.quarantine.values()).most_common()
