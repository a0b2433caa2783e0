"""What a trained model is given, a folder or a file, as a hospital's folder."""

import shutil
from dataclasses import replace
from pathlib import Path

from fedward_client.intake.bids_root import is_bids
from fedward_client.site import KEY, KEY_BYTES, OPT_OUT, SETTINGS, STATE, Site
from fedward_common import pki
from fedward_common.errors import UsageError

EACH_FILE = "(.+)"  # a file that does not say whose it is, in a folder without settings, is a patient's of its own


def site_of(source: Path, scratch: Path, modality: str, *, part: bool) -> Site:
    """The input as a hospital's folder, under the settings of the hospital that it lies in, where it lies in one.

    Without, files that do not say what they are are taken as what the study asks for. A single file, and a `part` of a
    hospital's folder, is a copy at its place in that folder: what its files mean, and who is on its opt-out list, is
    said of the whole. Raises UsageError for another part, which would be long to copy.
    """
    folder = source if source.is_dir() else source.parent
    home = next((each for each in (folder, *folder.parents) if _is_hospitals(each)), None)
    whole = source == home or (home is None and source.is_dir())
    if not (whole or part or source.is_file()):
        raise UsageError(f"{source} is a part of the hospital's folder {home}: give that folder, or a single file")
    copies = scratch / "input"
    copies.mkdir()
    state = scratch / STATE
    state.mkdir(mode=0o700)
    pki.write_private(state / KEY, bytes(KEY_BYTES))  # no pseudonym leaves; a fixed key gives one order every time
    site = Site.open(home or copies, state=state)
    if home is None or not ((home / SETTINGS).is_file() or is_bids(home)):
        site = replace(site, data=home or folder, patient_pattern=EACH_FILE, modality=modality)
    if site.table is not None:  # who is new has no outcome yet
        columns = replace(site.table.columns, target=None, time=None, sex=None, age=None)
        site = replace(site, table=replace(site.table, columns=columns))
    if not whole:
        copy = copies / source.relative_to(site.data if source.is_relative_to(site.data) else folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True, copy_function=shutil.copyfile, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, copy)
        site = replace(site, data=copies)
    return replace(site, threads=1)  # other processes would open the folder anew


def _is_hospitals(folder: Path) -> bool:
    """Whether a folder is a hospital's own, whose settings and opt-out list hold for all below it."""
    own = (folder / SETTINGS, folder / OPT_OUT, folder / STATE / KEY)
    return any(path.is_file() for path in own) or is_bids(folder)
