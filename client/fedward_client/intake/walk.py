"""Every file of a site's data folder, each once.

Left out: what begins with a dot, the state folder, the label table, the opt-out list, site.toml, and links: a link
inside the data folder leads to what is walked anyway, and one out of it to what was not shared. Of a BIDS folder the
folders are left out that hold no raw images.
"""

import hashlib
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG

from fedward_client.intake.bids_names import PARTICIPANTS, PASSED_BY
from fedward_client.site import SETTINGS, Site
from fedward_common.errors import DataError

_STAMP = struct.Struct("<Iqq")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file, or a folder that cannot be opened (`refused` says why). The path is for opening, never for telling."""

    path: Path = field(repr=False)
    size: int = 0  # bytes
    mtime_ns: int = 0
    link: bool = False
    refused: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """One folder: the files that it holds itself, how many, and a stamp that changes with any of them."""

    path: Path = field(repr=False)
    files: int
    stamp: str  # hex BLAKE2b over names, kinds, sizes and times; "" where the folder cannot be opened


def folders(site: Site) -> Iterator[Folder]:
    """The folders of the data folder that hold files, in the order of names; nothing but a stat is done for a file."""
    for folder, found in _tree(site.data, _skipped(site)):
        if isinstance(found, OSError):
            yield Folder(path=folder, files=1, stamp="")
        elif found:
            names = os.fsencode("\0".join([name for name, _ in found]))
            stamps = b"".join([_STAMP.pack(each.st_mode, each.st_size, each.st_mtime_ns) for _, each in found])
            stamp = hashlib.blake2b(names + stamps, digest_size=16).hexdigest()
            yield Folder(path=folder, files=len(found), stamp=stamp)


def files(site: Site, folder: Path) -> Iterator[Entry]:
    """The entries of one folder of the data folder, in the order of names."""
    try:
        _, found = _listing(folder, _skipped(site))
    except OSError as error:
        return _entries(folder, error)
    return _entries(folder, found)


def walk(site: Site) -> Iterator[Entry]:
    """The entries of the data folder, folder by folder in the order of names. Links are entries, not followed."""
    for folder, found in _tree(site.data, _skipped(site)):
        yield from _entries(folder, found)


Skipped = Mapping[Path, Collection[str]]  # by folder, the names in it that are left out


def _skipped(site: Site) -> Skipped:
    if not site.data.is_dir():
        raise DataError(f"the data folder of site '{site.name}' is not there; is it a share that is not mounted?")
    skipped = {site.state.resolve(), site.data / SETTINGS}
    boxes = None if site.boxes is None else site.boxes.file
    skipped |= {file.resolve() for file in (site.labels.file, site.opt_out, boxes) if file is not None}
    if site.bids:
        skipped |= {site.data / name for name in PASSED_BY}
        skipped.discard(site.data / PARTICIPANTS)  # a change of it changes what is known of images
    found: dict[Path, set[str]] = {}
    for path in skipped:
        found.setdefault(path.parent, set()).add(path.name)
    return found


def file_key(site: Site, path: Path) -> str:
    """The pseudonym of a file: of its path in the data folder."""
    return site.pseudonym("file", _within(site, path))


def folder_key(site: Site, folder: Path) -> str:
    """The pseudonym of a folder of the data folder."""
    return site.pseudonym("folder", _within(site, folder))


def _within(site: Site, path: Path) -> str:
    return os.fspath(path).removeprefix(os.fspath(site.data)).lstrip(os.sep)


Listed = list[tuple[str, os.stat_result]]  # files by name


def _tree(folder: Path, skipped: Skipped) -> Iterator[tuple[Path, Listed | OSError]]:
    """A folder and all below it, each with its files, or why it cannot be opened."""
    try:
        below, found = _listing(folder, skipped)
    except OSError as error:
        yield folder, error
        return
    yield folder, found
    for name in below:
        yield from _tree(folder / name, skipped)


def _listing(folder: Path, skipped: Skipped) -> tuple[list[str], Listed]:
    """The folders in a folder, and its regular files and links; pipes, sockets and devices are none of them.

    Names are looked up in the open folder: that takes a sixth less than by their whole paths.
    """
    left_out = skipped.get(folder, ())
    below: list[str] = []
    found: Listed = []
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = os.listdir(opened)  # noqa: PTH208 - Path lists no open folder
        for name in sorted([name for name in names if name[0] != "." and name not in left_out]):
            try:
                status = os.stat(name, dir_fd=opened, follow_symlinks=False)
            except FileNotFoundError:  # it was just removed
                continue
            except OSError:  # whatever it is, it cannot be reached: to open it says why
                below.append(name)
                continue
            kind = S_IFMT(status.st_mode)
            if kind in {S_IFREG, S_IFLNK}:
                found.append((name, status))
            elif kind == S_IFDIR:
                below.append(name)
    finally:
        os.close(opened)
    return below, found


def _entries(folder: Path, found: Listed | OSError) -> Iterator[Entry]:
    if isinstance(found, OSError):
        yield Entry(path=folder, refused=f"a folder that cannot be opened: {found.strerror}")
        return
    for name, status in found:
        if S_IFMT(status.st_mode) == S_IFLNK:
            yield Entry(path=folder / name, link=True)
        else:
            yield Entry(path=folder / name, size=status.st_size, mtime_ns=status.st_mtime_ns)
