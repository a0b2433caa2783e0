"""Offline HTML pages: one file that loads nothing and needs no script.

A package keeps its page under `templates/`; the style that pages share is here, as "page.css". Whatever is put into a
page is escaped. The same values give the same bytes.
"""

from collections.abc import Mapping
from typing import Any


def render(package: str, template: str, values: Mapping[str, Any]) -> str:
    """The page of a package's template. A name that the template uses and `values` lacks is an error of jinja2."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("fedward_common")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
