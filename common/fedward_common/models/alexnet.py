"""AlexNet: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012.

As in the paper: five convolutions of 96, 256, 384, 384 and 256 channels, local response normalisation after the first
two, overlapping pooling (3, stride 2), two hidden layers of 4096 with dropout 0.5.

It deviates where the paper is about two GPUs of 2012 or about ImageNet:
- one network, without the two halves that see each other only in places: 62,378,344 parameters with 3 channels and
  1000 classes, where the paper has about 60 million;
- the first convolution pads by 2, so that 224 as written and 227 as computed both give 6 x 6 maps in the end;
- adaptive average pooling to 6 x 6 stands before the hidden layers, so that other sizes work; 224 passes unchanged;
- inputs are grey values in [0, 1], centred, instead of pixels less ImageNet's mean image, and weights are drawn as in
  He et al. 2015 (arXiv:1502.01852) instead of with a standard deviation of 0.01, which such inputs do not get through.
"""

from torch import nn

from fedward_common.models.layers import AdaptiveMean, Centre, LocalResponseNorm, he_normal, max_pool


def build(*, dims: int, size: tuple[int, ...], channels: int, classes: int, width: int, dropout: float) -> nn.Module:
    """`width` units in each hidden layer; [n, channels, height, width] to logits [n, classes]."""
    del size  # adaptive pooling takes what comes
    pool = 3, 2
    model = nn.Sequential(
        Centre(),
        *(nn.Conv2d(channels, 96, 11, stride=4, padding=2), nn.ReLU(), LocalResponseNorm(), max_pool(dims, *pool)),
        *(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), LocalResponseNorm(), max_pool(dims, *pool)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), max_pool(dims, *pool)),
        *(AdaptiveMean(6), nn.Flatten()),
        *(nn.Dropout(dropout), nn.Linear(256 * 6 * 6, width), nn.ReLU()),
        *(nn.Dropout(dropout), nn.Linear(width, width), nn.ReLU()),
        nn.Linear(width, classes),
    )
    he_normal(model)
    return model
