"""A hospital's rounds without labels: one layer learns, that layer leaves, and a killed round goes on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedward_client.handlers import Hospital
from fedward_common import models
from fedward_common.errors import DataError
from fedward_common.events import Event, ignore
from fedward_common.records import Question, model_sha256
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.phantoms import PhantomSource

NETWORKS = [name for name in models.names() if models.unsupervised_layers(name, {})]
WORK = {"rounds": 2, "local_epochs": 4, "batch_size": 8, "optimizer": {"name": "adam", "lr": 0.0005}}


class CutError(Exception):
    """The site is killed."""


def study(name: str) -> StudySpec:
    layers = models.unsupervised_layers(name, {})
    return tiny_study([WORK] * layers, model={"name": name}, training={"rounds": 1})


def question(spec: StudySpec) -> Question:
    return Question(kind="train", study=spec, run="run-1")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_learns_from_examples_and_leaves_alone(name: str) -> None:
    spec, hospital = study(name), Hospital(PhantomSource("north", 40, 2.0, 5))
    state, losses = dict(models.initial_state(spec, 42)), {}
    for number in range(1, spec.rounds + 1):
        layer = spec.layer(number)
        trained, update = hospital.train(question(spec), state, round_number=number)
        own = {key for key in state if layer is None or models.of_layer(key, layer)}
        assert update.keys() == own
        assert (trained.steps, trained.patients) == (4 * 3 if layer is not None else 3, 20)
        if layer is not None:
            assert all(not np.array_equal(update[key], state[key]) for key in own)
            losses[number] = trained.train_loss
        state |= update
    assert all(losses[number + 1] < losses[number] for number in range(1, len(losses), 2))


def test_labels_play_no_part() -> None:
    """The same images with other labels give the same layer."""

    class Relabelled(PhantomSource):
        def load(self, *args: object, **more: object) -> object:  # type: ignore[override]
            data = super().load(*args, **more)  # type: ignore[arg-type]
            data.labels[:] = 0
            return data

    spec = study("dbn")
    first, second = (
        Hospital(source("north", 40, 2.0, 5)).train(question(spec), models.initial_state(spec, 42), round_number=1)
        for source in (PhantomSource, Relabelled)
    )
    assert model_sha256(first[1]) == model_sha256(second[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_phase_that_goes_astray_says_which_rate_to_lower(name: str) -> None:
    work = {**WORK, "optimizer": {"name": "sgd", "lr": 1e4}}
    units = {"visible": "gaussian"} if name in {"rbm", "dbn"} else {}  # binary ones saturate, and stay numbers
    spec = tiny_study(
        [work], model={"name": name, "options": units}, input={"intensity": "zscore"}, training={"rounds": 1}
    )
    with pytest.raises(DataError, match=r"lower \[\[phases\]\] optimizer.lr"):
        Hospital(PhantomSource("north", 40, 2.0, 5)).train(
            question(spec), models.initial_state(spec, 42), round_number=1
        )


def test_a_cut_round_of_a_sampling_layer_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """Contrastive divergence draws its samples: from where the killed round had come to."""
    spec, start = study("rbm"), models.initial_state(study("rbm"), 42)

    def cut(event: Event) -> None:
        if event.stage == "train" and event.done == 8:
            raise CutError

    with pytest.raises(CutError):
        Hospital(PhantomSource("north", 40, 2.0, 5, tmp_path), cut).train(question(spec), start, round_number=2)
    again, whole = (
        Hospital(PhantomSource("north", 40, 2.0, 5, folder), ignore).train(question(spec), start, round_number=2)
        for folder in (tmp_path, None)
    )
    assert model_sha256(again[1]) == model_sha256(whole[1])
    assert again[0].train_loss == whole[0].train_loss
