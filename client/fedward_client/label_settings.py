"""[labels] of site.toml: the label table, which of its columns say what, and what the site's words mean in a study."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedward_client.intake import bids_root
from fedward_client.intake.columns import Sex
from fedward_common.errors import SettingsError

LABELS = "labels.csv"

Kind = Literal["patient", "accession", "study", "file"]  # what a row is of; also the kind of its pseudonym
Agreement = Literal["unanimous", "majority"]
PLURALS: Mapping[Kind, str] = {
    "patient": "patients",
    "accession": "accession numbers",
    "study": "studies",
    "file": "files",
}
_Text = Annotated[str, Field(min_length=1)]
_NO_SEX = Sex(column="", words={})
_Words = Annotated[tuple[str, ...], Field(strict=False)]  # TOML has lists, no tuples


class LabelsSection(BaseModel):
    """The section as it is written; "" stands for "none"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    file: _Text | None = None
    patient: _Text = "patient_id"
    accession: str = ""
    study: str = ""
    path: str = ""
    label: str = "label"
    findings: Annotated[tuple[_Text, ...], Field(strict=False)] = ()
    annotator: str = ""
    agreement: Agreement = "unanimous"
    words: dict[str, str | _Words] = {}
    sex: Sex = _NO_SEX
    age: str = ""
    encoding: _Text = "utf-8"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSettings:
    """The label table (None where there is none) and the names of its columns.

    A row is of what `by` says, which column `key` names. `label` is the column of labels, "" for none; where there are
    `findings`, each of these columns says of one finding whether it is there, and `label` is not read. `words` are the
    site's own words for labels and findings, and the study's for them; "" for a word that says nothing.

    Where words of the column of labels stand for several labels each, `several` has these by what `words` makes of
    them, and `findings` are all that any of them stands for.

    `sex` and `age` are columns (named "" for none) that say what files do not, for the groups of a study's figures.
    """

    file: Path | None = None
    patient: str = "patient_id"
    by: Kind = "patient"
    key: str = "patient_id"
    label: str = "label"
    findings: tuple[str, ...] = ()
    annotator: str = ""
    agreement: Agreement = "unanimous"
    words: Mapping[str, str] = field(default_factory=dict)
    several: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sex: Sex = _NO_SEX
    age: str = ""
    encoding: str = "utf-8"

    @property
    def columns(self) -> tuple[str, ...]:
        """The column that says each of `findings`; without any, the column of labels, where there is one."""
        if self.findings and not self.several:
            return self.findings
        return (self.label,) * max(len(self.findings), 1) if self.label else ()

    def word(self, text: str) -> str:
        """What a word of the site's is in a study: as `words` says, exactly, else but for case; else the word itself.

        Where several of `words` differ in case alone, only an exact one counts.
        """
        if text in self.words:
            return self.words[text]
        alike = {word for own, word in self.words.items() if own.casefold() == text.casefold()}
        return alike.pop() if len(alike) == 1 else text

    def knows(self, text: str) -> bool:
        """Whether a word is one of `words`, or of a study's that they lead to; any is where there are none."""
        known = {word.casefold() for pair in self.words.items() for word in pair}
        return not known or text.casefold() in known


def checked(section: LabelsSection, folder: Path, source: str, participants: Path | None = None) -> LabelSettings:
    """The settings of a site's folder. Raises SettingsError, which begins with `source`, for what cannot be.

    The table is what is named, or labels.csv, or else the `participants` of a BIDS folder where they say any label.
    Their columns have the standard's names, unless the section gives others.
    """
    file = folder / (section.file or LABELS)
    if section.file is None and not file.is_file() and participants is not None:
        columns = {"patient": "participant_id", "label": "group"}
        named = section.model_copy(update={k: v for k, v in columns.items() if k not in section.model_fields_set})
        there = bids_root.columns(participants)
        if named.label in there or (there and section.model_fields_set & {"label", "findings"}):
            file, section = participants, named
    if section.file is not None and not file.is_file():
        raise SettingsError(f"{source}: [labels] file names no file that exists; give the label table")
    try:
        codecs.lookup(section.encoding)
    except LookupError:
        raise SettingsError(
            f"{source}: [labels] encoding '{section.encoding}' is not known; common are utf-8, gb18030, cp1252"
        ) from None
    by, key = _key(section, source)
    words, several = _words(section)
    if several and section.findings:
        raise SettingsError(
            f"{source}: [labels] has findings beside a list in words, which is of the label column; keep one of them"
        )
    columns_named = [section.patient, *(section.findings or [section.label])]
    columns_named += [key] if by != "patient" else []
    columns_named += [section.annotator, section.sex.column, section.age]
    if twice := sorted({name for name in columns_named if name and columns_named.count(name) > 1}):
        raise SettingsError(f"{source}: [labels] names the column '{twice[0]}' twice; a column says one thing")
    return LabelSettings(
        file=file if file.is_file() else None,
        patient=section.patient,
        by=by,
        key=key,
        label=section.label,
        findings=section.findings or tuple(dict.fromkeys(chain(*several.values()))),
        annotator=section.annotator,
        agreement=section.agreement,
        words=words,
        several=several,
        sex=section.sex,
        age=section.age,
        encoding=section.encoding,
    )


def _words(section: LabelsSection) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """`words` and `several`: where there is a list, it stands under its own word, and one label is a list of one."""
    given = {own.strip(): said for own, said in section.words.items()}
    words = {own: said.strip() if isinstance(said, str) else own for own, said in given.items()}
    lists = {own: tuple(map(str.strip, said)) for own, said in given.items() if not isinstance(said, str)}
    ones = {word: (word,) for word in words.values() if word}
    return words, {**ones, **lists} if lists else {}


def _key(section: LabelsSection, source: str) -> tuple[Kind, str]:
    """What a row is of, and the column that says of which."""
    columns: dict[Kind, str] = {"accession": section.accession, "study": section.study, "file": section.path}
    named = [(kind, column) for kind, column in columns.items() if column]
    if len(named) > 1:
        raise SettingsError(f"{source}: [labels] names more than one of accession, study and path; keep one")
    return named[0] if named else ("patient", section.patient)
