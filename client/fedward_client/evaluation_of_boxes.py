"""Scoring the findings of a detector on a site's own patients."""

import numpy as np
import torch

from fedward_client.scored import Indices, Scored
from fedward_client.training.detection import decoded, detection_loss
from fedward_common.metrics import Evaluation, evaluate_detections
from fedward_common.models import Detector
from fedward_common.study import StudySpec


def evaluate_detection(scored: Scored, indices: Indices, study: StudySpec, min_cell: int) -> Evaluation:
    """The boxes that are found in the images at `indices`, held against the true ones."""
    data, model = scored.data, scored.model
    assert data.targets is not None
    assert isinstance(model, Detector)  # none other is built
    anchors, levels = model.anchors, model.levels
    found, losses = [], list[float]()
    for batch in scored.batches(indices, study.training.batch_size):
        true = torch.from_numpy(np.ascontiguousarray(data.targets[batch]))
        with torch.inference_mode():
            output = model(scored.images(batch)).cpu()
            losses += [
                float(detection_loss(one[None], boxes[None], anchors, levels))
                for one, boxes in zip(output, true, strict=True)
            ]
            found += [
                (one.boxes.double().numpy(), one.scores.double().numpy(), one.classes.numpy())
                for one in decoded(output, anchors, study.input.size)
            ]
    return evaluate_detections(
        found,
        list(data.targets[indices]),
        losses,
        data.patients[indices],
        study=study,
        min_cell=min_cell,
        groups=data.groups_at(indices),
    )
