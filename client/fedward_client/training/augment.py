"""Augmentation by name, drawn from a named stream per image.

Each image of a batch draws its own numbers; the draw depends on the study's seed, the site, the round, the epoch and
the image's place in it, never on what ran before.
"""

from collections.abc import Sequence

import torch


class Augmentation:
    """The study's transforms in the order named; empty names leave a batch as it is."""

    def __init__(self, names: Sequence[str], size: tuple[int, ...]) -> None:
        self._transform = None
        if names:
            from fedward_client.training.transforms import composed  # MONAI takes seconds to import

            self._transform = composed(names, size)

    def __call__(self, batch: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """Transform each image of `batch` [n, channels, *size] with the random state of its seed (below 2**32)."""
        if self._transform is None:
            return batch
        images = []
        for image, seed in zip(batch, seeds, strict=True):
            self._transform.set_random_state(seed=seed)
            images.append(torch.as_tensor(self._transform(image)))
        return torch.stack(images)
