"""A folder in the Brain Imaging Data Structure (BIDS 1.11): whose images are where, and what is said about them.

Reads names, participants.tsv, sessions.tsv and JSON sidecars, and no image (`fedward_client.intake.nifti` does). Only
raw images are taken: derivatives, sourcedata, code, stimuli and phenotype are passed by, and so is what begins with a
point. What does not follow the standard is left out with a reason, and the rest is read. Links are not followed.
"""

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fedward_client.intake import bids_names
from fedward_client.intake.bids_names import DESCRIPTION, PARTICIPANTS, PASSED_BY, BidsName
from fedward_client.intake.bids_sidecars import Participant, Scanner, Sidecar, read_participants, read_sidecar, scanner
from fedward_common.errors import DataError, UnreadableFile

_TEXTS = {"README", "CHANGES", "LICENSE", "CITATION"}  # files of the first folder, with any extension
_TABLES = {DESCRIPTION, "participants.json", "samples.json", PARTICIPANTS, "samples.tsv"}
_DATATYPES = {
    *(
        "anat",
        "beh",
        "dwi",
        "eeg",
        "emg",
        "fmap",
        "func",
        "ieeg",
        "meg",
        "micr",
        "motion",
        "mrs",
        "nirs",
        "perf",
        "pet",
    ),
}
_IMAGES = (".nii", ".nii.gz")
_COMPANIONS = (".json", ".tsv", ".tsv.gz", ".bval", ".bvec")
MISPLACED = "it lies where BIDS has no such file or folder"


@dataclass(frozen=True, kw_only=True, slots=True)
class BidsImage:
    """One NIfTI image. `subject` and `session` are labels, "01" of sub-01 and "" where there is no session."""

    path: Path = field(repr=False)
    subject: str = field(repr=False)
    session: str
    datatype: str  # the folder: anat, func
    name: BidsName
    scanner: Scanner

    @property
    def suffix(self) -> str:
        """T1w, T2w, FLAIR, bold."""
        return self.name.suffix


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """What does not follow the standard, and why. The path is for opening, never for telling."""

    path: Path = field(repr=False)
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BidsFolder:
    """Images in the order of their paths; participants by the label of their subject, sessions by both labels."""

    images: tuple[BidsImage, ...]
    participants: dict[str, Participant] = field(repr=False)
    sessions: dict[tuple[str, str], Participant] = field(repr=False)
    left_out: tuple[LeftOut, ...]

    def person(self, image: BidsImage) -> Participant:
        """Whose an image is, as its session says, and where that does not, as the participants' table does."""
        whole = self.participants.get(image.subject, Participant())
        then = self.sessions.get((image.subject, image.session), whole)
        return Participant(
            age=whole.age if then.age is None else then.age, sex=then.sex or whole.sex, group=then.group or whole.group
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A folder in the tree, with the sidecars of the folders above it, outermost first."""

    folder: Path
    subject: str = ""
    session: str = ""
    sidecars: tuple[Sidecar, ...] = ()


_Found = Iterator[BidsImage | LeftOut]


def read_folder(folder: Path) -> BidsFolder:
    """What a BIDS folder holds. Raises DataError where it cannot be read, or has no folder of a subject."""
    if not folder.is_dir():
        raise DataError("the BIDS folder is not there; is it a share that is not mounted?")
    found = list(_root(_Place(folder=folder)))
    participants, wrong = _table(folder / PARTICIPANTS, "sub")
    sessions: dict[tuple[str, str], Participant] = {}
    for subject in sorted({one.subject for one in found if isinstance(one, BidsImage) and one.session}):
        name = f"sub-{subject}"
        rows, more = _table(folder / name / f"{name}_sessions.tsv", "ses")
        sessions |= {(subject, session): row for session, row in rows.items()}
        wrong += more
    return BidsFolder(
        images=tuple(one for one in found if isinstance(one, BidsImage)),
        participants=participants,
        sessions=sessions,
        left_out=(*(one for one in found if isinstance(one, LeftOut)), *wrong),
    )


def _table(path: Path, entity: Literal["sub", "ses"]) -> tuple[dict[str, Participant], list[LeftOut]]:
    """The rows of participants or sessions, none where there is no such file."""
    if not path.is_file() or path.is_symlink():
        return {}, []
    try:
        rows, wrong = read_participants(path, entity)
    except UnreadableFile as error:
        return {}, [LeftOut(path=path, reason=str(error))]
    return rows, [LeftOut(path=path, reason=reason) for reason in wrong]


def _root(place: _Place) -> _Found:
    folders, files, left_out = _entries(place.folder)
    subjects = [path for path in folders if path.name.startswith("sub-")]
    if not subjects:
        raise DataError("the folder has no subject's folder (sub-01), so it is not BIDS; check the data folder")
    if not any(path.name == DESCRIPTION for path in files):
        yield LeftOut(path=place.folder / DESCRIPTION, reason=f"there is no {DESCRIPTION}, which BIDS asks for")
    yield from left_out
    others = [path for path in files if path.name not in _TABLES and path.name.partition(".")[0] not in _TEXTS]
    inner = yield from _sidecars(place, others)
    for path in folders:
        if path in subjects:
            yield from _below(path, "sub", inner)
        elif path.name not in PASSED_BY:
            yield LeftOut(path=path, reason=MISPLACED)


def _below(folder: Path, key: str, above: _Place) -> _Found:
    """The folder of a subject or, in it, of a session."""
    label = bids_names.label(key, folder.name)
    if label is None:
        yield LeftOut(path=folder, reason=f"its name is not '{key}-' and letters or digits, as BIDS asks for")
        return
    place = _Place(
        folder=folder,
        subject=label if key == "sub" else above.subject,
        session=label if key == "ses" else "",
        sidecars=above.sidecars,
    )
    folders, files, left_out = _entries(folder)
    yield from left_out
    inner = yield from _sidecars(place, files)
    for path in folders:
        if path.name in _DATATYPES:
            yield from _images(path, inner)
        elif key == "sub" and path.name.startswith("ses-"):
            yield from _below(path, "ses", inner)
        else:
            yield LeftOut(path=path, reason=MISPLACED)


def _images(folder: Path, above: _Place) -> _Found:
    """The folder of a data type."""
    folders, files, left_out = _entries(folder)
    yield from left_out
    yield from (LeftOut(path=path, reason=MISPLACED) for path in folders)
    images = [path for path in files if path.name.endswith(_IMAGES)]
    inner = yield from _sidecars(above, [path for path in files if not path.name.endswith(_IMAGES)])
    for path in images:
        try:
            yield _image(path, folder.name, inner)
        except UnreadableFile as error:
            yield LeftOut(path=path, reason=str(error))


def _image(path: Path, datatype: str, place: _Place) -> BidsImage:
    name = bids_names.parsed(path.name)
    if (name.entity("sub"), name.entity("ses")) != (place.subject, place.session):
        raise UnreadableFile("its name is of another subject or session than its folder")
    if name.extension not in _IMAGES:
        raise UnreadableFile("its name has more than one extension")
    return BidsImage(
        path=path,
        subject=place.subject,
        session=place.session,
        datatype=datatype,
        name=name,
        scanner=scanner(name, place.sidecars),
    )


def _sidecars(place: _Place, files: list[Path]) -> Generator[LeftOut, None, _Place]:
    """The place with the sidecars among the files that lie beside images; other companions are passed by."""
    found: list[Sidecar] = []
    for path in files:
        if not path.name.endswith(_COMPANIONS):
            yield LeftOut(path=path, reason="it is neither a NIfTI image nor what BIDS has beside one")
        elif path.name.endswith(".json"):
            try:
                found.append(read_sidecar(path))
            except UnreadableFile as error:
                yield LeftOut(path=path, reason=str(error))
    found.sort(key=lambda sidecar: len(sidecar.name.entities))
    return replace(place, sidecars=(*place.sidecars, *found))


def _entries(folder: Path) -> tuple[list[Path], list[Path], list[LeftOut]]:
    """The folders and the regular files of a folder, by name, and what is neither."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda one: one.name)
    except OSError as error:
        return [], [], [LeftOut(path=folder, reason=f"the file system refuses it: {error.strerror}")]
    folders: list[Path] = []
    files: list[Path] = []
    left_out: list[LeftOut] = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            folders.append(folder / entry.name)
        elif entry.is_file(follow_symlinks=False):
            files.append(folder / entry.name)
        else:
            left_out.append(LeftOut(path=folder / entry.name, reason="it is a link, or no regular file"))
    return folders, files, left_out
