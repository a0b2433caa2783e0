"""Rounds of a deployment that learns: a small CNN on handwritten digits at four hospitals, beside a bare torch loop.

The digits come to the sites as DICOM files with a label table, through scan, cohort and cache, as any images do.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedward_client.catalog import scan
from fedward_client.site import Site
from fedward_simulations.benchmarks import Figure, _bare, _digits
from fedward_simulations.benchmarks._noop_rounds import run_rounds
from fedward_simulations.federation import federation

SITES = 4
ROUNDS = 12
WARM_UP = 2


def run() -> Iterator[Figure]:
    """Seconds a round."""
    yield measure(sites=SITES, rounds=ROUNDS)


def measure(*, sites: int, rounds: int) -> Figure:
    """The median over rounds without the first and the last, of which there are at least three."""
    study = _digits.study(sites, rounds)
    hospitals = [_digits.OpenDigits(part, sites) for part in range(sites)]
    data = [one.data(study) for one in hospitals]
    before = _bare.round_s(data, study, max(rounds, WARM_UP + 1), WARM_UP)
    with tempfile.TemporaryDirectory(prefix="fedward-bench-") as scratch:
        folders = {one().name: Path(scratch) / one().name for one in hospitals}
        for part, folder in enumerate(folders.values()):
            _digits.plant(folder, part, sites)
            scan(Site.open(folder))
        with federation(Path(scratch) / "hub", folders, logs=Path(scratch) / "logs") as running:
            value = run_rounds(running, list(folders), study).middle_s
    return Figure(
        name="real-cnn-rounds",
        setting={
            "data": "digits",
            "sites": sites,
            "images": sum(len(site.labels) for site in data),
            "model": study.model.name,
            "rounds": rounds,
            "evaluation": True,
        },
        value=value,
        unit="s/round",
        reference="a bare torch loop, one thread, one hospital after the other",
        reference_value=min(before, _bare.round_s(data, study, max(rounds, WARM_UP + 1), WARM_UP)),
    )
