"""Figures of groups of patients of masks, risks and boxes: what they are, and that no difference tells of few."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_common.errors import RunError
from fedward_common.metrics import (
    ClassSketch,
    Evaluation,
    GroupEvaluation,
    MaskScores,
    evaluate_detections,
    evaluate_overlap,
    evaluate_survival,
    merged_froc,
)
from fedward_common.testing import tiny_study

K = 3
MASKS = tiny_study(
    study={"task": "segmentation"},
    cohort={"labels": ("liver", "tumour"), "positive": None},
    model={"name": "unet"},
    evaluation={"primary": "dice"},
)
BOXES = tiny_study(
    study={"task": "detection"},
    cohort={"labels": ("nodule",), "positive": None},
    model={"name": "retinanet", "options": {"levels": 2, "anchor": 4}},
    evaluation={"primary": "froc"},
)

Words = npt.NDArray[np.str_]
Scored = Callable[[Sequence[int], Words | None], Evaluation]
"""The evaluation of these patients' images, with groups by words [images] or without."""


def of_masks(seed: int, n: int, *, known: float = 1.0, found: float = 1.0) -> Scored:
    """Two images a patient; some structures are not annotated, and some not in both masks."""
    rng = np.random.default_rng(seed)
    after, before = np.repeat(rng.random((2, n, 2)), 2, axis=1) * 0.9
    apart = np.where(np.repeat(rng.random((n, 2)) < found, 2, axis=0), after * 20, np.nan)
    labels = np.where(np.repeat(rng.random((n, 2)) < known, 2, axis=0), 1, -1)

    def scored(patients: Sequence[int], words: Words | None) -> Evaluation:
        images = np.ravel([(2 * patient, 2 * patient + 1) for patient in patients]).astype(int)
        return evaluate_overlap(
            [MaskScores(after[image], apart[image], 3 * apart[image]) for image in images],
            labels[images],
            np.ones(len(images)),
            images // 2,
            study=MASKS,
            min_cell=K,
            before=[MaskScores(before[image], apart[image], apart[image]) for image in images],
            groups=None if words is None else {"sex": np.repeat(words, 2)},
        )

    return scored


def of_risks(seed: int, n: int) -> Scored:
    rng = np.random.default_rng(seed)
    risks, times, events = rng.normal(size=n), rng.exponential(size=n), rng.random(n) < 0.6

    def scored(patients: Sequence[int], words: Words | None) -> Evaluation:
        own = np.array(patients, int)
        groups: Any = None if words is None else {"sex": words}
        return evaluate_survival(risks[own], times[own], events[own], own, min_cell=K, groups=groups)

    return scored


def of_boxes(seed: int, n: int, *, hit: float = 0.7, having: float = 0.8, wrong: float = 0.8) -> Scored:
    """One image a patient with a finding at most, and a false positive at most: what is counted is patients."""
    rng = np.random.default_rng(seed)
    with_it, hits, false = rng.random(n) < having, rng.random(n) < hit, rng.random(n) < wrong
    scores = rng.random((n, 2)) * [1, 0.7]
    box, away = np.array([10.0, 10, 20, 20]), np.array([50.0, 50, 60, 60])

    def scored(patients: Sequence[int], words: Words | None) -> Evaluation:
        found, truth = [], []
        for patient in patients:
            which = np.array([with_it[patient] and hits[patient], false[patient]])
            found.append((np.stack([box, away])[which], scores[patient][which], np.zeros(which.sum(), int)))
            truth.append(np.array([[*box, 0.0 if with_it[patient] else -1.0]]))
        groups: Any = None if words is None else {"sex": words}
        given = (found, truth, np.ones(len(found)), np.array(patients, int))
        return evaluate_detections(*given, study=BOXES, min_cell=K, groups=groups)

    return scored


def groups_of(scored: Scored, words: Words) -> dict[str, GroupEvaluation]:
    return scored(range(len(words)), words).subgroups.get("sex", {})


def alone(scored: Scored, words: Words, word: str) -> Evaluation:
    return scored(np.flatnonzero(words == word).tolist(), None)


HALVES = np.where(np.arange(60) % 2, "F", "M")

# What they are -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("known", "found_in_both"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.7)])
def test_of_masks_they_are_those_of_the_patients_alone(known: float, found_in_both: float) -> None:
    scored = of_masks(1, 60, known=known, found=found_in_both)
    found = groups_of(scored, HALVES)
    assert found.keys() == {"F", "M"}
    for word, group in found.items():
        own = alone(scored, HALVES, word)
        assert (group.patients, group.loss, group.withheld) == (30, None, None)
        assert group.overlaps.keys() == group.unregistered.keys() == {"liver", "tumour"}
        for structure, overlap in group.overlaps.items():
            assert overlap.dice == own.overlaps[structure].dice
            assert overlap.surface_mm == own.overlaps[structure].surface_mm is not None
            assert overlap.hausdorff_mm == own.overlaps[structure].hausdorff_mm
            assert group.unregistered[structure].dice == own.unregistered[structure].dice


def test_of_risks_they_are_those_of_the_patients_alone() -> None:
    scored = of_risks(1, 60)
    found = groups_of(scored, HALVES)
    assert found.keys() == {"F", "M"}
    for word, group in found.items():
        assert group.concordance == alone(scored, HALVES, word).concordance


def test_of_boxes_they_are_those_of_the_patients_alone_but_for_joined_bins() -> None:
    words = np.where(np.arange(400) % 2, "F", "M")
    scored = of_boxes(1, 400)
    found = groups_of(scored, words)
    assert found.keys() == {"F", "M"}
    for word, group in found.items():
        one, own = group.detections["nodule"], alone(scored, words, word).detections["nodule"]
        assert (one.images, one.findings, one.missed) == (own.images, own.findings, own.missed)
        curve, exact = merged_froc([one]), merged_froc([own])
        assert curve is not None
        assert exact is not None
        assert curve.score() == pytest.approx(exact.score(), abs=0.02)


def test_the_rest_is_as_without_groups() -> None:
    for scored in (of_masks(2, 60, known=0.9, found=0.8), of_risks(2, 60), of_boxes(2, 60)):
        without = scored(range(60), None)
        assert not without.subgroups
        assert scored(range(60), HALVES).model_copy(update={"subgroups": {}}) == without


def test_a_patient_is_in_one_group() -> None:
    with pytest.raises(RunError, match="two groups"):
        evaluate_survival(
            np.zeros(6), [1, 1, 2, 2, 3, 3], np.ones(6), [0, 0, 1, 1, 2, 2], min_cell=1, groups={"sex": [*"FMFMFM"]}
        )


# What may not be told of them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scored", [of_masks(3, 60), of_risks(3, 60), of_boxes(3, 60)])
def test_two_women_are_the_difference_to_men(scored: Scored) -> None:
    assert groups_of(scored, np.where(np.arange(60) < 2, "F", "M")) == {}


def missed(words: Words) -> tuple[int, dict[str, int]]:
    """Of 40 patients with a finding each, the first five missed and the others found with rising scores."""
    box, none = np.array([[10.0, 10, 20, 20]]), np.zeros((0, 4))
    scores = np.linspace(0.2, 0.9, 40)
    found = [
        (none, np.zeros(0), np.zeros(0, int)) if patient < 5 else (box, scores[[patient]], np.zeros(1, int))
        for patient in range(40)
    ]
    truth = [np.append(box, 0)[None]] * 40
    groups: Any = {"sex": words}
    told = evaluate_detections(found, truth, np.ones(40), np.arange(40), study=BOXES, min_cell=K, groups=groups)
    own = {name: group.detections["nodule"].missed for name, group in told.subgroups.get("sex", {}).items()}
    return told.detections["nodule"].missed, own


def test_where_few_of_a_group_are_missed_the_lowest_hits_of_all_groups_are_too() -> None:
    number = np.arange(40)
    assert missed(np.where(number < 20, "F", "M")) == (5, {"F": 5, "M": 0}), "nobody is nobody's"
    assert missed(np.where(number % 2, "M", "F")) == (5, {"F": 4, "M": 4}), "of two men"
    assert missed(np.where(np.isin(number, (0, 1, 37, 38, 39)), "M", "F")) == (5, {}), "three of five: two were left"


Bins = list[tuple[int, int, int]]  # first, end, count


def counted(e: GroupEvaluation) -> Iterator[tuple[str, Bins]]:
    """The counts of patients in an evaluation, by name; those of a histogram by bin, others in one."""
    yield "patients", [(0, 1, e.patients)]
    for label, overlap in chain(e.overlaps.items(), (("was " + name, one) for name, one in e.unregistered.items())):
        yield f"{label} scored", binned(overlap.histogram)
        yield f"{label} not scored", [(0, 1, e.patients - overlap.dice.patients)]
        for name, moments in (("surface", overlap.surface_mm), ("hausdorff", overlap.hausdorff_mm)):
            if moments is not None:
                yield f"{label} {name}", [(0, 1, moments.patients)]
                yield f"{label} without {name}", [(0, 1, overlap.dice.patients - moments.patients)]
    if (pairs := e.concordance) is not None:
        yield "events", [(0, 1, pairs.events)]
        yield "censored", [(0, 1, pairs.patients - pairs.events)]
    for one in e.detections.values():
        hits = binned(one.hits)
        first = hits[1][0] if hits and hits[0][2] == 0 else 0 if hits else 1024
        yield "findings", [(-1, first, one.missed), *hits]
        yield "false positives", binned(one.false_positives)


def binned(sketch: ClassSketch | None) -> Bins:
    return [] if sketch is None else list(zip(sketch.edges, sketch.edges[1:], sketch.counts, strict=False))


def inside(bins: Bins, low: int, high: int) -> int:
    return sum(count for first, end, count in bins if low <= first and end <= high)


def check_differences(whole: Evaluation) -> None:
    """No difference of all patients and of told groups is of 1 to K - 1 patients."""
    told = [dict(counted(group)) for group in whole.subgroups.get("sex", {}).values()]
    for name, bins in counted(whole):
        edges = sorted({edge for first, end, _ in bins for edge in (first, end)})
        own = [group[name] for group in told if name in group]
        for some in chain.from_iterable(combinations(own, size) for size in range(len(own) + 1)):
            for low, high in combinations(edges, 2):
                left = inside(bins, low, high) - sum(inside(one, low, high) for one in some)
                assert left == 0 or left >= K, (name, low, high)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32), st.integers(K, 60), st.lists(st.floats(0.02, 1), min_size=3, max_size=3), st.integers(0, 2)
)
def test_no_difference_is_of_few(seed: int, n: int, shares: list[float], task: int) -> None:
    rng = np.random.default_rng(seed)

    def often() -> float:
        return float(rng.choice([0.5, 0.9, 1.0]))

    scored = (
        of_masks(seed, n, known=often(), found=often()),
        of_risks(seed, n),
        of_boxes(seed, n, hit=often(), having=often(), wrong=often()),
    )[task]
    check_differences(scored(range(n), rng.choice(["F", "M", "O"], n, p=np.array(shares) / sum(shares))))


def test_the_check_of_differences_finds_one() -> None:
    """Figures of a group by itself, as of a site of such patients only, give single patients away."""
    words = np.where(np.arange(60) % 5, "F", "M")
    for scored in (of_masks(4, 60, known=0.95), of_boxes(4, 60)):
        found = scored(range(60), words)
        check_differences(found)
        by_itself = {name: own for name, own in alone(scored, words, "F") if name in GroupEvaluation.model_fields}
        naive = found.model_copy(update={"subgroups": {"sex": {"F": GroupEvaluation(**by_itself)}}})
        with pytest.raises(AssertionError):
            check_differences(naive)
