"""A hospital's answer to a train question, beside a bare torch loop over the same images. One thread."""

from collections.abc import Iterator

import torch

from fedward_client.handlers import Hospital
from fedward_client.source import Source
from fedward_common import models
from fedward_common.events import ignore
from fedward_common.records import Question
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.benchmarks import Figure, _digits, fastest
from fedward_simulations.benchmarks._bare import train
from fedward_simulations.phantoms import PhantomSource

PATIENTS = 320
REPEATS = 10
DIGITS_REPEATS = 60  # each takes a fiftieth of a second


def run() -> Iterator[Figure]:
    """One epoch of the demo's network, then one of a small CNN on handwritten digits, where little else is done."""
    study = tiny_study(
        input={"size": [128, 128]},
        model={"name": "enhanced-alexnet"},
        training={"batch_size": 32, "optimizer": {"name": "adamw", "lr": 3e-4}},
    )
    yield measure("phantoms", study, PhantomSource("north", PATIENTS, 1.0, 5), repeats=REPEATS)
    yield measure("digits", _digits.study(1, 1), _digits.OpenDigits(0, 1)(), repeats=DIGITS_REPEATS)


def measure(name: str, study: StudySpec, source: Source, *, repeats: int) -> Figure:
    """Seconds of one epoch, the least of `repeats`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        hospital, question = Hospital(source), Question(kind="train", study=study, run="bench")
        arrays = models.initial_state(study, 1)
        data, model = source.load(study, "bench", ignore), models.network(study)
        value, reference = fastest(
            [lambda: hospital.train(question, arrays, round_number=1), lambda: train(model, data, study)],
            repeats=repeats,
        )
    finally:
        torch.set_num_threads(threads)
    return Figure(
        name="executor-training",
        setting={
            "data": name,
            "model": study.model.name,
            "size": list(study.input.size),
            "images": len(data.indices("train")),
            "batch_size": study.training.batch_size,
            "threads": 1,
        },
        value=value,
        unit="s/epoch",
        reference="a bare torch loop over the same images",
        reference_value=reference,
    )
