"""Ditto, the hub's half: the common model is FedAvg's; the personal ones never leave their sites.

Li et al. 2021 (arXiv 2012.04221), algorithm 1. The site's half is `fedward_client.training.local`.
"""

from typing import Any

from flwr.serverapp.strategy import FedAvg


class Ditto(FedAvg):
    """Takes the mean. `proximal_lambda` is for the sites, which read it in the study."""

    def __init__(self, *, proximal_lambda: float = 0.1, **flower: Any) -> None:
        super().__init__(**flower)
        self.proximal_lambda = proximal_lambda
