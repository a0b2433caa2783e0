"""A fully convolutional network for windows of a recording or of DNA (Wang, Yan and Oates 2017, arXiv:1611.06455).

Three convolutions of 8, 5 and 3 samples and global pooling; 8 bases are what DeepSEA's kernels take, too (Zhou and
Troyanskaya 2015, doi:10.1038/nmeth.3547). Group normalisation (arXiv:1803.08494) stands in the place of batch
normalisation, whose statistics would be a hospital's; maxima beside the means, for what is short in a window. Without
pooling it knows where in the window something is, as DeepSEA does.
"""

from torch import nn

from fedward_common.models.layers import GlobalMeanMax, convolution, group_norm, he_normal


def build(
    *, dims: int, size: tuple[int, ...], channels: int, classes: int, width: int, dropout: float, pooling: str
) -> nn.Module:
    """`width`, twice `width` and `width` channels; [n, channels, samples] to logits [n, classes]."""
    layers: list[nn.Module] = []
    inputs = channels
    for outputs, kernel in ((width, 8), (2 * width, 5), (width, 3)):
        layers += [
            convolution(dims, inputs, outputs, kernel, padding=kernel // 2, bias=False),
            group_norm(outputs),
            nn.ReLU(),
        ]
        inputs = outputs
    places = size[0] + 1  # the even kernel leaves one more
    pool, values = (GlobalMeanMax(), 2) if pooling == "global" else (nn.Flatten(), places)
    model = nn.Sequential(*layers, pool, nn.Dropout(dropout), nn.Linear(values * inputs, classes))
    he_normal(model)
    return model
