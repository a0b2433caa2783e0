"""A hospital's answer to a train question, beside a bare torch loop over the same images. One thread."""

from collections.abc import Iterator

import torch

from fedward_client.handlers import Hospital
from fedward_common import models
from fedward_common.events import ignore
from fedward_common.records import Question
from fedward_common.testing import tiny_study
from fedward_simulations.benchmarks import Figure, fastest
from fedward_simulations.benchmarks._bare import train
from fedward_simulations.phantoms import PhantomSource

PATIENTS = 320
REPEATS = 5
STUDY = tiny_study(
    input={"size": [128, 128]},
    model={"name": "enhanced-alexnet"},
    training={"batch_size": 32, "optimizer": {"name": "adamw", "lr": 3e-4}},
)


def run() -> Iterator[Figure]:
    """One epoch of the demo's network."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield _measure()
    finally:
        torch.set_num_threads(threads)


def _measure() -> Figure:
    source = PhantomSource("north", PATIENTS, 1.0, 5)
    hospital, question = Hospital(source), Question(kind="train", study=STUDY, run="bench")
    arrays = models.initial_state(STUDY, 1)
    data, model = source.load(STUDY, "bench", ignore), models.network(STUDY)
    value, reference = fastest(
        [lambda: hospital.train(question, arrays, round_number=1), lambda: train(model, data, STUDY)], repeats=REPEATS
    )
    return Figure(
        name="executor-training",
        setting={
            "model": STUDY.model.name,
            "size": list(STUDY.input.size),
            "images": len(data.indices("train")),
            "batch_size": STUDY.training.batch_size,
            "threads": 1,
        },
        value=value,
        unit="s/epoch",
        reference="a bare torch loop over the same images",
        reference_value=reference,
    )
