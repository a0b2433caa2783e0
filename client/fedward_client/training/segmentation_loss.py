"""What segmentation minimises: soft Dice and cross-entropy, of each structure by itself.

Dice (Milletari 2016, arXiv:1606.04797) counts a small structure as much as a large one, cross-entropy has a gradient
where nothing is found yet; the two together are the field's usual loss (Isensee 2021, doi:10.1038/s41592-020-01008-z).
A site that has the masks of some structures trains those.
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

SMOOTHING = 1.0  # voxels, above and below: a structure that is nowhere and found nowhere has a Dice of 1


def segmentation_loss(logits: torch.Tensor, masks: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice, a mean over structures, plus binary cross-entropy (nats), a mean over voxels, in float32.

    `logits` and `masks`, of 0 and 1, are [n, structures, *size]. Where `known` [n, structures] is -1 the item's mask of
    that structure is not known: it takes no part, whatever it holds, and its logits have no gradient. The Dice of a
    structure is over all voxels of the batch's items, not a mean over items: of an item without the structure nearly
    every Dice is 0, which would teach nothing. Gives 0 where nothing is known at all.
    """
    there = (known >= 0).reshape(*known.shape, *(1,) * (logits.dim() - 2))
    logits = logits.float().masked_fill(~there, 0.0)
    masks = masks.float().masked_fill(~there, 0.0)
    voxels = [axis for axis in range(logits.dim()) if axis != 1]
    found = torch.sigmoid(logits) * there
    dice = (2 * (found * masks).sum(voxels) + SMOOTHING) / ((found + masks).sum(voxels) + SMOOTHING)
    trained = (known >= 0).any(dim=0)
    entropy = (binary_cross_entropy_with_logits(logits, masks, reduction="none") * there).sum()
    entries = there.sum() * (logits.shape[2:].numel())
    return ((1 - dice) * trained).sum() / trained.sum().clamp(min=1) + entropy / entries.clamp(min=1)
