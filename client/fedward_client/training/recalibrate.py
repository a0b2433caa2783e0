"""BatchNorm statistics measured anew on a site's own training images, for as long as a model is scored."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedward_client.site_data import SiteData
from fedward_client.training.device import Device

_BATCH = 64


@contextmanager
def recalibrated(model: nn.Module, data: SiteData, *, dims: int, device: Device) -> Iterator[None]:
    """Within it, running statistics are the means of those of the site's training batches; afterwards as before.

    No label and no augmentation takes part, and nothing is learned. Without training images they stay as they are.
    """
    layers = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    indices = data.indices("train", unlabelled=True)
    device.place(model, dims)
    before = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in layers]
    momenta = [layer.momentum for layer in layers]
    try:
        if layers and len(indices):
            model.eval()
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # torch's word for a mean over all batches
                layer.train()
            with torch.no_grad():
                for batch in np.array_split(indices, ceil(len(indices) / _BATCH)):
                    images = torch.from_numpy(np.ascontiguousarray(data.images[batch]))
                    model(images.to(device.torch, memory_format=device.layout(dims)))
        yield
    finally:
        for layer, buffers, momentum in zip(layers, before, momenta, strict=True):
            layer.momentum = momentum
            for name, buffer in layer.named_buffers():
                buffer.copy_(buffers[name])
