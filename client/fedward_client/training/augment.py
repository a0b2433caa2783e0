"""Augmentation by name, drawn from a named stream per image.

Each image of a batch draws its own numbers; the draw depends on the study's seed, the site, the round, the epoch and
the image's place in it, never on what ran before. What is drawn on an image, its masks or its boxes, moves with it; the
image is the same bits with them as without.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fedward_client.training.transforms import Transforms


class Augmentation:
    """The study's transforms in the order named, of its [input]; empty names leave a batch as it is."""

    def __init__(
        self,
        names: Sequence[str],
        size: tuple[int, ...],
        *,
        spacing: tuple[float, ...] | None = None,
        orientation: str | None = None,
    ) -> None:
        self._transforms: Transforms | None = None
        if names:
            from fedward_client.training import transforms  # MONAI takes seconds to import

            self._transforms = transforms.Transforms(names, size, spacing=spacing, orientation=orientation)

    def __call__(self, batch: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """Transform each image of `batch` [n, channels, *size] with the random state of its seed (below 2**32)."""
        if self._transforms is None:
            return batch
        return torch.stack(list(_each(self._transforms, batch, seeds)))

    def with_masks(
        self, batch: torch.Tensor, masks: torch.Tensor, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and `masks` [n, structures, *size] with them: of 0 and 1 stay 0 and 1, in their type."""
        if self._transforms is None:
            return batch, masks
        return _together(self._transforms, batch, masks, seeds, self._transforms.masks)

    def with_boxes(
        self, batch: torch.Tensor, boxes: torch.Tensor, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and `boxes` [n, most, 2 * dims + 1] with them, as `training.boxes` has them.

        A box whose middle leaves the image is none any more: its class is -1.
        """
        if self._transforms is None:
            return batch, boxes
        return _together(self._transforms, batch, boxes, seeds, self._transforms.boxes)


def _each(transforms: "Transforms", batch: torch.Tensor, seeds: Sequence[int]) -> Iterator[torch.Tensor]:
    """The images, one by one: until the next one, `transforms` remembers what was drawn for this one."""
    for image, seed in zip(batch, seeds, strict=True):
        transforms.set_random_state(seed=seed)
        yield torch.as_tensor(transforms(image))


def _together(
    transforms: "Transforms",
    batch: torch.Tensor,
    drawn: torch.Tensor,
    seeds: Sequence[int],
    follow: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    images, followed = [], []
    for image, each in zip(_each(transforms, batch, seeds), drawn, strict=True):
        images.append(image)
        followed.append(follow(each))
    return torch.stack(images), torch.stack(followed)
