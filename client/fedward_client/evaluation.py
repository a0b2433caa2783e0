"""Scoring a model on a site's own patients, by the study's task. Scores stay here; what of them leaves is finished."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward_client.evaluation_of_masks import evaluate_registration, evaluate_segmentation
from fedward_client.scored import Indices, Scored, on_device, scoring
from fedward_client.site_data import SiteData
from fedward_client.split import Side
from fedward_client.training.device import Device
from fedward_common.events import Listener
from fedward_common.metrics import Evaluation, evaluate_scores, evaluate_survival, with_subgroups
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
        case "detection":
            from fedward_client.evaluation_of_boxes import evaluate_detection  # MONAI takes seconds to import

            return evaluate_detection(scored, indices, study, min_cell)
        case "registration":
            return evaluate_registration(scored, indices, study, min_cell)
        case "survival":
            assert data.targets is not None
            return evaluate_survival(
                predict(scored, indices, study)[:, 0],
                data.targets[indices],
                data.labels[indices],
                data.patients[indices],
                min_cell=min_cell,
                groups=data.groups_at(indices),
            )
        case _:
            scores = predict(scored, indices, study)
            return evaluate_classes(scores, data, indices, study, thresholds=thresholds, min_cell=min_cell)


def evaluate_classes(
    scores: npt.NDArray[np.float64],
    data: SiteData,
    indices: Indices,
    study: StudySpec,
    *,
    thresholds: Mapping[str, float] | None,
    min_cell: int,
) -> Evaluation:
    """The evaluation of probabilities of the images at `indices`, and of the groups of patients that `data` has."""
    given = (scores, data.labels[indices], data.patients[indices])
    whole = evaluate_scores(*given, study=study, thresholds=thresholds, min_cell=min_cell)
    groups = data.groups_at(indices)
    return with_subgroups(whole, *given, groups, study=study, thresholds=thresholds, min_cell=min_cell)


def predict(scored: Scored, indices: Indices, study: StudySpec) -> npt.NDArray[np.float64]:
    """`outputs` of the images at `indices`, in that order."""
    parts = [
        outputs(scored.model, scored.data.images[batch], study=study, device=scored.device)
        for batch in scored.batches(indices, BATCH)
    ]
    return np.concatenate(parts) if parts else np.empty((0, 1))


def outputs(
    model: nn.Module, images: npt.NDArray[np.float32], *, study: StudySpec, device: Device
) -> npt.NDArray[np.float64]:
    """What a model in evaluation that is on the device says of `images` [n, channels, *size].

    Probabilities [n, labels], which add up to 1 over the labels, but where an image may have several: then each label
    has its own. Of survival log-risks [n, 1].
    """
    with torch.inference_mode():
        found = model(on_device(images, device)).double()
        if study.study.task != "survival":
            found = torch.sigmoid(found) if study.several else torch.softmax(found, dim=1)
    given: npt.NDArray[np.float64] = found.cpu().numpy()
    return given
