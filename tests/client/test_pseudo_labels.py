"""Images without a label, learned from by the model's own word: which, by whom, what of it leaves, and a resume."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedward_client.app import answer, simulated
from fedward_client.handlers import Hospital, network
from fedward_client.report.survey import survey
from fedward_client.scored import Scored, scoring
from fedward_client.site import Site
from fedward_client.site_data import SiteData
from fedward_client.source import SiteSource
from fedward_client.training.device import pick_device
from fedward_client.training.local import load_state, state_arrays
from fedward_client.training.loop import train
from fedward_client.training.pseudo_labels import pseudo_labelled
from fedward_client.training.recalibrate import recalibrated
from fedward_common import models
from fedward_common.events import Event, Listener, ignore
from fedward_common.records import Question, model_sha256
from fedward_common.study import Scale, StudySpec
from fedward_common.testing import FakeGrid, tiny_study
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine
from fedward_simulations.phantoms import PhantomSource

UNKNOWN = -1


@dataclass(frozen=True)
class Partly(PhantomSource):
    """A phantom hospital that knows the labels of so many training patients, its first ones."""

    known: int = 0

    def load(self, study: StudySpec, run: str, listener: Listener, scale: Scale | None = None) -> SiteData:
        data = super().load(study, run, listener, scale)
        data.labels[data.indices("train")[self.known :]] = UNKNOWN
        return data


def study(after: int | None = 1, **sections: Mapping[str, Any]) -> StudySpec:
    training = {
        "rounds": 3,
        "local_steps": 10,
        "local_epochs": None,
        "batch_size": 16,
        "optimizer": {"lr": 0.003},
        **sections.get("training", {}),
    }
    training["pseudo_labels_after"] = after
    return tiny_study(**{**sections, "cohort": {"unlabelled": after is not None}, "training": training})


def question(spec: StudySpec, kind: str = "train", **more: object) -> Question:
    return Question.model_validate({"kind": kind, "study": spec, "run": "run-1", **more})


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# Which ---------------------------------------------------------------------------------------------------------------


class Says(nn.Module):
    """A model that gives an image the odds in its pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, 0, 0].log()


def told(odds: Sequence[tuple[float, float]], labels: list[int]) -> Scored:
    """Training images of a patient each, with the odds of their labels; the last one is tested."""
    images = np.repeat(np.array(odds, np.float32)[:, :, None, None], 2, axis=2)
    numbers = np.arange(len(odds))
    data = SiteData(
        images=images,
        labels=np.array(labels, np.int64),
        patients=numbers,
        sides=np.where(numbers == len(odds) - 1, 2, 0).astype(np.int8),
        cohort_digest="",
    )
    return scoring(Says(), data, site="north", device=pick_device(), listener=ignore)


def test_the_likeliest_label_is_taken_and_no_known_one_is_changed() -> None:
    labels = [0, UNKNOWN, UNKNOWN, UNKNOWN, 1, UNKNOWN]
    scored = told([(1, 3), (3, 1), (3, 2), (1, 7), (7, 1), (1, 9)], labels)
    found = pseudo_labelled(scored, study())
    assert found.pseudo_labels is not None
    assert found.pseudo_labels.tolist() == [0, 0, 0, 1, 1, UNKNOWN], "the last is no training image"
    assert found.labels.tolist() == labels


ODDS = st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=2, max_size=8)


@given(ODDS, st.data())
def test_all_training_images_have_a_label_and_the_known_ones_their_own(
    odds: list[tuple[float, float]], draws: st.DataObject
) -> None:
    labels = draws.draw(st.lists(st.sampled_from([UNKNOWN, 0, 1]), min_size=len(odds), max_size=len(odds)))
    scored = told(odds, labels)
    found = pseudo_labelled(scored, study()).pseudo_labels
    assert found is not None
    known = (np.array(labels) != UNKNOWN) | (scored.data.sides != 0)
    assert np.array_equal(found[known], np.array(labels)[known])
    assert (found[~known] >= 0).all()


# A site's rounds -----------------------------------------------------------------------------------------------------


def trained(source: PhantomSource, spec: StudySpec, rounds: int) -> tuple[list[Any], dict[str, npt.NDArray[Any]]]:
    hospital, state = Hospital(source), dict(models.initial_state(spec, 42))
    answers = []
    for number in range(1, rounds + 1):
        told_back, update = hospital.train(question(spec), state, round_number=number)
        answers.append(told_back)
        state |= update
    return answers, state


@pytest.mark.parametrize("work", [{}, {"local_steps": None, "local_epochs": 2}], ids=["steps", "epochs"])
def test_all_training_patients_take_part_whatever_the_model_says(work: dict[str, Any]) -> None:
    """Who takes part is fixed: nothing that leaves depends on how sure a model is of single patients."""
    source, spec = Partly("north", 120, 2.0, 5, known=10), study(training=work)
    answers, state = trained(source, spec, 3)
    steps = [2, 8, 8] if work else [10, 10, 10]
    seen = zip([10, 60, 60], [10, 60, 60], steps, strict=True)
    assert [(one.patients, one.images, one.steps) for one in answers] == list(seen)
    plain = study(None, training=work)
    assert model_sha256(trained(source, spec, 1)[1]) == model_sha256(trained(source, plain, 1)[1])
    assert model_sha256(state) != model_sha256(trained(source, plain, 3)[1])


BATCH_NORM: dict[str, Any] = {
    "input": {"size": [32, 32]},
    "model": {"name": "resnet10", "options": {"norm": "batch"}},
    "training": {"batch_norm": "recalibrate", "local_steps": 1, "batch_size": 32},  # all images in the one
}


def test_a_model_is_measured_on_images_without_labels_before_its_word_is_taken() -> None:
    """The pseudo-labels are those that it gives with statistics of the hospital's own images."""
    source, spec = Partly("north", 40, 1.0, 5), study(**BATCH_NORM)
    start = dict(models.initial_state(spec, 42))
    update = Hospital(source).train(question(spec), start, round_number=2)[1]
    data, model, device = source.load(spec, "run-1", ignore), network(spec.canonical_json()), pick_device()
    assert not len(data.indices("train"))

    def by_hand(*, measured: bool) -> tuple[list[int], str]:
        load_state(model, start)
        with recalibrated(model, data, dims=2, device=device) if measured else nullcontext():
            found = pseudo_labelled(scoring(model, data, site="north", device=device, listener=ignore), spec)
        train(model, found, spec, site="north", round_number=2, device=device, listener=ignore)
        assert found.pseudo_labels is not None
        return found.pseudo_labels.tolist(), model_sha256(state_arrays(model))

    labels, learned = by_hand(measured=True)
    assert model_sha256(update) == learned
    assert labels != by_hand(measured=False)[0], "it makes a difference"


LAYERS: dict[str, dict[str, Any]] = {
    "input": {"size": [32, 32]},
    "model": {"name": "resnet10", "options": {"norm": "batch"}},
    "training": {"batch_norm": "local", "local_steps": 5},
}


@pytest.mark.parametrize("sections", [{}, pytest.param(LAYERS, marks=pytest.mark.long)], ids=["plain", "own layers"])
def test_a_cut_round_goes_on_with_the_same_bits(tmp_path: Path, sections: dict[str, Any]) -> None:
    """It finds the same labels again: from the model as it came, not as far as it was trained."""

    def source(folder: str) -> PhantomSource:
        return Partly("north", 80, 1.0, 5, tmp_path / folder, known=10)

    def cut(event: Event) -> None:
        if event.stage == "train" and event.done == 4:
            raise InterruptedError

    spec = study(**sections)
    start = trained(source("start"), spec, 1)[1]
    with pytest.raises(InterruptedError):
        Hospital(source("again"), cut).train(question(spec), start, round_number=2)
    assert list((tmp_path / "again").rglob("*.journal"))
    again, whole = (
        Hospital(source(folder)).train(question(spec), start, round_number=2) for folder in ("again", "whole")
    )
    assert model_sha256(again[1]) == model_sha256(whole[1])
    assert again[0].train_loss == whole[0].train_loss


def test_a_hospital_that_trains_alone_takes_its_own_models_word(tmp_path: Path) -> None:
    def alone(after: int | None) -> str:
        spec = study(after)
        source = Partly("north", 120, 2.0, 5, tmp_path, known=10)
        asked = question(spec, "evaluate", side="test", model="alone")
        return model_sha256(Hospital(source).alone(asked, models.initial_state(spec, 42))[1])

    assert alone(1) != alone(None)


@pytest.mark.parametrize("known", [0, 40])
def test_a_hospitals_folder_takes_part_and_its_report_says_how(site_folder: Callable[..., Path], known: int) -> None:
    labels = {f"PID-{n:03d}": ("benign", "malignant")[n % 2] if n < known else "" for n in range(60)}
    folder, spec = site_folder(labels, shape=(16, 16)), study()
    hospital = Hospital(SiteSource.open(folder))
    prepared = hospital.prepare(question(spec, "prepare"))
    state = models.initial_state(spec, 42)
    said, update = hospital.train(question(spec, score_incoming=True), state, round_number=2)
    assert said.patients == prepared.learn_from(unlabelled=True) > (prepared.patients["train"] or 0)
    assert model_sha256(update) != model_sha256(state)
    found = survey(Site.open(folder), spec, lambda _event: None).contract
    assert found is not None
    assert found.passes
    asked = {line.asked: line.found for line in found.lines}
    word = asked["Those without a label are learned from by the model's own word"]
    assert word == f"{prepared.unlabelled} training patients"


# A federation --------------------------------------------------------------------------------------------------------


def federated(spec: StudySpec, folder: Path) -> RunResult:
    """Of 200 training patients each, a and b know the label of ten, c of none."""
    known = {"a": 10, "b": 10, "c": 0}
    desks = [simulated(Hospital(Partly(name, 400, 0.5, 5, known=many))) for name, many in known.items()]

    def answering(number: int) -> Callable[[Message], Message]:
        return lambda message: answer(message, desks[number])

    return RoundEngine(
        grid=FakeGrid({number + 1: answering(number) for number in range(len(desks))}),
        study=spec,
        run="run-1",
        engine="embedded",
        folder=folder,
        on_round=lambda _row: None,
        listener=lambda _event: None,
    )()


def test_few_labels_and_many_images_give_a_better_model_and_a_hospital_without_labels_takes_part(
    tmp_path: Path,
) -> None:
    """Ten labels a hospital make a model that is right more often than not: docs/adr/0023 says where they do not."""
    training = {"rounds": 10, "seed": 1}
    word, alone = (federated(study(after, training=training), tmp_path / str(after)) for after in (4, None))
    assert ["".join(sorted(row.sites)) for row in word.history] == ["ab"] * 4 + ["abc"] * 6
    assert [row.sites["a"].patients for row in word.history] == [10] * 4 + [200] * 6
    assert ["".join(sorted(row.sites)) for row in alone.history] == ["ab"] * 10
    assert word.history[-1].primary is not None
    assert alone.history[-1].primary is not None
    assert word.history[-1].primary > alone.history[-1].primary + 0.02
