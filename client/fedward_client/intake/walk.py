"""Every file of a site's data folder, each once.

Left out: what begins with a dot, the state folder, the label table, site.toml, and links: a link inside the data folder
leads to what is walked anyway, and one out of it to what was not shared.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from fedward_client.site import SETTINGS, Site
from fedward_common.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file, or a folder that cannot be opened (`refused` says why). The path is for opening, never for telling."""

    path: Path = field(repr=False)
    size: int = 0  # bytes
    mtime_ns: int = 0
    link: bool = False
    refused: str | None = None


def walk(site: Site) -> Iterator[Entry]:
    """The entries of the data folder, folder by folder in the order of names. Links are entries, not followed."""
    if not site.data.is_dir():
        raise DataError(f"the data folder of site '{site.name}' is not there; is it a share that is not mounted?")
    skipped = {site.state.resolve(), site.data / SETTINGS}
    if site.labels.file is not None:
        skipped.add(site.labels.file.resolve())
    return _walk(site.data, skipped)


def file_key(site: Site, path: Path) -> str:
    """The pseudonym of a file: of its path in the data folder."""
    return site.pseudonym("file", os.fspath(path.relative_to(site.data)))


def _walk(folder: Path, skipped: set[Path]) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        yield Entry(path=folder, refused=f"a folder that cannot be opened: {error.strerror}")
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith(".") or path in skipped:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path, skipped)
        elif entry.is_symlink():
            yield Entry(path=path, link=True)
        else:
            yield from _file(entry, path)


def _file(entry: "os.DirEntry[str]", path: Path) -> Iterator[Entry]:
    """A regular file; pipes, sockets and devices are none, nor is what was just removed."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return
    if S_ISREG(status.st_mode):
        yield Entry(path=path, size=status.st_size, mtime_ns=status.st_mtime_ns)
