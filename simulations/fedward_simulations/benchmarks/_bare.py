"""The reference of the training benchmarks: federated averaging as a bare torch loop, and nothing around it."""

import time
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward_client.site_data import SiteData
from fedward_common import models
from fedward_common.study import StudySpec

State = Mapping[str, torch.Tensor]


def train(model: nn.Module, data: SiteData, study: StudySpec) -> None:
    """One epoch of AdamW with class weights over shuffled equal batches."""
    indices = data.indices("train")
    labels = data.labels[indices]
    counts = np.bincount(labels)
    weights = torch.as_tensor(len(labels) / len(counts) / counts, dtype=torch.float32)
    criterion = nn.CrossEntropyLoss(weight=weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=study.training.optimizer.lr, weight_decay=0.01)
    model.train()
    order = np.random.default_rng(0).permutation(indices)
    for batch in np.array_split(order, -(-len(order) // study.training.batch_size)):
        loss = criterion(model(torch.from_numpy(data.images[batch])), torch.from_numpy(data.labels[batch]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def score(model: nn.Module, data: SiteData) -> npt.NDArray[np.float64]:
    """Probabilities of the validation images."""
    model.eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(data.images[data.indices("validation")]))
        return torch.softmax(logits.double(), dim=1).numpy()


def federated_round(model: nn.Module, state: State, sites: Sequence[SiteData], study: StudySpec) -> State:
    """One round of federated averaging over the sites, one after the other."""
    total = sum(len(site.indices("train")) for site in sites)
    mean = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for site in sites:
        model.load_state_dict(state)
        score(model, site)
        train(model, site, study)
        share = len(site.indices("train")) / total
        for name, tensor in model.state_dict().items():
            mean[name].add_(tensor, alpha=share)
    return mean


def round_s(sites: Sequence[SiteData], study: StudySpec, rounds: int, warm_up: int) -> float:
    """The median of the seconds of rounds after the first ones, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = models.network(study)
        state: State = {name: torch.as_tensor(array) for name, array in models.initial_state(study, 1).items()}
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            state = federated_round(model, state, sites, study)
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return median(seconds[warm_up:])
