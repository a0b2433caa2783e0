"""A small network for tests, first trials and small images: three strided convolutions, global average pooling."""

from torch import nn

from fedward_common.models.layers import Centre, GlobalMean, convolution, group_norm, he_normal


def build(*, dims: int, size: tuple[int, ...], channels: int, classes: int, width: int) -> nn.Module:
    """`width`, twice and four times `width` channels; [n, channels, *size] to logits [n, classes]."""
    del size  # global pooling takes what comes
    layers: list[nn.Module] = [Centre()]
    inputs = channels
    for outputs in (width, 2 * width, 4 * width):
        layers += [
            convolution(dims, inputs, outputs, 3, stride=2, padding=1, bias=False),
            group_norm(outputs),
            nn.ReLU(),
        ]
        inputs = outputs
    model = nn.Sequential(*layers, GlobalMean(), nn.Linear(inputs, classes))
    he_normal(model)
    return model
