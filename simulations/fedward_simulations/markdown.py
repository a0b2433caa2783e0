"""Pages of the documentation that are written from measurements: Markdown templates filled in."""

from typing import Any


def render(template: str, **values: Any) -> str:
    """A template of this package. Its values are words and numbers of ours: nothing is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fedward_simulations"),
        autoescape=False,  # noqa: S701 - Markdown, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)
