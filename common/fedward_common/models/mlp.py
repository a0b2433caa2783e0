"""A multilayer perceptron for rows of a table: rectifiers and dropout between layers.

Takes features around 0, as [input] kind = "table" gives them.
"""

from torch import nn

from fedward_common.models.layers import he_normal


def build(
    *, dims: int, size: tuple[int, ...], channels: int, classes: int, width: int, depth: int, dropout: float
) -> nn.Module:
    """`depth` hidden layers of `width`; [n, channels] to logits [n, classes]."""
    del dims, size  # rows have no extent
    layers: list[nn.Module] = []
    inputs = channels
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    model = nn.Sequential(*layers, nn.Linear(inputs, classes))
    he_normal(model)
    return model
