"""What a detector is trained to answer, how far it is from that, and the boxes that its answer means.

An answer is a network's output float32 or bfloat16 [n, anchors, classes + 2 * dims], as `models.retinanet` gives it,
beside its `anchors` [anchors, 2 * dims] and `levels`, how many of them each level has. The truth is boxes
[n, most, 2 * dims + 1], as `training.boxes` has them. All is computed in float32, under autocast too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from monai.apps.detection.utils.box_coder import BoxCoder
from monai.data.box_utils import batched_nms, clip_boxes_to_image
from monai.losses.focal_loss import sigmoid_focal_loss
from torch.nn.functional import smooth_l1_loss

from fedward_common.models.retinanet import placed

_ALPHA, _GAMMA = 0.25, 2.0  # Lin et al. 2017, arXiv:1708.02002, section 4.1
_BETA = 1 / 9  # where smooth L1 turns from a parabola into a line, as in the authors' code (Detectron)
_CANDIDATES = 300  # of an image, before those that overlap are dropped, which looks at each in turn

# The nearest 4 of each level; an anchor's middle need not lie in the box, for small findings have none in theirs.
_MATCHER = ATSSMatcher(num_candidates=4, center_in_gt=False)


class Detections(NamedTuple):
    """The findings in an image, the most certain first."""

    boxes: torch.Tensor  # float32 [found, 2 * dims] in voxels, within the image
    scores: torch.Tensor  # float32 [found] in [0, 1]
    classes: torch.Tensor  # int64 [found]


@torch.no_grad()
def matched(boxes: torch.Tensor, anchors: torch.Tensor, levels: Sequence[int]) -> torch.Tensor:
    """For each anchor the box [m, 2 * dims] that it is to find, or -1: int64 [anchors].

    ATSS (Zhang et al. 2020, arXiv:1912.02424, algorithm 1): of the anchors nearest to a box, those whose overlap is at
    least mean + standard deviation of theirs. A box that has none then gets the free anchor that overlaps it most.
    """
    if not len(boxes):
        return torch.full((len(anchors),), -1, device=anchors.device)
    overlaps, matches = _MATCHER(boxes, anchors, levels, 1)
    for box, its in enumerate(overlaps):
        if not (matches == box).any():
            matches[its.masked_fill(matches >= 0, -1).argmax()] = box
    return matches


def detection_loss(
    output: torch.Tensor, boxes: torch.Tensor, anchors: torch.Tensor, levels: Sequence[int]
) -> torch.Tensor:
    """Focal loss (nats) of all anchors and smooth L1 of those with a box, both a sum over a batch / anchors with a box.

    Lin et al. 2017, sections 3 and 4. An image without a box is one where every anchor is background; a batch of such
    images is divided by 1. Raises ValueError where a box has no volume.
    """
    with torch.autocast(output.device.type, enabled=False):
        anchors = anchors.to(output.device)
        coder = BoxCoder([1.0] * anchors.shape[1])
        logits, differences = _parts(output, anchors)
        total, positives = logits.new_zeros(()), 0
        for scores, shifts, rows in zip(logits, differences, boxes.to(output.device), strict=True):
            truth = rows[rows[:, -1] >= 0].float()
            matches = matched(truth[:, :-1], anchors, levels)
            found = matches >= 0
            its = truth[matches[found]]
            targets = torch.zeros_like(scores)
            targets[found, its[:, -1].long()] = 1
            wanted = coder.encode_single(its[:, :-1], anchors[found])
            total = total + sigmoid_focal_loss(scores, targets, gamma=_GAMMA, alpha=_ALPHA).sum()
            total = total + smooth_l1_loss(shifts[found], wanted, beta=_BETA, reduction="sum")
            positives += len(its)
        return total / max(positives, 1)


@torch.no_grad()
def decoded(
    output: torch.Tensor,
    anchors: torch.Tensor,
    size: tuple[int, ...],
    *,
    least_score: float = 0.02,
    most_overlap: float = 0.3,
    most: int = 100,
) -> list[Detections]:
    """What an output [n, …] finds in each image of `size`: at most `most` boxes, those of scores above `least_score`.

    Of two boxes of a class whose intersection over union is more than `most_overlap` the less certain one is dropped.
    """
    with torch.autocast(output.device.type, enabled=False):
        anchors = anchors.to(output.device)
        found = []
        for logits, differences in zip(*_parts(output, anchors), strict=True):
            classes, scores = logits.shape[1], logits.sigmoid().flatten()
            best = scores.argsort(descending=True, stable=True)[:_CANDIDATES]  # stable: equal ones in the same order
            best = best[scores[best] > least_score]
            whole = placed(differences[best // classes], anchors[best // classes])
            boxes, inside = map(torch.as_tensor, clip_boxes_to_image(whole, size))
            best = best[inside]
            kept = torch.as_tensor(batched_nms(boxes, scores[best], best % classes, most_overlap, most))
            found.append(Detections(boxes[kept], scores[best][kept], best[kept] % classes))
        return found


def _parts(output: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits [n, anchors, classes] and the differences [n, anchors, 2 * dims] in float32."""
    last = anchors.shape[1]
    whole = output.float()
    return whole[..., :-last], whole[..., -last:]
