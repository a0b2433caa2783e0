"""The networks that a study may name: installed parts, never code from the network.

    names()      what there is
    describe()   one network's card: dimensions, smallest size, options and their defaults
    check()      whether a network fits a study, before anything is built
    outputs()    how many outputs a study's task needs
    example_shape()   what a network for the task takes of an example
    build()      the network, as a torch module
    unsupervised_layers()   how many of its layers can learn without labels
    initial_model(), initial_state()   the weights that every run of a study starts from
    frozen_names(), rate_factor(), of_layer()      what a study says of single layers

Importing this package does not import torch; building a network does. A network of your own comes in through
`register`, or through an entry point of the group `fedward.models` in an installed package:

    [project.entry-points."fedward.models"]
    my-net = "my_package.fedward:MY_NET"      # an `Architecture`

A name can be taken once: nothing replaces a network that a hospital has approved by name.
"""

from fedward_common.models.cards import Architecture, Choice, Detector, ModelCard, Option, Range, Widths
from fedward_common.models.layer_rules import check_layers, frozen_names, of_layer, rate_factor
from fedward_common.models.registry import (
    build,
    check,
    describe,
    example_shape,
    has_batch_norm,
    names,
    outputs,
    register,
    unsupervised_layers,
)
from fedward_common.models.weights import (
    Beginning,
    begin,
    bound,
    initial_model,
    initial_state,
    network,
    parameter_names,
)

__all__ = [
    "Architecture",
    "Beginning",
    "Choice",
    "Detector",
    "ModelCard",
    "Option",
    "Range",
    "Widths",
    "begin",
    "bound",
    "build",
    "check",
    "check_layers",
    "describe",
    "example_shape",
    "frozen_names",
    "has_batch_norm",
    "initial_model",
    "initial_state",
    "names",
    "network",
    "of_layer",
    "outputs",
    "parameter_names",
    "rate_factor",
    "register",
    "unsupervised_layers",
]
