"""What BatchNorm layers are called in a network's state, and which of a network's arrays stay at a site.

[training] batch_norm says what becomes of the layers' running statistics, which differ from hospital to hospital:

    share        they travel and are averaged like everything else
    local        they stay at their site, the layers' learned parameters travel (Andreux et al. 2020, SiloBN,
                 arXiv 2008.07424); under FedBN the whole layers stay (Li et al. 2021, arXiv 2102.07623)
    recalibrate  they travel; before a model is scored, a site measures them anew on its own training images
    group        there are none: the network is built with group normalisation
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fedward_common.models.layer_rules import frozen_names, of_layer

if TYPE_CHECKING:
    from fedward_common.study_spec import StudySpec

MEAN, VARIANCE = ".running_mean", ".running_var"
_STATISTICS = (MEAN, VARIANCE, ".num_batches_tracked")
_LEARNED = (".weight", ".bias")


def layers(names: Iterable[str]) -> list[str]:
    """The layers that keep running statistics, in order: what stands before ".running_mean" in a state's names."""
    return [name.removesuffix(MEAN) for name in names if name.endswith(MEAN)]


def personal_names(study: "StudySpec", names: Iterable[str]) -> list[str]:
    """Which arrays of the network's state are each site's own, in order: trained there, kept there, scored with."""
    if study.training.batch_norm != "local":
        return []
    everything = list(names)
    kinds = _STATISTICS + (_LEARNED if study.strategy.name == "fedbn" else ())
    own = {layer + kind for layer in layers(everything) for kind in kinds}
    return [name for name in everything if name in own]


def returned_names(study: "StudySpec", names: Iterable[str], round_number: int) -> list[str]:
    """Which arrays of the network's state a site sends back after a round, in order: not its own, nor frozen ones.

    In a round in which one layer learns alone, that layer's.
    """
    layer, everything = study.layer(round_number), list(names)
    if layer is not None:
        return [name for name in everything if of_layer(name, layer)]
    kept = {*personal_names(study, everything), *frozen_names(study, everything)}
    return [name for name in everything if name not in kept]
