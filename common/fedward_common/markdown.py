"""Markdown of templates: whatever is put into one is text, which no reader takes for markup, HTML or a table's edge."""

import re
from collections.abc import Mapping
from typing import Any

_SPECIAL = re.compile(r"([\\`*_\[\]|~])")
_AT_START = re.compile(r"^(\d+(?=[.)] )|(?=[#+=-]))")  # where a heading or a list would start


class Markdown(str):
    """Text that is Markdown already and stays as it is."""

    __slots__ = ()


def render(package: str, template: str, values: Mapping[str, Any]) -> str:
    """A package's template, under `templates/`, with values. A name that `values` lacks is an error of jinja2."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=False,  # noqa: S701 - Markdown, not HTML: `finalize` escapes for both
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markdown) else plain(str(value)),
    )
    return environment.get_template(template).render(**values)


def plain(text: str) -> str:
    """Text that stays text, on one line."""
    escaped = _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("<", "&lt;").replace(">", "&gt;")
    return _AT_START.sub(r"\1\\", escaped)
