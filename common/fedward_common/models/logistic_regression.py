"""Multinomial logistic regression for rows of a table."""

from torch import nn

from fedward_common.models import mlp


def build(*, dims: int, size: tuple[int, ...], channels: int, classes: int) -> nn.Module:
    """A perceptron without a hidden layer; [n, channels] to logits [n, classes]."""
    return mlp.build(dims=dims, size=size, channels=channels, classes=classes, width=0, depth=0, dropout=0.0)
