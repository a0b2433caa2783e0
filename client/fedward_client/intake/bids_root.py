"""Whether a folder is in the Brain Imaging Data Structure, and what columns a table in it has. Reads nothing else."""

from contextlib import suppress
from pathlib import Path

from fedward_client.intake.bids_names import DESCRIPTION, PARTICIPANTS

MAX_HEADER = 2**16  # characters


def is_bids(folder: Path) -> bool:
    """Whether there is a subject's folder, and the description that the standard asks for or its table of people."""
    if not any((folder / name).is_file() for name in (DESCRIPTION, PARTICIPANTS)):
        return False
    return any(path.is_dir() and not path.is_symlink() for path in folder.glob("sub-*"))


def columns(table: Path) -> list[str]:
    """The columns of a table, none where there is no table or it cannot be read. Links are not followed."""
    if table.is_file() and not table.is_symlink():
        with suppress(OSError, UnicodeDecodeError), table.open(encoding="utf-8-sig") as file:
            return [cell.strip() for cell in file.readline(MAX_HEADER).split("\t")]
    return []
