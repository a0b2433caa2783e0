"""What a study would find at a site: whom it takes, whom not and why, and what it would cost this machine.

Nothing is frozen, nothing leaves. Pixels are decoded once, to find images that are the same or nearly, and once more
where a study learns from masks, to find those that do not fit. The figures are for the site's own people: small cells
included.
"""

import math
import shutil
from collections import Counter
from dataclasses import dataclass

import numpy as np

from fedward_client.cache_layout import bytes_of_cache, check_room
from fedward_client.catalog import Catalog, is_scanned, paths
from fedward_client.cohort import Cohort
from fedward_client.cohort_minimum import require
from fedward_client.freezing import from_catalog
from fedward_client.harmonize.recipe import Recipe
from fedward_client.intake.labels import words_in
from fedward_client.labelling import MASKED, index_of, shown_of
from fedward_client.opening import Images
from fedward_client.site import Site
from fedward_client.site_data import SiteData, Targets
from fedward_client.split import SIDES, Side
from fedward_common.errors import DataError, UnreadableFile
from fedward_common.events import Event, Listener, ignore
from fedward_common.study import Input, StudySpec

TIMED_BATCHES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """What a study would find. `refusal` says why the site cannot take part, "" where it can."""

    study: str
    digest: str
    refusal: str
    patients: dict[Side, int]
    labels: dict[str, int]  # training patients
    not_known: dict[str, int]  # images by label of which nobody said whether they have it, of several labels an image
    other_words: dict[str, int]  # rows of the label table, by word of theirs that is none of the study's labels
    images: int
    left_out: dict[str, int]  # by reason
    quarantined: dict[str, int]  # files, and rows of tables, that no study can use, by reason
    linked: dict[str, int]  # patients by what links them to others (`near_duplicates.counted`)
    cache_mib: float  # that the images will take on the disk of the state folder
    free_mib: float
    cache_limit_mib: float | None  # of all studies' images together; None: as the disk allows
    round_s: float | None  # of training, on this machine; None where there is nothing to train on


def dry_run(site: Site, study: StudySpec, listener: Listener = ignore) -> DryRun:
    """Resolve a study's cohort against the catalog, scanned first where it never was; time one batch of training."""
    cohort, refusal = resolved(site, study, listener)
    images = [item for item in cohort.items if item.side == "train"]
    return DryRun(
        study=study.study.id,
        digest=study.digest,
        refusal=refusal,
        patients={side: cohort.patients(side) for side in SIDES},
        labels=cohort.label_counts("train"),
        not_known=cohort.not_known(),
        other_words=_other_words(site, study) if is_scanned(site) else {},
        images=len(cohort.items),
        left_out=cohort.left_out,
        quarantined=_quarantined(site) if is_scanned(site) else {},
        linked=cohort.linked,
        cache_mib=bytes_of_cache(len(cohort.items), study) / 2**20,
        free_mib=shutil.disk_usage(site.ensure_state()).free / 2**20,
        cache_limit_mib=None if site.cache_bytes is None else site.cache_bytes / 2**20,
        round_s=_round_s(study, len(images)) if images else None,
    )


def resolved(site: Site, study: StudySpec, listener: Listener = ignore) -> tuple[Cohort, str]:
    """A study's cohort as it would be now, and why the site cannot take part with it, "" where it can."""
    cohort = Cohort(labels=study.cohort.labels, items=(), left_out={})
    try:
        cohort = from_catalog(site, study, listener)
        if study.study.task in MASKED:
            cohort = _with_fitting_masks(site, study, cohort, listener)
        require(cohort, study, site)
        check_room(site, study, cohort)
    except DataError as error:
        return cohort, str(error)
    return cohort, ""


def _with_fitting_masks(site: Site, study: StudySpec, cohort: Cohort, listener: Listener) -> Cohort:
    """The cohort less the images whose masks training would not take."""
    assert isinstance(study.input, Input)
    opening, shown = Images(Recipe(study.input), paths(site)), shown_of(study.cohort.labels, site)
    unfit: dict[str, list[str]] = {}
    for done, item in enumerate(cohort.items):
        listener(Event(site=site.name, stage="inspect", done=done, total=len(cohort.items)))
        try:
            opening.check_masks(item, shown)
        except UnreadableFile as error:
            unfit.setdefault(f"images that could not be read: {error}", []).append(item.image)
    for reason, images in unfit.items():
        cohort = cohort.without(images, reason)
    return cohort


def _quarantined(site: Site) -> dict[str, int]:
    with Catalog.open(site) as catalog:
        return catalog.counts().quarantine


def _other_words(site: Site, study: StudySpec) -> dict[str, int]:
    """What the label table says that the study has no label for: most rows first. For the site's own people."""
    with Catalog.open(site) as catalog:
        rows = catalog.labels().values()
    words = Counter(word for row in rows for word in words_in(site, row) if index_of(word, study.cohort.labels) is None)
    return dict(words.most_common())


def _round_s(study: StudySpec, images: int) -> float:
    """Seconds of a round's training, from batches of noise of the study's size on this machine's device."""
    from fedward_client.training.device import pick_device
    from fedward_client.training.loop import train
    from fedward_common import models

    spec = study.training
    batch = spec.batch_size
    data = _noise(study, min(images, TIMED_BATCHES * batch))
    one = study.model_copy(
        update={"training": spec.model_copy(update={"local_epochs": 1, "local_steps": None}), "phases": ()}
    )
    model = models.network(study)
    results = [
        train(model, data, one, site="", round_number=1, device=pick_device(), listener=ignore)
        for _ in range(2)  # the first pays for what is made once
    ]
    steps = spec.local_steps or (spec.local_epochs or 1) * math.ceil(images / batch)
    return results[-1].seconds / results[-1].steps * steps


def _noise(study: StudySpec, count: int) -> SiteData:
    """So many images of a study that show nothing, with labels and masks, boxes or times as its task has them."""
    random, numbers = np.random.default_rng(0), np.arange(count, dtype=np.int64)
    classes = max(len(study.cohort.labels), 1)
    targets: Targets | None = None
    match study.study.task:
        case "segmentation" | "registration":
            targets = random.integers(2, size=(count, classes, *study.input.size), dtype=np.uint8)
        case "detection":
            size = np.array(study.input.size)
            targets = np.tile(np.array([[*(size / 4), *(3 * size / 4), 0.0]], np.float32), (count, 1, 1))
        case "survival":
            targets = random.random(count)
    return SiteData(
        images=random.random((count, study.input.channels, *study.input.size), np.float32),
        labels=numbers[:, None] % np.full(classes, 2) if study.several else numbers % classes,
        patients=numbers,
        sides=np.zeros(count, np.int8),
        cohort_digest="",
        targets=targets,
    )
