"""What training minimises: cross-entropy over labels that exclude each other, or over each label by itself.

Where an image may have several labels, one of which it is not known whether the image has it (-1) takes no part:
neither in the loss, nor in its gradient, nor in the weights of classes. A site that knows some labels trains those.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedward_common.study import StudySpec

Ints = npt.NDArray[np.int64]


def criterion(study: StudySpec, labels: Ints) -> nn.Module:
    """The loss of logits [batch, labels], for targets as `labels` [n] or [n, labels], the site's training images.

    A mean over a batch, weighed by class frequency among them where the study says so.
    """
    weighted, classes = study.training.class_weights, len(study.cohort.labels)
    if study.cohort.multi_label:
        pairs = (
            [class_weights(column[column >= 0], 2) for column in labels.T] if weighted else [torch.ones(2)] * classes
        )
        return MaskedBinaryCrossEntropy(torch.stack(pairs))
    return nn.CrossEntropyLoss(weight=class_weights(labels, classes) if weighted else None)


def class_weights(labels: Ints, classes: int) -> torch.Tensor:
    """Inverse class frequency, mean 1 over the images; a class without images weighs 1, as its pseudo-labels do."""
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.divide(len(labels) / max(present.sum(), 1), counts, where=present, out=np.ones(classes))
    return torch.as_tensor(weights, dtype=torch.float32)


class MaskedBinaryCrossEntropy(nn.Module):
    """The mean binary cross-entropy (nats) of known entries, by `weights` [labels, 2] of absent and present."""

    weights: torch.Tensor

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """`targets` [batch, labels] are 1, 0, or -1 where it is not known. Gives 0 where nothing is known at all."""
        known, there = targets >= 0, targets == 1
        weights = known * torch.where(there, self.weights[:, 1], self.weights[:, 0])
        losses = binary_cross_entropy_with_logits(logits, there.to(logits.dtype), reduction="none")
        return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)
