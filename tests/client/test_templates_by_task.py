"""A site's round and its figures by the template of each task, on tiny sizes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fedward_client.boxing import MOST, NONE
from fedward_client.evaluation import evaluate
from fedward_client.site_data import SiteData
from fedward_client.split import SIDES
from fedward_client.training.device import pick_device
from fedward_client.training.local import load_state
from fedward_client.training.loop import train
from fedward_common import models
from fedward_common.events import ignore
from fedward_common.metrics import Evaluation, primary_value
from fedward_common.study import StudySpec, load, template_path
from fedward_common.study_small_sections import Model

PATIENTS = 12
SIZE = (16, 16, 16)
BY_TASK = pytest.mark.parametrize(
    ("template", "options", "training"),
    [
        ("liver-segmentation", {"width": 4, "depth": 1}, {"optimizer": {"name": "adamw", "lr": 0.01}}),
        ("brain-registration", {"width": 4, "depth": 1, "integration": 2}, {}),
        ("lung-nodule", {"width": 4, "levels": 1, "anchor": 8}, {"local_epochs": 20}),
    ],
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a site of the tests has: more of them wait for each other where several tests run at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(template: str, options: dict[str, Any], **training: Any) -> StudySpec:
    spec = load(template_path(template)).model_dump(mode="json")
    spec["input"] |= {"size": SIZE}
    spec["model"]["options"] = options
    spec["training"] |= {"local_epochs": 2, "local_steps": None, "batch_size": 4, **training}
    return StudySpec.model_validate_json(json.dumps(spec))


def balls() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images [n, 1, *SIZE] of a bright ball each, where it is, and its middle."""
    random = np.random.default_rng(0)
    middles = random.integers(5, 11, (PATIENTS, 3))
    places = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), axis=-1)
    inside = np.linalg.norm(places - middles[:, None, None, None], axis=-1) < 4
    images = 0.2 + 0.6 * inside + random.normal(0, 0.05, inside.shape)
    return images[:, None].astype(np.float32), inside.astype(np.uint8), middles


def boxes(middles: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Around the balls, as the cache has them; of every third image there is none."""
    found = np.zeros((PATIENTS, MOST, 7), np.float32)
    found[:, :, -1] = NONE
    found[:, 0] = np.column_stack([middles - 3.5, middles + 4.5, np.zeros(PATIENTS)])
    found[::3, 0, -1] = NONE
    return found


def data(study: StudySpec) -> SiteData:
    images, inside, middles = balls()
    found = study.study.task == "detection"
    targets = boxes(middles) if found else np.stack([inside] * len(study.cohort.labels), axis=1)
    labels = (targets[:, :1, -1] >= 0).astype(np.int64) if found else np.ones(targets.shape[:2], np.int64)
    return SiteData(
        images=images,
        labels=labels,
        targets=targets,
        patients=np.arange(PATIENTS),
        sides=np.array([SIDES.index("test" if number % 3 == 2 else "train") for number in range(PATIENTS)], np.int8),
        cohort_digest="0" * 64,
    )


def scored(study: StudySpec, rounds: int) -> tuple[list[float], Evaluation]:
    """The losses of rounds of training, and the figures on test patients."""
    site, model = data(study), models.network(study)
    load_state(model, models.initial_state(study, study.training.seed))
    device, losses = pick_device(), list[float]()
    for number in range(1, rounds + 1):
        result = train(model, site, study, site="a", round_number=number, device=device, listener=ignore)
        losses.append(result.loss)
    found = evaluate(model, site, study, "test", site="a", thresholds=None, min_cell=1, device=device, listener=ignore)
    return losses, found


@BY_TASK
def test_a_round_learns_and_is_scored_the_same_way_each_time(
    template: str, options: dict[str, Any], training: dict[str, Any]
) -> None:
    study = tiny(template, options, **training)
    losses, found = scored(study, 2)
    assert losses[-1] < losses[0]
    assert found.patients == 4
    assert found.loss is not None
    assert primary_value([found], study) is not None
    again, same = scored(study, 2)
    assert (again, same) == (losses, found)


OWN_DETECTOR = """
from torch import nn
from fedward_common.models import Architecture, ModelCard
from fedward_common.models.retinanet import RetinaNet

CARD = ModelCard(name="own-detector", title="Own", paper="none", dims=(3,), min_size=16, tasks=("detection",))
NET = Architecture(card=CARD, builder="plug_detector:Own")

class Own(nn.Module):
    def __init__(self, **kind):
        super().__init__()
        self.inside = RetinaNet(width=4, levels=1, anchor=8, **kind)
        self.anchors, self.levels = self.inside.anchors, [len(self.inside.anchors)]

    def forward(self, images):
        return self.inside(images)
"""


def test_a_detector_of_a_hospitals_own_learns_and_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plug_detector.py").write_text(OWN_DETECTOR)
    info = tmp_path / "plug_detector-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug_detector\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fedward.models]\nown-detector = plug_detector:NET\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    shipped = tiny("lung-nodule", {"width": 4, "levels": 1, "anchor": 8}, local_epochs=20)
    study = StudySpec.model_validate_json(
        shipped.model_copy(update={"model": Model(name="own-detector")}).canonical_json()
    )
    losses, found = scored(study, 2)
    assert losses[-1] < losses[0]
    assert primary_value([found], study) is not None


@BY_TASK
def test_groups_of_patients_have_the_figures_that_they_would_have_alone(
    template: str, options: dict[str, Any], training: dict[str, Any]
) -> None:
    fast = {"optimizer": {"name": "adamw", "lr": 0.01}}  # so that a registration moves something
    study = tiny(template, options, **fast | training)
    site, model, words = data(study), models.network(study), np.array(["F"] * 8 + ["M"] * 4)
    load_state(model, models.initial_state(study, 0))
    train(model, site, study, site="a", round_number=1, device=pick_device(), listener=ignore)
    assert site.targets is not None
    for each in (site.images, site.labels, site.targets):
        each[8] = each[0]  # so that the last woman is brought onto the same image as without the men

    def figures(which: npt.NDArray[np.bool_], groups: npt.NDArray[np.str_] | None) -> Evaluation:
        assert site.targets is not None
        own = replace(
            site,
            images=site.images[which],
            labels=site.labels[which],
            targets=site.targets[which],
            patients=np.arange(which.sum()),
            sides=np.full(which.sum(), SIDES.index("test"), np.int8),
            groups={} if groups is None else {"sex": groups},
        )
        return evaluate(
            model, own, study, "test", site="a", thresholds=None, min_cell=1, device=pick_device(), listener=ignore
        )

    found = figures(words != "", words)
    assert {name: group.patients for name, group in found.subgroups["sex"].items()} == {"F": 8, "M": 4}
    for name, group in found.subgroups["sex"].items():
        alone = figures(words == name, None)
        assert {*group.overlaps, *group.detections} == set(study.cohort.labels)
        for ours, own in ((group.overlaps, alone.overlaps), (group.unregistered, alone.unregistered)):
            assert ours.keys() == own.keys()
            for structure, overlap in ours.items():
                assert overlap.dice.model_dump() == pytest.approx(own[structure].dice.model_dump())
        for kind, boxes_of in group.detections.items():
            one = alone.detections[kind]
            assert (boxes_of.images, boxes_of.missed) == (one.images, one.missed)
            for found_in, found_alone in ((boxes_of.hits, one.hits), (boxes_of.false_positives, one.false_positives)):
                assert found_in is not None
                assert found_alone is not None
                assert found_in.total == found_alone.total
                assert (found_in.mean, found_in.sd) == (found_alone.mean, found_alone.sd)


def test_registration_of_one_patient_says_that_there_is_no_other() -> None:
    study = tiny("brain-registration", {"width": 4, "depth": 1, "integration": 0})
    site = data(study)
    alone = SiteData(
        images=site.images,
        labels=site.labels,
        targets=site.targets,
        patients=np.zeros(PATIENTS, np.int64),
        sides=site.sides,
        cohort_digest="0" * 64,
    )
    found = evaluate(
        models.network(study), alone, study, "test", site="a", thresholds=None, min_cell=1, device=pick_device(),
        listener=ignore,
    )  # fmt: skip
    assert (found.patients, found.overlaps) == (0, {})
    assert found.withheld is not None
    assert "no two patients" in found.withheld
