"""An epoch's batches of a site's cached tensors, beside those of a tensor in memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedward_client.cache import load
from fedward_client.site import Site
from fedward_client.site_data import Images
from fedward_common.testing import tiny_study
from fedward_simulations.benchmarks import Figure, _dicom_files, fastest

FILES, BATCH, SIZE, REPEATS = 3_000, 32, 64, 10


def run() -> Iterator[Figure]:
    """3,000 images of 64 x 64."""
    yield measure(FILES)


def measure(files: int) -> Figure:
    """Seconds of an epoch in shuffled batches, the least of some."""
    study = tiny_study(input={"size": [SIZE, SIZE]}, cohort={"modality": "MR", "min_patients": 5})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _dicom_files.write(folder, files)
        images = load(Site.open(folder), study, "bench").images
        in_memory = np.array(images)
        order = np.random.default_rng(0).permutation(len(images))
        value, reference = fastest([lambda: _epoch(images, order), lambda: _epoch(in_memory, order)], repeats=REPEATS)
    return Figure(
        name="cache-epoch",
        setting={"images": len(images), "size": [SIZE, SIZE], "batch_size": BATCH},
        value=value,
        unit="s/epoch",
        reference="the same batches of an array in memory",
        reference_value=reference,
    )


def _epoch(images: Images, order: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> float:
    return sum(
        float(np.ascontiguousarray(images[batch])[0, 0, 0, 0]) for batch in np.array_split(order, len(order) // BATCH)
    )
