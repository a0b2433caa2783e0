"""Scoring masks on a site's own patients: of segmentation, and of images brought onto each other."""

import numpy as np
import numpy.typing as npt
import torch

from fedward_client.scored import Indices, Scored
from fedward_client.training.registration_loss import registration_loss
from fedward_client.training.segmentation_loss import segmentation_loss
from fedward_common.metrics import Evaluation, MaskScores, evaluate_overlap, mask_scores
from fedward_common.models.warp import jacobian_determinant, warp
from fedward_common.study import Input, StudySpec

LIKELY = 0.5  # probability, from which on a voxel is a structure's

Masks = npt.NDArray[np.uint8]


def evaluate_segmentation(scored: Scored, indices: Indices, study: StudySpec, min_cell: int) -> Evaluation:
    """Masks of the images at `indices` held against the true ones."""
    data = scored.data
    assert data.targets is not None
    scores, losses = list[MaskScores](), list[float]()
    for batch in scored.batches(indices, study.training.batch_size):
        true, known = data.targets[batch], torch.from_numpy(data.labels[batch])
        with torch.inference_mode():
            logits = scored.model(scored.images(batch)).cpu()
            losses += [
                float(segmentation_loss(*(each[None] for each in image)))
                for image in zip(logits, torch.from_numpy(true), known, strict=True)
            ]
            found = (logits.sigmoid() >= LIKELY).numpy()
        scores += _scores(found, true, study)
    return evaluate_overlap(
        scores,
        data.labels[indices],
        losses,
        data.patients[indices],
        study=study,
        min_cell=min_cell,
        groups=data.groups_at(indices),
    )


def evaluate_registration(scored: Scored, indices: Indices, study: StudySpec, min_cell: int) -> Evaluation:
    """Each image at `indices` brought onto one of another patient of the site, and the first one's masks with it."""
    data = scored.data
    if len(np.unique(data.patients[indices])) < 2:  # nobody to bring a patient onto
        why = "no two patients on this side of the split, so that none can be brought onto another"
        return Evaluation(patients=0, loss=None, sketches={}, figures={}, withheld=why)
    patients = data.patients[indices]
    partner = dict(zip(indices.tolist(), indices[_partners(patients)].tolist(), strict=True))
    scores, before, losses, folding = list[MaskScores](), list[MaskScores](), list[float](), list[float]()
    for moving in scored.batches(indices, study.training.batch_size):
        fixed = np.array([partner[index] for index in moving.tolist()], dtype=np.int64)
        with torch.inference_mode():
            pair = scored.images(moving), scored.images(fixed)
            displacement = scored.model(torch.cat(pair, dim=1))
            losses += [
                float(registration_loss(*(each[None] for each in one), smoothness=study.training.smoothness))
                for one in zip(*pair, displacement, strict=True)
            ]
            folding += (jacobian_determinant(displacement) <= 0).flatten(1).float().mean(dim=1).tolist()
            if data.targets is not None:
                own, true = data.targets[moving], data.targets[fixed]
                warped = warp(torch.from_numpy(own).to(displacement.device), displacement) >= LIKELY
                scores += _scores(warped.cpu().numpy(), true, study)
                before += _scores(own.astype(bool), true, study)
    both = np.minimum(data.labels[indices], data.labels[[partner[index] for index in indices.tolist()]])
    return evaluate_overlap(
        scores,
        both if data.targets is not None else np.zeros((len(indices), 0)),
        losses,
        patients,
        study=study,
        min_cell=min_cell,
        before=before,
        folding=folding,
        groups=data.groups_at(indices),
    )


def _scores(found: npt.NDArray[np.bool_], true: Masks, study: StudySpec) -> list[MaskScores]:
    """Of each image, in millimetres where the study sets them."""
    spacing = study.input.spacing if isinstance(study.input, Input) else None
    return [mask_scores(own, other, spacing) for own, other in zip(found, true.astype(bool), strict=True)]


def _partners(patients: npt.NDArray[np.int64]) -> Indices:
    """For each image the place of the next one of another patient, the first after the last; there are two or more."""
    count, found = len(patients), np.arange(len(patients))
    for place in range(count):
        others = (np.arange(1, count) + place) % count
        found[place] = others[patients[others] != patients[place]][0]
    return found
