"""What each hospital has and what of it the study used, as far as its small-cell rule lets it be told."""

from collections import Counter
from collections.abc import Mapping

from fedward_client.catalog import Catalog
from fedward_client.cohort import Cohort
from fedward_client.freezing import freeze, from_catalog
from fedward_client.site import Site
from fedward_client.split import SIDES, Side
from fedward_common.errors import DataError
from fedward_common.metrics import told, told_labels, told_total
from fedward_server.result import RunResult
from fedward_simulations.results import SiteReport


def site_report(site: Site, run: RunResult) -> SiteReport:
    """The report of one hospital on the cohort that it froze for `run`, or would have had it been large enough."""
    with Catalog.open(site) as catalog:
        counts = catalog.counts()
        scanners = Counter(f"{row.manufacturer} {row.device}".strip() for row in catalog.images())
    cohort = _cohort(site, run)
    left_out = cohort.left_out if cohort else {}
    apart = [counts.labelled_patients - len({item.patient for item in cohort.items if item.labelled}) if cohort else 0]
    apart += [counts.patients_without_label, *left_out.values()]
    sides: dict[Side, int] = {side: cohort.patients(side) for side in SIDES} if cohort else {}
    shown = told(sides, site.min_cell, known=[] if run.study.only_evaluates(site.name) else ["train"])
    labels = _labels(cohort, site.min_cell) if told_total(sides, shown, site.min_cell) is not None else {}

    def shy(count: int, *parts: int) -> int | None:
        """A count that stays home where it is small, or where a part of it that is small could be worked out."""
        return count if count >= site.min_cell and not any(0 < part < site.min_cell for part in parts) else None

    def all_shy(named: Mapping[str, int]) -> dict[str, int | None]:
        return {name: shy(count) for name, count in sorted(named.items())}

    return SiteReport(
        name=site.name,
        min_cell=site.min_cell,
        images=shy({"image": counts.images, "series": counts.recordings}.get(run.study.input.kind, counts.table_rows)),
        patients=shy(counts.patients, *apart),
        labelled=shy(counts.labelled_patients, *apart),
        labels=labels,
        sides=shown,
        left_out=all_shy(left_out),
        quarantined=all_shy(counts.quarantine),
        scanners=tuple(sorted(name for name, images in scanners.items() if images >= site.min_cell)),
        transfer_syntaxes=told(dict(sorted(counts.transfer_syntaxes.items())), site.min_cell),
        modalities=told(dict(sorted(counts.modalities.items())), site.min_cell),
    )


def _cohort(site: Site, run: RunResult) -> Cohort | None:
    """The hospital's cohort of the run; None where its data serve no study."""
    try:
        if site.name in run.sites:
            return freeze(site, run.study, run.run)
        return from_catalog(site, run.study)
    except DataError:
        return None


def _labels(cohort: Cohort | None, min_cell: int) -> dict[str, int | None]:
    """Patients a label, on all sides."""
    if cohort is None:
        return {}
    people = {item.patient for item in cohort.items if item.labelled}
    none = people - {item.patient for item in cohort.items if item.labels}
    return told_labels(cohort.label_counts(), len(people), len(none), min_cell)
