"""What the pages say, in each language: `texts/LANGUAGE/PAGE.toml`, the same keys in all, each of them in one file."""

import tomllib
from functools import cache
from pathlib import Path

LANGUAGES = ("en", "zh")
FOLDER = Path(__file__).parent / "texts"


@cache
def texts(language: str) -> dict[str, str]:
    """All words of a language."""
    pages = sorted((FOLDER / language).glob("*.toml"))
    return {key: text for page in pages for key, text in tomllib.loads(page.read_text("utf-8")).items()}


def chosen(cookie: str | None, accepted: str) -> str:
    """The language of a page: what the person chose, else the first that the browser asks for and there is."""
    if cookie in LANGUAGES:
        return str(cookie)
    for part in accepted.split(","):
        primary = part.partition(";")[0].strip().partition("-")[0].lower()
        if primary in LANGUAGES:
            return primary
    return LANGUAGES[0]
