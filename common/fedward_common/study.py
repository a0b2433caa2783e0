"""A study: one TOML file that says what is trained, on whom, how, and what counts as success. Data only, never code.

`load` reads and checks a file, `StudySpec.digest` names it. What a hospital approves is that digest, so everything that
changes what a study does is inside: defaults, schema version, roster. A study that cannot work is refused here, with
the line, the key, the value and what would be valid, not in round one; all that is wrong is told at once.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedward_common.errors import StudyError
from fedward_common.study_cohort import Cohort
from fedward_common.study_compound import CompoundInput
from fedward_common.study_faults import Fault, explain, printable, report
from fedward_common.study_input import Input
from fedward_common.study_inputs import INPUTS, AnyInput, Scale, input_kind
from fedward_common.study_section import Fraction, Positive, Section, Slug
from fedward_common.study_sequence import SequenceInput
from fedward_common.study_series import SeriesInput
from fedward_common.study_small_sections import About, Evaluation, Model, Privacy, SiteEntry, Update
from fedward_common.study_spec import SCHEMA_VERSION, StudySpec
from fedward_common.study_split import Split
from fedward_common.study_start import Start
from fedward_common.study_strategy import Strategy
from fedward_common.study_table import FeatureScale, TableInput
from fedward_common.study_templates import find, template_names, template_path
from fedward_common.study_training import Optimizer, Phase, Training, Work
from fedward_common.toml_lines import KeyPath, locate

__all__ = [
    "SCHEMA_VERSION",
    "About",
    "AnyInput",
    "Cohort",
    "CompoundInput",
    "Evaluation",
    "FeatureScale",
    "Fraction",
    "Input",
    "Model",
    "Optimizer",
    "Phase",
    "Positive",
    "Privacy",
    "Scale",
    "Section",
    "SequenceInput",
    "SeriesInput",
    "SiteEntry",
    "Slug",
    "Split",
    "Start",
    "Strategy",
    "StudySpec",
    "TableInput",
    "Training",
    "Update",
    "Work",
    "find",
    "load",
    "loads",
    "resolved",
    "template_names",
    "template_path",
]


def load(path: Path | str) -> StudySpec:
    """Read and check a study file (UTF-8 TOML); whatever is wrong with it is a `StudyError`, one fault a line."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise StudyError(f"{path}, line {line}: is no UTF-8 text; save the file as UTF-8") from None
    return loads(text, str(path))


def loads(text: str, source: str = "study") -> StudySpec:
    """Read and check the text of a study; `source` names it in a `StudyError`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(_syntax_fault(str(error), text, source)) from None
    except RecursionError:
        raise StudyError(f"{source}: is nested too deeply for a study") from None
    return _validated(document, locate(text), source)


def resolved(spec: StudySpec, *, sites: Sequence[SiteEntry] | None = None, seed: int | None = None) -> StudySpec:
    """A copy with the roster of a run and a seed, checked anew; what does not fit is a `StudyError`."""
    document = spec.model_dump(mode="json")
    if sites is not None:
        document["sites"] = [site.model_dump(mode="json") for site in sites]
    if seed is not None:
        document["training"]["seed"] = seed
    return _validated(document, {}, f"study {spec.study.id}")


def _syntax_fault(message: str, text: str, source: str) -> str:
    """`tomllib` says `… (at line 3, column 5)` or `… (at end of document)`."""
    reason, _, place = message.rstrip(")").rpartition(" (at ")
    found = re.fullmatch(r"line (\d+), column \d+", place)
    rows = text.rstrip().split("\n")
    line = int(found[1]) if found else len(rows)
    shown = printable(rows[min(line, len(rows)) - 1].strip())
    return f"{source}, line {line}: {shown}: this is no TOML: {reason.lower()}"


def _validated(document: Mapping[str, Any], lines: Mapping[KeyPath, int], source: str) -> StudySpec:
    try:
        return StudySpec.model_validate_json(_json(document))
    except ValidationError as error:
        faults = explain(error, document, StudySpec.model_json_schema())
    faults += [fault for fault in _faults(StudySpec, document) if fault not in faults]
    raise StudyError(report(faults, document, lines, source))


def _faults(kind: type[Section], document: Mapping[str, Any]) -> Iterator[Fault]:
    """What the rules say of a section's valid values: one wrong key does not hide what else is wrong."""
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if name not in document and not field.is_required():
            values[name] = field.get_default(call_default_factory=True, validated_data=values)
        elif name in document:
            annotation = field.rebuild_annotation()
            with suppress(ValidationError):  # its own faults are told already
                values[name] = TypeAdapter(annotation).validate_json(_json(document[name]), strict=True)
            section = INPUTS.get(input_kind(document[name])) if annotation == AnyInput else annotation
            if isinstance(section, type) and issubclass(section, Section) and isinstance(document[name], dict):
                inner = _faults(section, document[name])
                yield from (Fault((name, *fault.key), fault.reason) for fault in inner)
    yield from kind.faults(values)


def _json(value: Any) -> str:
    """JSON of what `tomllib` gave, dates as text: strict JSON takes a list for a tuple and text for a date."""
    return json.dumps(value, default=_date_text)


def _date_text(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    return str(value)  # a time of day, which no key takes
