"""Tables as UCI's Heart Disease has them: 14 columns, no header, "?" where a value is missing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedward_common.metrics.base import Floats
from fedward_common.streams import stream

# by column: its mean and deviation, how much of one deviation raises the log-odds of disease, digits
_NUMBERS = {
    "age": (54.0, 9.0, 0.6, 0),
    "trestbps": (131.0, 18.0, 0.3, 0),
    "chol": (245.0, 50.0, 0.1, 0),
    "thalach": (145.0, 24.0, -1.1, 0),
    "oldpeak": (0.9, 1.0, 1.1, 1),
}
_YES_NO = {"sex": (0.7, 0.9), "fbs": (0.15, 0.0), "exang": (0.35, 1.3)}  # the share of 1, and what it adds
_PAIN = (0.08, 0.2, 0.25, 0.47)  # shares of cp 1 to 4
_PAIN_ADDS = (-1.0, -1.6, -0.8, 1.6)
_COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
_MISSING = 0.03  # of the numbers but age


def write(folder: Path, hospital: str, patients: int) -> Floats:
    """`processed.<hospital>.data` in `folder`; the risk [patients] that each patient's disease was drawn by.

    A score that is the risk has the best area under the ROC curve that any model can reach.
    """
    random = stream(0, "synthetic heart disease", hospital)
    values: dict[str, Floats] = {
        **{name: random.normal(mean, spread, patients) for name, (mean, spread, _, _) in _NUMBERS.items()},
        **{name: (random.random(patients) < share).astype(float) for name, (share, _) in _YES_NO.items()},
        "cp": random.choice(4, patients, p=_PAIN).astype(float),
        "restecg": random.choice(3, patients, p=(0.6, 0.2, 0.2)).astype(float),
    }
    odds = np.array(_PAIN_ADDS)[values["cp"].astype(int)] - 0.6
    for name, (mean, spread, weight, _) in _NUMBERS.items():
        odds += weight * (values[name] - mean) / spread
    for name, (share, adds) in _YES_NO.items():
        odds += adds * (values[name] - share)
    risk: Floats = 1 / (1 + np.exp(-odds))
    ill = random.random(patients) < risk
    lacks = random.random((patients, len(_COLUMNS))) < _MISSING
    rows = []
    for number in range(patients):
        cells = [_cell(name, values[name][number]) for name in _COLUMNS]
        cells = ["?" if gone and name in _NUMBERS and name != "age" else cell
                 for name, cell, gone in zip(_COLUMNS, cells, lacks[number], strict=True)]  # fmt: skip
        rows.append(",".join([*cells, "?", "?", "?", str(int(ill[number]))]) + "\n")
    (folder / f"processed.{hospital}.data").write_text("".join(rows))
    return risk


def _cell(name: str, value: float) -> str:
    if name == "cp":
        return str(int(value) + 1)
    return f"{value:.{_NUMBERS[name][3]}f}" if name in _NUMBERS else str(int(value))


def best_area(risks: Sequence[Floats]) -> float:
    """The expected area under the ROC curve of a score that is the risk itself, over patients of these risks."""
    risk = np.sort(np.concatenate(risks))
    below = np.concatenate(([0.0], np.cumsum(1 - risk)[:-1]))  # healthy patients whose risk is less
    return float((risk * below).sum() / (risk.sum() * (1 - risk).sum() - (risk * (1 - risk)).sum()))
