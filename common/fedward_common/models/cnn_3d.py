"""VoxCNN: a plain network for volumes (Korolev, Safiullin, Belyaev, Dodonova 2017, arXiv:1701.06643).

As in the paper: ten 3 x 3 x 3 convolutions of 8, 16, 32 and 64 channels with pooling by 2 after each width, hidden
layers of 128 and 64 units, dropout 0.7 between them. Convolutions are padded, so that small volumes work. Group
normalisation (arXiv:1803.08494) follows every convolution and stands in the place of the paper's one batch
normalisation, whose statistics would be a hospital's. The hidden layers know where in the volume something is, so
volumes of another size need another network.
"""

from torch import nn

from fedward_common.models.layers import Centre, convolution, group_norm, he_normal, max_pool


def build(*, dims: int, size: tuple[int, ...], channels: int, classes: int, width: int, dropout: float) -> nn.Module:
    """`width` channels at first and eight times as many at last; [n, channels, *size] to logits [n, classes]."""
    layers: list[nn.Module] = [Centre()]
    inputs, places = channels, 1
    for outputs, convolutions in ((width, 2), (2 * width, 2), (4 * width, 3), (8 * width, 3)):
        for _ in range(convolutions):
            layers += [convolution(dims, inputs, outputs, 3, padding=1, bias=False), group_norm(outputs), nn.ReLU()]
            inputs = outputs
        layers.append(max_pool(dims, 2, 2))
    for length in size:
        places *= length // 2**4
    hidden, last = 16 * width, 8 * width
    model = nn.Sequential(
        *layers,
        *(nn.Flatten(), nn.Linear(places * inputs, hidden, bias=False), group_norm(hidden), nn.ReLU()),
        *(nn.Dropout(dropout), nn.Linear(hidden, last), nn.ReLU()),
        nn.Linear(last, classes),
    )
    he_normal(model)
    return model
