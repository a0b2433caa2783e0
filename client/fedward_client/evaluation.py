"""Scoring a model on a site's own patients, by the study's task. Scores stay here; what of them leaves is finished."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward_client.cache import SiteData
from fedward_client.evaluation_of_masks import evaluate_registration, evaluate_segmentation
from fedward_client.scored import Indices, Scored, inference, on_device, scoring
from fedward_client.split import Side
from fedward_client.training.device import Device
from fedward_common.events import Listener
from fedward_common.metrics import Evaluation, evaluate_scores
from fedward_common.study import StudySpec

BATCH = 64


def evaluate(
    model: nn.Module,
    data: SiteData,
    study: StudySpec,
    side: Side,
    *,
    site: str,
    thresholds: dict[str, float] | None,
    min_cell: int,
    device: Device,
    listener: Listener,
) -> Evaluation:
    """Sketches and figures of `model` on the site's patients of `side`, under the site's small-cell rule."""
    indices = data.indices(side)
    scored = scoring(model, data, site=site, device=device, listener=listener)
    match study.study.task:
        case "segmentation":
            return evaluate_segmentation(scored, indices, study, min_cell)
        case "registration":
            return evaluate_registration(scored, indices, study, min_cell)
        case _:
            return evaluate_scores(
                predict(scored, indices, study),
                data.labels[indices],
                data.patients[indices],
                study=study,
                thresholds=thresholds,
                min_cell=min_cell,
            )


def predict(scored: Scored, indices: Indices, study: StudySpec) -> npt.NDArray[np.float64]:
    """Probabilities [len(indices), labels] of the images at `indices`, in that order.

    They add up to 1 over the labels, but where an image may have several: then each label has its own.
    """
    parts = [
        probabilities(scored.model, scored.data.images[batch], study=study, device=scored.device)
        for batch in scored.batches(indices, BATCH)
    ]
    return np.concatenate(parts) if parts else np.empty((0, 0))


def probabilities(
    model: nn.Module, images: npt.NDArray[np.float32], *, study: StudySpec, device: Device
) -> npt.NDArray[np.float64]:
    """Probabilities [n, labels] of `images` [n, channels, *size], of a model in evaluation that is on the device."""
    with inference(device):
        logits = model(on_device(images, device)).double()
        found = torch.sigmoid(logits) if study.several else torch.softmax(logits, dim=1)
    return found.cpu().numpy()
