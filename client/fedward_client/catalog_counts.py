"""A catalog in numbers, for a site's own people."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fedward_client.intake.labels import Row, labels_in, not_known_in, said_of, words_in
from fedward_client.site import Site


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """A catalog in numbers, for the site's own people: small cells included, so nothing of it leaves as it is.

    `files` is the sum of images, masks, recordings, tables, duplicates, not_dicom, dicomdir, without_pixels, links,
    opted_out and all quarantine, less the rows of tables among duplicates, opted_out and quarantine.
    """

    files: int
    images: int
    masks: int  # files that show where structures are in images
    recordings: int  # of wearable sensors
    recording_rows_left_out: int  # rows of them that could not be used
    tables: int
    table_rows: int  # that can be used
    duplicates: int  # further files of an instance that is there already, further rows of a table with the same
    not_dicom: int
    dicomdir: int
    without_pixels: int  # DICOM objects that are no images: reports, plans, structures
    links: int  # not followed
    opted_out: int  # images, recordings and rows of patients on the opt-out list
    quarantine: dict[str, int]  # files, and rows of tables, by reason
    patients: int
    labelled_patients: int
    patients_without_label: int
    images_without_label: int  # of patients who have a label on another image
    labels: dict[str, int]  # patients with images, by label; by finding, where it is there
    findings_not_known: dict[str, int]  # images with a label, by finding that their row says nothing of
    images_partly_labelled: int  # with some findings known and others not
    labels_without_images: int  # patients, accession numbers, studies or files of the label table
    label_conflicts: int  # labels that annotators do not agree on, and two splits of one patient or study: left out
    label_majorities: int  # labels that annotators do not agree on, settled by more than half of them
    label_rows_left_out: dict[str, int]  # by reason
    unknown_words: dict[str, int]  # rows of the label table, by word that [labels] words says nothing of
    modalities: dict[str, int]  # images, here and below
    manufacturers: dict[str, int]
    devices: dict[str, int]
    transfer_syntaxes: dict[str, int]
    sizes: dict[str, int]  # "rows x columns", and "x frames" where there are several

    @property
    def passed_by(self) -> str:
        """How many links were passed by and what to do, without a full stop; "" where there are none."""
        if not self.links:
            return ""
        return (
            f"{self.links} links were passed by: put the files themselves into the folder, those of DataLad and "
            "git-annex by unlocking them"
        )


@dataclass(kw_only=True, slots=True)
class LabelCounts:
    """What images and the label table have in common."""

    patients: set[str] = field(default_factory=set)
    labelled: set[str] = field(default_factory=set)  # patients with a label on any image
    pairs: set[tuple[str, str]] = field(default_factory=set)  # patient and label
    images_without: Counter[str] = field(default_factory=Counter)  # by patient
    not_known: Counter[str] = field(default_factory=Counter)  # images, by finding
    partly: int = 0
    without_images: int = 0

    @classmethod
    def of(
        cls, site: Site, table: Mapping[str, Row], images: Iterable[tuple[tuple[str, ...], tuple[str, ...]]]
    ) -> "LabelCounts":
        """Of the `names` of images, and of recordings and rows that say themselves what they show, in words."""
        found, used = cls(), set[str]()
        for names, own in images:
            patient = names[-1]
            used.update(name for name in names if name in table)
            found.patients.add(patient)
            if own:
                found.labelled.add(patient)
                found.pairs.update((patient, site.labels.word(word)) for word in own)
                continue
            row = said_of(table, names)
            if row is None or not words_in(site, row):
                found.images_without[patient] += 1
                continue
            found.labelled.add(patient)
            found.pairs.update((patient, label) for label in labels_in(site, row))
            missing = not_known_in(site, row)
            found.not_known.update(missing)
            found.partly += bool(missing)
        found.without_images = sum(bool(words_in(site, table[key])) for key in table.keys() - used)
        return found


def rows_left_out(said: Mapping[str, int], by: str) -> dict[str, int]:
    """Rows of the label table by the reason why they were left out; `by` is what its key column is of."""
    key = "accession number" if by == "accession" else by
    reasons = {"without label": "without_label", f"without {key}": "without_key", "misaligned": "misaligned"}
    return {reason: said[name] for reason, name in reasons.items() if said.get(name)}
