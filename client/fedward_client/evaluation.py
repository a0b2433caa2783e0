"""Scoring a model on a site's own patients. Scores stay here; sketches and finished figures leave."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward_client.cache import SiteData
from fedward_client.split import Side
from fedward_client.training.device import Device
from fedward_common.events import Event, Listener
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
    return evaluate_scores(
        predict(model, data, indices, study=study, site=site, device=device, listener=listener),
        data.labels[indices],
        data.patients[indices],
        study=study,
        thresholds=thresholds,
        min_cell=min_cell,
    )


def predict(
    model: nn.Module,
    data: SiteData,
    indices: npt.NDArray[np.int64],
    *,
    study: StudySpec,
    site: str,
    device: Device,
    listener: Listener,
) -> npt.NDArray[np.float64]:
    """Probabilities [len(indices), labels] of the images at `indices`, in that order.

    They add up to 1 over the labels, but where an image may have several: then each label has its own.
    """
    device.place(model, len(study.input.size))
    model.eval()
    parts = []
    for start in range(0, len(indices), BATCH):
        images = np.ascontiguousarray(data.images[indices[start : start + BATCH]])
        parts.append(probabilities(model, images, study=study, device=device))
        listener(Event(site=site, stage="evaluate", done=min(start + BATCH, len(indices)), total=len(indices)))
    return np.concatenate(parts) if parts else np.empty((0, 0))


def probabilities(
    model: nn.Module, images: npt.NDArray[np.float32], *, study: StudySpec, device: Device
) -> npt.NDArray[np.float64]:
    """Probabilities [n, labels] of `images` [n, channels, *size], of a model in evaluation that is on the device."""
    with torch.inference_mode(), torch.autocast(device.torch.type, dtype=torch.bfloat16, enabled=device.amp):
        batch = torch.from_numpy(images).to(device.torch, memory_format=device.layout(len(study.input.size)))
        logits = model(batch).double()
        found = torch.sigmoid(logits) if study.cohort.multi_label else torch.softmax(logits, dim=1)
    return found.cpu().numpy()
