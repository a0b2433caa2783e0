"""Runs that a person has paused: a file in the run's folder says so, also to a process that is started anew.

A paused run ends what is in hand (gathering its sites, a round, scoring the last model, each hospital training alone);
then it asks nothing of a site until it may go on.
"""

from pathlib import Path

LOOK_S = 0.2  # how often a paused run looks whether it may go on
_FILE = "paused"


def is_paused(folder: Path) -> bool:
    """Whether the run of a folder is to pause."""
    return (folder / _FILE).exists()


def pause(folder: Path) -> None:
    """Let it pause after the round in hand."""
    (folder / _FILE).touch(mode=0o600)


def go_on(folder: Path) -> bool:
    """Let it go on; whether it was paused."""
    paused = is_paused(folder)
    (folder / _FILE).unlink(missing_ok=True)
    return paused
