"""Freezing of gait in Daphnet's recordings, one patient at a time: by window, beside what the field compares with.

The freeze index is the power at 3 to 8 Hz by that at 0.5 to 3 Hz of the shank's vertical acceleration (Moore et al.
2008, doi:10.1016/j.jneumeth.2007.08.023); where both together are little, the patient stands (Baechlin et al. 2010,
doi:10.1109/TITB.2009.2036165). It and classical learners learn from all hospitals' patients but those whom a fold tests
in one place: more than any hospital may do. The hospitals' scores of windows are read where they lie, as their own
people could: these patients are public.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
from sklearn.metrics import confusion_matrix, roc_curve  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]
from sklearn.svm import LinearSVC  # type: ignore[import-untyped]

from fedward_client.cache import load
from fedward_client.out_of_fold import OutOfFold
from fedward_client.site import Site
from fedward_client.site_data import SiteData
from fedward_client.site_state import FOLDER, RunState
from fedward_client.split import Side
from fedward_common.study import SeriesInput
from fedward_server.result import RunResult
from fedward_simulations.studies import Trial, hospital_folder

PUBLISHED = {"accuracy": 0.9143, "sensitivity": 0.8558, "specificity": 0.9363}  # of one patient left out at a time
LEARNED = ("federated", "freeze index", "random forest", "linear support vector machine")
LOCOMOTION_HZ, FREEZE_HZ = (0.5, 3.0), (3.0, 8.0)
STANDING = 2.0**12  # of the power in both bands, as in the collection's own scripts
_ANKLE = "ankle vertical"
_HOSPITALS = ("east", "west")

Windows = npt.NDArray[np.float64]
Figures = dict[str, float]


def write(source: Path, hospitals: Path) -> None:
    """Daphnet's recordings as they are; patients go to two hospitals in turns."""
    folders = [hospital_folder(hospitals, name) for name in _HOSPITALS]
    paths = sorted((source / "dataset").glob("S[0-9][0-9]R[0-9][0-9].txt*"))
    patients = sorted({path.name[:3] for path in paths})
    for path in paths:
        shutil.copy(path, folders[patients.index(path.name[:3]) % len(folders)])


def by_window(out: Path, hospitals: Path) -> dict[str, dict[str, list[float]]]:
    """By model, of each seed of a simulation: accuracy, sensitivity and specificity over all hospitals' windows.

    Each window is called by the models that its patient took no part in.
    """
    found: dict[str, dict[str, list[float]]] = {name: {figure: [] for figure in PUBLISHED} for name in LEARNED}
    for seed in sorted(out.glob("seed-*")):
        run = RunResult.read(seed / "federated")
        sites = {name: Site.open(hospitals / name) for name in sorted(run.sites)}
        data = {name: load(site, run.study, run.run) for name, site in sites.items()}
        truth = np.concatenate([each.labels for each in data.values()]) == run.study.positive_index
        for name, calls in _calls(run, sites, data, truth):
            for figure, value in figures(truth, calls).items():
                found[name][figure].append(value)
    return found


def figures(truth: npt.NDArray[np.bool_], calls: npt.NDArray[np.bool_]) -> Figures:
    """Accuracy, sensitivity and specificity of calls [n] of windows [n], all windows alike."""
    (true_negative, false_positive), (false_negative, true_positive) = confusion_matrix(truth, calls, labels=[0, 1])
    return {
        "accuracy": float((true_positive + true_negative) / truth.size),
        "sensitivity": float(true_positive / (true_positive + false_negative)),
        "specificity": float(true_negative / (true_negative + false_positive)),
    }


def freeze_index(vertical: Windows, rate_hz: float) -> npt.NDArray[np.float64]:
    """The freeze index [n] of windows [n, samples] of the shank's vertical acceleration in mg; 0 where one stands."""
    samples = vertical.shape[1]
    spectrum = np.abs(np.fft.rfft(vertical - vertical.mean(axis=1, keepdims=True), axis=1)) ** 2 / samples
    places = np.fft.rfftfreq(samples, 1 / rate_hz)

    def power(low: float, high: float) -> npt.NDArray[np.float64]:
        return np.asarray(np.trapezoid(spectrum[:, (places >= low) & (places <= high)], axis=1) / rate_hz)

    walking, freezing = power(*LOCOMOTION_HZ), power(*FREEZE_HZ)
    index = freezing / np.maximum(walking, np.finfo(np.float64).tiny)
    return np.where(walking + freezing < STANDING, 0.0, index)


def features(windows: Windows, rate_hz: float) -> Windows:
    """Of windows [n, signals, samples] in mg, by signal [n, 4 x signals]: mean, deviation, range, log of the index."""
    index = np.stack([freeze_index(windows[:, at], rate_hz) for at in range(windows.shape[1])], axis=1)
    spread = [windows.mean(axis=2), windows.std(axis=2), np.ptp(windows, axis=2)]
    return np.concatenate([*spread, np.log1p(index)], axis=1)


def best_threshold(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float:
    """The score from which on a window is called a freeze, for the largest sensitivity and specificity together."""
    false_positives, true_positives, thresholds = roc_curve(truth, scores)
    return float(thresholds[np.argmax(true_positives - false_positives)])


def _calls(
    run: RunResult, sites: Mapping[str, Site], data: Mapping[str, SiteData], truth: npt.NDArray[np.bool_]
) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Each model's calls of all windows, hospital by hospital."""
    study = run.study
    assert isinstance(study.input, SeriesInput)
    yield "federated", _federated(run, sites, data, truth)
    windows = study.input.scale * np.concatenate([each.images for each in data.values()]).astype(np.float64)
    index = freeze_index(windows[:, study.input.signals.index(_ANKLE)], study.input.rate_hz)
    described = features(windows, study.input.rate_hz)
    forest = RandomForestClassifier(class_weight="balanced", random_state=study.training.seed)
    machine = make_pipeline(StandardScaler(), LinearSVC(class_weight="balanced", random_state=study.training.seed))
    calls = {name: np.zeros(truth.size, bool) for name in LEARNED[1:]}
    folds = np.concatenate([each.folds for each in data.values() if each.folds is not None])
    for fold in np.unique(folds):
        tested, others = folds == fold, folds != fold
        calls["freeze index"][tested] = index[tested] >= best_threshold(truth[others], index[others])
        for name, learner in (("random forest", forest), ("linear support vector machine", machine)):
            calls[name][tested] = learner.fit(described[others], truth[others]).predict(described[tested])
    yield from calls.items()


def _federated(
    run: RunResult, sites: Mapping[str, Site], data: Mapping[str, SiteData], truth: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """By what the folds' models gave at home, from the score on that is best for windows of validation patients."""
    kept = {
        name: OutOfFold(RunState.of(site.state / FOLDER, run.study, run.run), name, data[name])
        for name, site in sites.items()
    }

    def scores(side: Side) -> npt.NDArray[np.float64]:
        found = [each.scores(run.study, side)[1][:, run.study.positive_index] for each in kept.values()]
        return np.concatenate(found)

    calls: npt.NDArray[np.bool_] = scores("test") >= best_threshold(truth, scores("validation"))
    return calls


TRIALS = (
    Trial(
        name="freezing-of-gait",
        template="freezing-of-gait",
        source="dataset_fog_release",
        write=write,
        data="Daphnet Freezing of Gait, ten patients (doi:10.24432/C56K78)",
        caveat="Two hospitals were made of one study; each fold tests one patient of each, one more validates.",
        published="accuracy 91.43 %, sensitivity 85.58 %, specificity 93.63 %, by window",
        changes={"split": {"folds": 5}},
        windows=True,
    ),
)
