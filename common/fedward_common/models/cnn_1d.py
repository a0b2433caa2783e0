"""A fully convolutional network for windows of a recording (Wang, Yan and Oates 2017, arXiv:1611.06455).

Three convolutions of 8, 5 and 3 samples and global pooling. Group normalisation (arXiv:1803.08494) stands in the place
of batch normalisation, whose statistics would be a hospital's; maxima beside the means, for what is short in a window.
"""

from torch import nn

from fedward_common.models.layers import GlobalMeanMax, convolution, group_norm, he_normal


def build(*, dims: int, size: tuple[int, ...], channels: int, classes: int, width: int, dropout: float) -> nn.Module:
    """`width`, twice `width` and `width` channels; [n, channels, samples] to logits [n, classes]."""
    del size  # global pooling takes what comes
    layers: list[nn.Module] = []
    inputs = channels
    for outputs, kernel in ((width, 8), (2 * width, 5), (width, 3)):
        layers += [
            convolution(dims, inputs, outputs, kernel, padding=kernel // 2, bias=False),
            group_norm(outputs),
            nn.ReLU(),
        ]
        inputs = outputs
    model = nn.Sequential(*layers, GlobalMeanMax(), nn.Dropout(dropout), nn.Linear(2 * inputs, classes))
    he_normal(model)
    return model
