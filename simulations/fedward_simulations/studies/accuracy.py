"""The share of all hospitals' test examples, images or rows, that a model tells rightly.

Beside a run's models stand classical learners.

A support vector machine (Cortes, Vapnik: Support-vector networks. Machine Learning 20, 1995) and nearest neighbours
(Cover, Hart: Nearest neighbor pattern classification. IEEE Trans. Inf. Theory 13, 1967), as scikit-learn has them,
learn from all hospitals' training and validation patients in one place: more than any hospital may do.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]
from sklearn.svm import SVC  # type: ignore[import-untyped]

from fedward_client.cache import load
from fedward_client.site import Site
from fedward_client.site_data import SiteData
from fedward_client.split import SIDES, Side
from fedward_common.models import network
from fedward_server.checkpoints import of_round
from fedward_server.result import RunResult

MODELS = ("federated", "pooled")
CLASSICAL: Mapping[str, type[SVC | KNeighborsClassifier]] = {
    "support vector machine": SVC,
    "nearest neighbours": KNeighborsClassifier,
}


def accuracies(out: Path, hospitals: Path) -> dict[str, list[float]]:
    """By model, of each seed of a simulation."""
    found: dict[str, list[float]] = {name: [] for name in (*MODELS, *CLASSICAL)}
    for seed in sorted(out.glob("seed-*")):
        run = RunResult.read(seed / "federated")  # whose scale is the pooled run's too
        data = [load(Site.open(hospitals / name), run.study, run.run, scale=run.scale) for name in sorted(run.sites)]
        images, labels = _of(data, ("test",))
        for model in MODELS:
            found[model].append(float(np.mean(_told(seed / model, images) == labels)))
        for name, learner in CLASSICAL.items():
            found[name].append(float(learner().fit(*_of(data, ("train", "validation"))).score(images, labels)))
    return found


def _of(data: Sequence[SiteData], sides: Sequence[Side]) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, features] and labels [n] of all hospitals."""
    chosen = [np.isin(each.sides, [SIDES.index(side) for side in sides]) for each in data]
    return (
        np.concatenate([each.images[rows] for each, rows in zip(data, chosen, strict=True)]),
        np.concatenate([each.labels[rows] for each, rows in zip(data, chosen, strict=True)]),
    )


def _told(folder: Path, images: np.ndarray) -> np.ndarray:
    """Which label a run's model gives each of the images."""
    run = RunResult.read(folder)
    classifier = network(run.study)
    kept = of_round(folder, run.kept_round, study_digest=run.study.digest).arrays
    classifier.load_state_dict({name: torch.from_numpy(array) for name, array in kept.items()})
    classifier.eval()
    with torch.no_grad():
        labels: np.ndarray = classifier(torch.from_numpy(images)).argmax(dim=1).numpy()
    return labels
