"""The label table: a CSV file, as spreadsheets write it, whose rows say what a patient, a study or a file shows.

A row is of a patient, an accession number, a study or a file, by its key column, and is kept under the pseudonym of
that; of its cells only labels, one column to split by ("split", or what a study names) and, where [labels] names them,
sex and age are taken: names and birth dates that a table may hold as well are read past. Keys are compared as text,
exactly but for white space around them: "007" is not "7". Where a BIDS folder has no table of its own, its
participants.tsv is one: sub-01 there is the patient 01, and n/a is an empty cell.

Several rows of one key are several annotators'. They agree as [labels] agreement says, or there is no label: all of
them, or more than half (majority voting; Raykar et al. 2010, "Learning From Crowds", JMLR 11:1297).
"""

import posixpath
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass, field

from fedward_client.intake.bids_names import MISSING
from fedward_client.intake.columns import plain, years_of
from fedward_client.intake.delimited import TextFormat, rows
from fedward_client.intake.optout import listed
from fedward_client.label_settings import Agreement, LabelSettings
from fedward_client.site import Site
from fedward_common.errors import DataError, UnreadableFile

SPLIT = "split"
SEX, AGE = "sex of the patient", "age of the patient"  # names that no column of labels has
THERE, NOT_THERE, NOT_KNOWN = "1", "0", ""  # of a finding
_FINDING = {
    **dict.fromkeys(("1", "yes", "true", "present", "positive"), THERE),
    **dict.fromkeys(("0", "no", "false", "absent", "negative"), NOT_THERE),
    "": NOT_KNOWN,
}

Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTable:
    """By pseudonym of what a row is of, the columns that a study may use; what was left out, and why.

    The columns are the label column, or findings under the study's names with "1" (there), "0" (not there) or "" (not
    known), and the column to split by. A label column whose words stand for several labels is kept as findings. `SEX`
    and `AGE` in years are there where a row says them and no other of its key says otherwise, without a label too.
    """

    rows: dict[str, dict[str, str]]
    conflicts: int = 0  # labels that rows do not agree on, and patients, studies or files with two splits: left out
    settled: int = 0  # labels that rows do not agree on, but for a majority
    without_label: int = 0  # rows
    without_key: int = 0  # rows
    misaligned: int = 0  # rows with more cells than the header: which cell is which is not known
    unknown_words: dict[str, int] = field(default_factory=dict)  # rows a word that [labels] words says nothing of


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    """Where the columns of a table are."""

    width: int
    key: int
    labels: dict[str, int]  # by the names that they are kept under
    split: dict[str, int]  # one or none
    sex: int | None
    age: int | None
    annotator: int | None


@dataclass(slots=True)
class _Said:
    """What the rows of one key say: words by column and annotator."""

    labels: dict[str, dict[str | int, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    split: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    about: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # `SEX` and `AGE`


@dataclass(slots=True)
class _Reading:
    """A table as far as it was read."""

    site: Site
    columns: _Columns
    said: dict[str, _Said] = field(default_factory=lambda: defaultdict(_Said))  # by key
    meanings: dict[tuple[str, str], tuple[str, bool]] = field(default_factory=dict)  # of cells: they are few words
    left_out: Counter[str] = field(default_factory=Counter)  # rows, by reason
    unknown: Counter[str] = field(default_factory=Counter)  # rows, by word

    def take(self, number: int, cells: list[str]) -> None:
        """Add what a row says to what is said of its key."""
        row = [*(_cell(self.site, cell) for cell in cells), *[""] * (self.columns.width - len(cells))]
        if any(row[self.columns.width :]):
            self.left_out["misaligned"] += 1
            return
        if not row[self.columns.key]:
            self.left_out["without_key"] += 1
            return
        said = {name: row[position] for name, position in self.columns.labels.items()}
        self.unknown.update(sorted({cell for name, cell in said.items() if not self._meaning(name, cell)[1]}))
        words = {name: self._meaning(name, cell)[0] for name, cell in said.items()}
        about = self._about(row)
        if not any(words.values()) and not about:
            self.left_out["without_label"] += 1
            return
        named = row[self.columns.annotator] if self.columns.annotator is not None else ""
        found = self.said[_pseudonym(self.site, row[self.columns.key])]
        for name, said_so in about.items():
            found.about[name].add(said_so)
        for name, word in words.items():
            if word:
                found.labels[name][named or number].add(word)  # without a name, a row is an annotator of its own
        for name, position in self.columns.split.items():
            found.split[name].add(row[position])

    def _about(self, row: list[str]) -> dict[str, str]:
        """The sex and the age that a row says."""
        settings = self.site.labels
        found = dict[str, str]()
        if self.columns.sex is not None and (sex := settings.sex.value(row[self.columns.sex])):
            found[SEX] = sex
        if self.columns.age is not None:
            years = years_of(row[self.columns.age], TextFormat())
            found |= {} if years is None else {AGE: str(years)}
        return found

    def _meaning(self, name: str, cell: str) -> tuple[str, bool]:
        if (name, cell) not in self.meanings:
            self.meanings[name, cell] = _meaning(self.site.labels, name, cell)
        return self.meanings[name, cell]

    def table(self) -> LabelTable:
        """What the rows agree on."""
        rows: dict[str, dict[str, str]] = {}
        conflicts = settled = 0
        for key, found in self.said.items():
            if any(len(words) > 1 for words in found.split.values()):
                conflicts += 1
                continue
            row = {}
            for name in self.columns.labels:
                words = found.labels.get(name, {})
                word = agreed(words.values(), self.site.labels.agreement) if words else NOT_KNOWN
                conflicts += word is None
                settled += word is not None and len(set().union(*words.values())) > 1
                row[name] = word or NOT_KNOWN
            about = {name: next(iter(said)) for name, said in found.about.items() if len(said) == 1}
            if any(row.values()) or about:
                rows[key] = row | {name: next(iter(words)) for name, words in found.split.items()} | about
        return LabelTable(
            rows=rows,
            conflicts=conflicts,
            settled=settled,
            without_label=self.left_out["without_label"],
            without_key=self.left_out["without_key"],
            misaligned=self.left_out["misaligned"],
            unknown_words=dict(self.unknown.most_common()),
        )


def read_labels(site: Site, *, split: str = SPLIT) -> LabelTable:
    """The label table of a site, an empty one where it has none; `split` is the column that a study splits by.

    Raises DataError when the table cannot be read, is empty, or lacks a column.
    """
    if site.labels.file is None:
        return LabelTable(rows={})
    header, body = _rows(site)
    settings = site.labels
    names = (_finding_names(site) or (settings.label,)) if settings.columns else ()
    columns = _Columns(
        width=len(header),
        key=_position(header, settings.key, site),
        labels={name: _position(header, column, site) for name, column in zip(names, settings.columns, strict=True)},
        split={split: _position(header, split, site)} if split in header else {},
        sex=_position(header, settings.sex.column, site) if settings.sex.column else None,
        age=_position(header, settings.age, site) if settings.age else None,
        annotator=_position(header, settings.annotator, site) if settings.annotator else None,
    )
    if len(columns.labels) < len(settings.columns):
        raise DataError("[labels] words give two columns of findings one name; each finding is one column")
    reading = _Reading(site, columns)
    for number, cells in body:
        reading.take(number, cells)
    return reading.table()


def patient_ids(site: Site) -> tuple[str, ...]:
    """The ids of the label table's patients, each once: to ask the hospital's own archive for them, for nothing else.

    Who opted out is not asked for. Raises DataError when there is no table, when it or the opt-out list cannot be read,
    and when it is empty or lacks the column.
    """
    if site.labels.file is None:
        raise DataError(f"site '{site.name}' has no label table; put one into its folder, or name it under [labels]")
    header, body = _rows(site)
    patient, out = _position(header, site.labels.patient, site), listed(site)
    found = (cells[patient] for _, cells in body if len(cells) > patient and cells[patient])
    return tuple(dict.fromkeys(one for one in found if one not in out))


def said_of(rows: Mapping[str, Row], names: tuple[str, ...]) -> Row | None:
    """The row of an image: of the first of its `names` (pseudonyms) that the table has; None where it has none."""
    return next((rows[name] for name in names if name in rows), None)


def labels_in(site: Site, row: Row) -> tuple[str, ...]:
    """The labels of a row: its word, or the findings that are there; () where it has none."""
    if site.labels.findings:
        return tuple(name for name in _finding_names(site) if row.get(name) == THERE)
    word = row.get(site.labels.label, "")
    return (word,) if word else ()


def words_in(site: Site, row: Row) -> tuple[str, ...]:
    """The labels that a row says something of: its word, or the findings that are known to be there or not."""
    known = tuple(name for name in _finding_names(site) if row.get(name, NOT_KNOWN) != NOT_KNOWN)
    return known if site.labels.findings else labels_in(site, row)


def not_known_in(site: Site, row: Row) -> tuple[str, ...]:
    """The findings of which a row does not say whether they are there."""
    return tuple(name for name in _finding_names(site) if row.get(name, NOT_KNOWN) == NOT_KNOWN)


def agreed(words: Collection[Set[str]], rule: Agreement) -> str | None:
    """The one word of all annotators, or of more than half of them; None where there is none.

    `words` are what each of them said, at least one of them. One who said two words agrees with nobody.
    """
    votes = Counter(next(iter(said)) if len(said) == 1 else None for said in words)
    word, most = votes.most_common(1)[0]
    return word if most == votes.total() or (rule == "majority" and 2 * most > votes.total()) else None


def _meaning(settings: LabelSettings, name: str, cell: str) -> tuple[str, bool]:
    """What a cell says of a finding, or else in a study's words, "" for nothing; and whether it is a word for that."""
    word = settings.word(cell)
    if settings.findings and not settings.several:
        found = _FINDING.get(plain(word).casefold())
        return found or NOT_KNOWN, found is not None
    if settings.several:
        there = settings.several.get(word)
        word = NOT_KNOWN if there is None else THERE if name in there else NOT_THERE
    return word, not cell or settings.knows(cell)


def _finding_names(site: Site) -> tuple[str, ...]:
    """What findings are kept under: the study's names for them."""
    return tuple(map(site.labels.word, site.labels.findings))


def _pseudonym(site: Site, key: str) -> str:
    """As images have it: a file's is that of its path in the data folder."""
    by = site.labels.by
    if by == "file":
        key = posixpath.normpath(key.replace("\\", "/"))
    return site.pseudonym(by, site.patient_of(key) if by == "patient" else key)


def _cell(site: Site, cell: str) -> str:
    return "" if site.bids and cell == MISSING else cell


def _rows(site: Site) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header, and the rows with their numbers."""
    found = _read(site)
    _, header = next(found, (0, None))
    if header is None:
        raise DataError("the label table is empty; it needs a row of column names and a row for each patient")
    return header, found


def _read(site: Site) -> Iterator[tuple[int, list[str]]]:
    assert site.labels.file is not None
    wanted = {site.labels.key, site.labels.patient, *site.labels.columns}
    try:
        yield from rows(site.labels.file, TextFormat(encoding=site.labels.encoding), wanted)
    except UnreadableFile as error:
        raise DataError(
            f"the label table cannot be used: {error}. [labels] in site.toml names its file and its encoding (Excel "
            "writes gb18030 in China, cp1252 in western Europe)"
        ) from None


def _position(header: list[str], column: str, site: Site) -> int:
    """Where a column is. Found columns are named, unless none is known: then the first row may be a patient's."""
    if header.count(column) > 1:
        raise DataError(f"the label table has {header.count(column)} columns named '{column}'; keep one")
    if column in header:
        return header.index(column)
    advice = "name the table's own columns under [labels] in site.toml"
    if not {site.labels.key, site.labels.patient, *site.labels.columns} & set(header):
        wanted = ", ".join(map(repr, dict.fromkeys((site.labels.key, *site.labels.columns))))
        raise DataError(
            f"the first row of the label table names none of {wanted} among its {len(header)} columns; {advice}"
        )
    raise DataError(f"the label table has no column '{column}', only {', '.join(map(repr, header))}; {advice}")
