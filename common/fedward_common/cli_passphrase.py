"""Secrets on the command line, a backup's passphrase above all: from a file, or typed."""

from pathlib import Path
from typing import Annotated

import typer

from fedward_common.errors import UsageError

LEAST_PASSPHRASE = 12  # characters

PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="A file with the passphrase, which only its owner can read (chmod 600); else it is asked for."),
]


def passphrase_of(file: Path | None, *, new: bool) -> str:
    """From a file, or typed; a new one twice, and it is not short."""
    text = read_secret("Passphrase", file, new=new)
    if new and len(text) < LEAST_PASSPHRASE:
        raise UsageError(
            f"a passphrase has at least {LEAST_PASSPHRASE} characters: take some words that nobody would guess"
        )
    return text


def read_secret(what: str, file: Path | None, *, new: bool) -> str:
    """A secret from a file that only its owner can read, or typed, a new one twice. Raises UsageError in words."""
    from fedward_common import pki

    if file is None:
        typed: str = typer.prompt(what, hide_input=True, confirmation_prompt=new, err=True)
        return typed
    if not file.is_file():
        raise UsageError(f"{file.name} is no file that is there: name the one with the {what.lower()}, or leave it out")
    try:
        return pki.read_private(file).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise UsageError(f"{file.name} is not UTF-8 text: save the {what.lower()} as one line of UTF-8") from None
