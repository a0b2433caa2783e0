"""What training minimises of a batch, by a study's task."""

from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward_client.training.loss import criterion
from fedward_client.training.registration_loss import registration_loss
from fedward_client.training.segmentation_loss import segmentation_loss
from fedward_client.training.survival_loss import cox_loss
from fedward_common.models import Detector
from fedward_common.models.layerwise import Layered
from fedward_common.study import StudySpec


class Objective(Protocol):
    """The loss of a batch: a mean over its examples, or of what is in them, as the loss of a task says."""

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """`images` [n, channels, *size]; `labels` and `targets` as a site's data have them (`site_data.SiteData`)."""


def objective(
    model: nn.Module, study: StudySpec, labels: npt.NDArray[np.int64], layer: int | None, device: torch.device
) -> Objective:
    """Of the whole network, by the study's task; or of a layer, without labels. `labels` are those that are known."""
    if layer is not None:
        assert isinstance(model, Layered)  # none other is built
        return lambda images, _labels, _targets: model.loss(layer, images)
    match study.study.task:
        case "segmentation":
            return lambda images, labels, targets: segmentation_loss(model(images), targets, labels)
        case "detection":
            return _detector(model)
        case "registration":
            return lambda images, _labels, _targets: _registered(model, images, study.training.smoothness)
        case "survival":
            return lambda images, labels, times: cox_loss(model(images)[:, 0], times, labels)
        case _:
            loss_of = criterion(study, labels).to(device)
            return lambda images, labels, _targets: cast("torch.Tensor", loss_of(model(images), labels))


def _registered(model: nn.Module, images: torch.Tensor, smoothness: float) -> torch.Tensor:
    """Each image of a batch is brought onto the next one, the last onto the first."""
    fixed = images.roll(-1, dims=0)
    displacement = model(torch.cat([images, fixed], dim=1))
    return registration_loss(images, fixed, displacement, smoothness=smoothness)


def _detector(model: nn.Module) -> Objective:
    from fedward_client.training.detection import detection_loss  # MONAI takes seconds to import

    assert isinstance(model, Detector)  # none other is built
    anchors, levels = model.anchors, model.levels
    return lambda images, _labels, targets: detection_loss(model(images), targets, anchors, levels)
