"""Enhanced AlexNet: the five convolutions of 2012, made to learn from a few hundred images in hospitals that differ.

Beside AlexNet (see `alexnet.py`), and why:
- group normalisation (Wu and He 2018, arXiv:1803.08494) after every convolution instead of local response normalisation
  after two: it learns at higher rates, and unlike batch normalisation it keeps no statistics of a hospital's scanner;
- global pooling instead of two hidden layers of 4096: a hundredth of the parameters to learn and to send every round,
  and any image size. The mean of each map (Lin et al. 2014, arXiv:1312.4400) stands beside its maximum (both, as in
  fastai, arXiv:2002.04688): a lesion is a strong answer in one place, which the mean alone dilutes;
- a third of the channels, dropout once, before the last layer; in 3-D too.

What stays: kernels of 11 (stride 4), 5, 3, 3 and 3, rectifiers, overlapping pooling (3, stride 2) after the first two.
"""

from torch import nn

from fedward_common.models.layers import Centre, GlobalMeanMax, convolution, group_norm, he_normal, max_pool


def build(*, dims: int, size: tuple[int, ...], channels: int, classes: int, width: int, dropout: float) -> nn.Module:
    """`width` channels in the first layer, up to four times that later; [n, channels, *size] to logits [n, classes]."""
    del size  # global pooling takes what comes

    def block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        layer = convolution(dims, inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        return [layer, group_norm(outputs), nn.ReLU(inplace=True)]

    model = nn.Sequential(
        Centre(),
        *(*block(channels, width, 11, stride=4), max_pool(dims, 3, 2, 1)),
        *(*block(width, 2 * width, 5), max_pool(dims, 3, 2, 1)),
        *block(2 * width, 4 * width, 3),
        *block(4 * width, 4 * width, 3),
        *block(4 * width, 4 * width, 3),
        *(GlobalMeanMax(), nn.Dropout(dropout), nn.Linear(8 * width, classes)),
    )
    he_normal(model)
    return model
