"""What a model gives of a site's images, batch by batch, in their order: for whoever scores it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward_client.site_data import SiteData
from fedward_client.training.device import Device
from fedward_common.events import Event, Listener

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A model in evaluation on a site's images; made by `scoring`."""

    model: nn.Module
    data: SiteData
    site: str
    device: Device
    listener: Listener

    def batches(self, indices: Indices, size: int) -> Iterator[Indices]:
        """`indices` in batches of a size, and the news of it."""
        for start in range(0, len(indices), size):
            batch = indices[start : start + size]
            yield batch
            done = start + len(batch)
            self.listener(Event(site=self.site, stage="evaluate", done=done, total=len(indices)))

    def images(self, batch: Indices) -> torch.Tensor:
        """The images [n, channels, *size] of a batch, on the device."""
        return on_device(self.data.images[batch], self.device)


def scoring(model: nn.Module, data: SiteData, *, site: str, device: Device, listener: Listener) -> Scored:
    """`model`, brought to the device and into evaluation."""
    device.place(model, data.images.ndim - 2)
    model.eval()
    return Scored(model=model, data=data, site=site, device=device, listener=listener)


def on_device(images: npt.NDArray[np.float32], device: Device) -> torch.Tensor:
    """Images [n, channels, *size] as the device has them."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    return tensor.to(device.torch, memory_format=device.layout(tensor.dim() - 2))
