"""The studies that come with Fedward, for a principal investigator to run or to copy."""

from importlib.resources import files
from pathlib import Path

from fedward_common.errors import UsageError
from fedward_common.study_faults import near

_FOLDER = Path(str(files("fedward_common"))) / "studies"


def template_names() -> tuple[str, ...]:
    """Names of the templates, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def template_path(name: str) -> Path:
    """Where a template's file is; a name that none has is a `UsageError`."""
    names = template_names()
    if name not in names:
        raise UsageError(f"no template is called '{name}'{near(name, names)}; templates: {', '.join(names)}")
    return _FOLDER / f"{name}.toml"


def find(study: str) -> Path:
    """The file that a person means by `study`: a file's path, or a template's name. Neither is a `UsageError`."""
    path = Path(study)
    if path.is_file():
        return path
    names = template_names()
    if study not in names:
        raise UsageError(
            f"no study file '{study}' is here, and no template has that name{near(study, names)}; "
            f"templates: {', '.join(names)}"
        )
    return template_path(study)
