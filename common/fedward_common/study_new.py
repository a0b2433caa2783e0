"""A study begun from a template: its text, with other values where a principal investigator answered otherwise.

Every answer is judged by the study's own rules: what `fedward study check` would refuse is refused here, in its words.
"""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from fedward_common.errors import FedwardError, StudyError, UsageError
from fedward_common.study import load, loads
from fedward_common.study_faults import value_at
from fedward_common.study_task import Task
from fedward_common.study_templates import template_path
from fedward_common.toml_lines import KeyPath, locate

_KEYS: Mapping[str, KeyPath] = {
    "id": ("study", "id"),
    "title": ("study", "title"),
    "labels": ("cohort", "labels"),
    "positive": ("cohort", "positive"),
    "modality": ("cohort", "modality"),
    "min_sites": ("strategy", "min_sites"),
    "rounds": ("training", "rounds"),
}
_CALLED: Mapping[Task, str] = {
    "classification": "Labels as the hospitals write them, commas between",
    "segmentation": "Structures to be found, as the hospitals call them, commas between",
    "registration": "Structures whose overlap is measured, commas between; or none",
    "detection": "Kinds of finding as the hospitals call them, commas between",
}
_LEFT_OUT = {"positive": "each", "modality": "any"}  # the answers that leave a key out


def begun(template: str, answers: Mapping[str, Any]) -> str:
    """The text of a study: the template's, with the answers, which are named as in `_KEYS`.

    Without an answer about the positive label the template's stays, where it is still one of the labels. A purpose
    goes with its title. `StudyError` says what is wrong with the answers, one fault a line.
    """
    text = template_path(template).read_text(encoding="utf-8")
    old = loads(text).model_dump(mode="json")
    new: dict[KeyPath, Any] = {
        _KEYS[name]: None if _LEFT_OUT.get(name) == answer else answer for name, answer in answers.items()
    }
    if "positive" in answers and answers["positive"] in answers.get("labels", ()):  # also one that is called "each"
        new[_KEYS["positive"]] = answers["positive"]
    if answers.get("labels") == [] and old["study"]["task"] == "registration":
        new["evaluation", "primary"] = "loss"  # no structure is there to be scored
    if value_at(old, _KEYS["positive"]) not in new.get(_KEYS["labels"], old["cohort"]["labels"]):
        new.setdefault(_KEYS["positive"], None)
    changes = {key: value for key, value in new.items() if value != value_at(old, key)}
    if _KEYS["title"] in changes:
        changes["study", "purpose"] = None
    study = f"# From the template {template}, whose words the comments are.\n{_edited(text, changes)}"
    try:
        loads(study)
    except StudyError as error:
        faults = (line.partition(": ")[2] for line in str(error).splitlines())  # there is no file yet to have lines
        raise StudyError("\n".join(faults)) from None
    return study


def _edited(text: str, changes: Mapping[KeyPath, Any]) -> str:
    """A template's text with other values, None for no such key; a changed line loses its comment, told of the old."""
    rows, lines = text.split("\n"), locate(text)
    ends = {key: lines.get(key, lines[key[:-1]]) for key in changes}  # a new key stands behind its section's header
    for key in sorted(ends, key=ends.__getitem__, reverse=True):
        value = changes[key]
        rows[ends[key] - (key in lines) : ends[key]] = [] if value is None else [f"{key[-1]} = {_toml(value)}"]
    return "\n".join(rows)


def _toml(value: str | int | list[str]) -> str:
    """As JSON writes it; of bytes that were no text there remains an escape that TOML refuses."""
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()


def write(template: str, answers: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write the study to `ID.toml` in this folder. `UsageError` where such a file is and `overwrite` was not said."""
    text = begun(template, answers)
    path = _path(loads(text).study.id, overwrite=overwrite)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; change to a folder of your own") from None
    return path


def _path(name: str, *, overwrite: bool) -> Path:
    path = Path(f"{name}.toml")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is here already: give the study another short name, or say --overwrite")
    return path


def ask(*, overwrite: bool = False) -> tuple[str, dict[str, Any]]:
    """Ask at the terminal for a template, then for what `begun` takes; a wrong answer is refused and asked for anew."""
    template = _prompt("Which one is nearest to your study", "image-classification", _template)
    given = load(template_path(template))
    answers: dict[str, Any] = {}

    def put(question: str, default: object, read: Callable[[str], dict[str, Any]]) -> None:
        def checked(text: str) -> dict[str, Any]:
            found = {**answers, **read(text)}
            begun(template, found)
            _path(found["id"], overwrite=overwrite)
            return found

        answers.update(_prompt(question, default, checked))

    put("Short name: lower-case letters, digits and hyphens", given.study.id, lambda text: {"id": text})
    put("Title, which people read above the results", given.study.title, lambda text: {"title": text})
    task = given.study.task
    if task != "survival":  # whose labels say how a follow-up ended
        put(_CALLED[task], ", ".join(given.cohort.labels), lambda text: _labels(text, task))
    if task == "classification":
        several = len(answers["labels"]) > 2  # two labels need one that is looked for
        kept = given.cohort.positive if given.cohort.positive in answers["labels"] else None
        question = "Which of them is looked for" + "; or each, against the others" * several
        put(question, kept or ("each" if several else None), lambda text: {"positive": text})
    if given.input.kind == "image":
        modality = given.cohort.modality or "any"
        put("Modality in DICOM's letters: US, CT, MR, MG, …; or any", modality, lambda text: {"modality": text})
    put("At least how many hospitals", given.strategy.min_sites, lambda text: {"min_sites": _number(text)})
    put("How many rounds of training", given.training.rounds, lambda text: {"rounds": _number(text)})
    return template, answers


def _prompt(question: str, default: object, read: Callable[[str], Any]) -> Any:
    def value(text: object) -> Any:
        try:
            return read(str(text).strip())
        except FedwardError as error:
            raise typer.BadParameter(str(error)) from None  # has the question asked anew

    return typer.prompt(question, default=default, value_proc=value)


def _template(text: str) -> str:
    template_path(text)
    return text


def _labels(text: str, task: Task) -> dict[str, Any]:
    """One that holds a comma stands in double quotes."""
    labels = [label.strip() for label in next(csv.reader([text], skipinitialspace=True), [])]
    if task != "classification":
        return {"labels": [] if labels == ["none"] and task == "registration" else labels}
    return {"labels": labels, "positive": labels[0] if labels else None}  # which one is looked for is the next question


def _number(text: str) -> int | str:
    """What is no number stays as it is, for the study's rules to refuse."""
    try:
        return int(text)
    except ValueError:
        return text
