"""What each hospital has and what of it the study used, as far as its small-cell rule lets it be told."""

from collections.abc import Mapping

from fedward_client.catalog import Catalog
from fedward_client.cohort import freeze
from fedward_client.site import Site
from fedward_client.split import SIDES
from fedward_server.result import RunResult
from fedward_simulations.results import SiteReport


def site_report(site: Site, run: RunResult) -> SiteReport:
    """The report of one hospital on the cohort that it froze for `run`."""
    with Catalog.open(site) as catalog:
        counts = catalog.counts()
        scanners = sorted({f"{row.manufacturer} {row.device}".strip() for row in catalog.images()})
    cohort = freeze(site, run.study, run.run)

    def told(count: int) -> int | None:
        return count if count >= site.min_cell else None

    def all_told(named: Mapping[str, int]) -> dict[str, int | None]:
        return {name: told(count) for name, count in sorted(named.items())}

    labels = {item.patient: run.study.cohort.labels[item.label] for item in cohort.items}
    return SiteReport(
        name=site.name,
        min_cell=site.min_cell,
        images=told(counts.images),
        patients=told(counts.patients),
        labelled=told(counts.labelled_patients),
        labels={label: told(sum(one == label for one in labels.values())) for label in run.study.cohort.labels},
        sides={side: told(cohort.patients(side)) for side in SIDES},
        left_out=all_told(cohort.left_out),
        quarantined=all_told(counts.quarantine),
        scanners=tuple(scanners),
        transfer_syntaxes=all_told(counts.transfer_syntaxes),
        modalities=all_told(counts.modalities),
    )
