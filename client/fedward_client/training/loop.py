"""A round's local optimisation: from the global model to this site's update. State goes in and comes out.

The optimizer starts anew each round, as in FedAvg (McMahan et al. 2017, arXiv:1602.05629). What another strategy
changes in the loop is a `Rule`.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward_client.site_data import SiteData
from fedward_client.training.augment import Augmentation
from fedward_client.training.device import Device
from fedward_client.training.epochs import EpochJournal, Progress
from fedward_client.training.freezing import freeze
from fedward_client.training.objective import Objective, objective
from fedward_client.training.rules import Rule
from fedward_common.errors import DataError
from fedward_common.events import Event, Listener
from fedward_common.models import example_shape, rate_factor
from fedward_common.records import MAX_LOSS
from fedward_common.streams import stream
from fedward_common.study import Optimizer, StudySpec, Work

Indices = npt.NDArray[np.int64]
Examples = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a round of local training did."""

    loss: float  # mean over the images seen; of q-FedAvg over all training images, before the first step
    steps: int
    seconds: float


def make_optimizer(model: nn.Module, study: StudySpec, spec: Optimizer) -> torch.optim.Optimizer:
    """An optimizer over the model's trainable parameters, a group for each learning rate of the study's among them."""
    by_factor: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_factor.setdefault(rate_factor(study.model, name), []).append(parameter)
    groups = [{"params": parameters, "lr": spec.lr * factor} for factor, parameters in by_factor.items()]
    match spec.name:
        case "sgd":
            return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
        case "adam":
            return torch.optim.Adam(groups, lr=spec.lr, weight_decay=spec.weight_decay)
        case "adamw":
            return torch.optim.AdamW(groups, lr=spec.lr, weight_decay=spec.weight_decay)


def train(
    model: nn.Module,
    data: SiteData,
    study: StudySpec,
    *,
    site: str,
    round_number: int,
    device: Device,
    listener: Listener,
    rule: Rule | None = None,
    journal: EpochJournal | None = None,
) -> TrainResult:
    """Train `model` in place on the site's training images for the round's epochs or steps.

    From labels, or one layer without them where the round is one of the study's phases. With a journal, a training that
    was cut off goes on after its last whole epoch.
    """
    started = time.perf_counter()
    layer, work = study.layer(round_number), study.work(round_number)
    indices = data.indices("train", unlabelled=study.takes_unlabelled(round_number))
    if not len(indices):
        raise DataError("no training image is left at this site: scan the folder again and read its report")
    rule = rule or Rule()
    dims = len(study.input.size)
    device.place(model, dims)
    precision = device.autocast(model, example_shape(study.study.task, data.images.shape[1], data.images.shape[2:]))
    loss_of = objective(model, study, data.labels[data.indices("train")], layer, device.torch)
    taught = data.labels if data.pseudo_labels is None else data.pseudo_labels
    truth = np.empty((len(data.images), 0)) if data.targets is None else data.targets
    grid = {key: getattr(study.input, key, None) for key in ("spacing", "orientation")}  # of images alone
    augment = Augmentation(study.training.augmentation, study.input.size, **grid)
    total = _steps(work, len(indices))

    def examples(batch: Indices, seeds: list[int] | None = None) -> Examples:
        """Images, varied where there are `seeds`, labels and what else is learned of them, where the network is."""
        images = torch.from_numpy(np.ascontiguousarray(data.images[batch]))
        targets = torch.from_numpy(np.ascontiguousarray(truth[batch]))
        if seeds is not None:
            images, targets = _augmented(augment, study, images, targets, seeds)
        images = images.to(device.torch, memory_format=device.layout(dims))
        return images, torch.from_numpy(taught[batch]).to(device.torch), targets.to(device.torch)

    before, seed = None, int(stream(study.training.seed, "dropout", site, round_number).integers(2**63))
    if study.strategy.name == "qfedavg":
        device.seed(seed)  # a layer that learns alone may draw
        before = _loss_as_it_came(model, loss_of, examples, indices, work.batch_size)
    model.train()
    freeze(model, study, layer)
    rule.begin(model)
    optimizer = make_optimizer(model, study, work.optimizer)
    device.seed(seed)
    at = (journal.restore(model, optimizer) if journal is not None else None) or Progress(
        torch.zeros((), dtype=torch.float64, device=device.torch)
    )
    note = f"round {round_number} {study.stage(round_number)}".rstrip()
    while at.step < total:
        for batch, seeds in _batches(indices, study, site, round_number, at.epoch)[: total - at.step]:
            seen = examples(batch, seeds)
            with precision:
                loss = loss_of(*seen)
            if (penalty := rule.penalty(model)) is not None:
                loss = loss + penalty
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # of torch
            rule.correct(model)
            optimizer.step()
            at.add(loss.detach(), len(batch))
            listener(Event(site=site, stage="train", done=at.step, total=total, note=note))
        at.epoch += 1
        if journal is not None and (at.step < total or journal.last_too):
            journal.save(model, optimizer, at)
    mean_loss = _bounded(float(at.loss_sum) / at.seen, layer)
    return TrainResult(
        loss=mean_loss if before is None else _bounded(before, layer),
        steps=total,
        seconds=time.perf_counter() - started,
    )


def _bounded(loss: float, layer: int | None) -> float:
    if not 0 <= loss <= MAX_LOSS:  # not where it is no number either
        where = "[training]" if layer is None else "[[phases]]"
        raise DataError(
            f"the training loss is no number, or a very large one: lower {where} optimizer.lr, scale [input], or look "
            "for broken images in the report"
        )
    return loss


def _loss_as_it_came(
    model: nn.Module, loss_of: Objective, examples: Callable[[Indices], Examples], indices: Indices, batch_size: int
) -> float:
    """F_k(w^t) of Li et al. 2020 (arXiv:1905.10497, algorithm 2), by which q-FedAvg weighs: scored as models are.

    The mean loss of the round's steps would be a lower one where a site fits its patients faster.
    """
    model.eval()
    with torch.no_grad():
        batches = np.array_split(indices, max(len(indices) // batch_size, 1))
        return sum(float(loss_of(*examples(batch))) * len(batch) for batch in batches) / len(indices)


def _augmented(
    augment: Augmentation, study: StudySpec, images: torch.Tensor, targets: torch.Tensor, seeds: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch varied, and its truth with it."""
    match study.study.task:
        case "segmentation":
            return augment.with_masks(images, targets, seeds)
        case "detection":
            return augment.with_boxes(images, targets, seeds)
        case _:
            return augment(images, seeds), targets


def _batches_per_epoch(work: Work, images: int) -> int:
    """So many that none is larger than was asked for; but of an odd number in twos, one is of three."""
    batches = math.ceil(images / work.batch_size)
    return batches if work.batch_size == 1 else max(min(batches, images // 2), 1)


def _steps(work: Work, images: int) -> int:
    if work.local_steps is not None:
        return work.local_steps
    return (work.local_epochs or 1) * _batches_per_epoch(work, images)


def journaled(study: StudySpec, data: SiteData, round_number: int) -> bool:
    """Whether a round takes more than one epoch: else there is nothing to go on from."""
    images = len(data.indices("train", unlabelled=study.takes_unlabelled(round_number)))
    work = study.work(round_number)
    return _steps(work, images) > _batches_per_epoch(work, images)


def _batches(
    indices: Indices, study: StudySpec, site: str, round_number: int, epoch: int
) -> list[tuple[Indices, list[int]]]:
    """An epoch's shuffled batches of image indices, each with a seed an image.

    Batches are of equal size to within one image, and of a single one only where that was asked for: it would have no
    batch statistics, and nothing to be compared with.
    """
    batches = _batches_per_epoch(study.work(round_number), len(indices))
    random = stream(study.training.seed, "shuffle", site, round_number, epoch)
    order = np.array_split(random.permutation(indices), batches)
    seeds = np.array_split(random.integers(2**32, size=len(indices)), batches)
    return [(batch, [int(seed) for seed in each]) for batch, each in zip(order, seeds, strict=True)]
