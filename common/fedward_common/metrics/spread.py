"""Where within its bins a class's patients are, as far as bin counts, mean and standard deviation can tell."""

import numpy as np

from fedward_common.metrics.base import Floats
from fedward_common.metrics.sketch import BINS, LOGIT_RANGE, LOGITS, MOMENT_DIGITS, ClassSketch

STEPS = 50  # of Newton's method: it needs about five, and moments that no such patients can have never settle
HALVINGS = 0.5 ** np.arange(20)  # of a step
SETTLED = 0.05 * 10.0**-MOMENT_DIGITS / LOGIT_RANGE  # a tenth of what rounding did to the moments
RIDGE = 1e-9  # makes a step exist where narrow bins leave the moments no freedom
STATISTICS: Floats = np.stack([LOGITS / LOGIT_RANGE, (LOGITS / LOGIT_RANGE) ** 2])


def spread(sketch: ClassSketch) -> Floats:
    """The patients of `sketch` in each base bin [1024], as fractions; every bin of the sketch keeps its count.

    In its bins the class follows one curve exp(a x + b x^2) of the logit x, with the a and b that give the sketch's
    mean and standard deviation: of all spreads with its counts and moments the one of most entropy (Jaynes 1957,
    "Information theory and statistical mechanics", Physical Review 106:620-630). In a single bin that is a normal
    curve, the binormal view of ROC analysis (Dorfman & Alf 1969, Journal of Mathematical Psychology 6:487-496; Metz
    1986, Investigative Radiology 21:720-733); among many bins it says little more than their counts; on the base grid
    nothing. Moments that no such patients can have bend the curve as far as `STEPS` go.
    """
    if len(sketch.counts) == BINS or not sketch.total:
        return np.resize(np.asarray(sketch.counts, dtype=np.float64), BINS)
    mean, sd = sketch.mean / LOGIT_RANGE, max(sketch.sd / LOGIT_RANGE, 2 / BINS)  # no narrower than a base bin
    problem = _Dual(sketch, np.array([mean, mean**2 + sd**2]))
    curve = np.array([mean, -0.5]) / sd**2
    for _ in range(STEPS):
        gradient, hessian = problem.derivatives(curve)
        if np.abs(gradient).max() < SETTLED:
            break
        step = np.linalg.solve(hessian + RIDGE * np.eye(2), gradient)
        lower = problem.descend(curve, np.asarray(step, dtype=np.float64), float(gradient @ step))
        if lower is None:
            break
        curve = lower
    return problem.under(curve)[0]


class _Dual:
    """The convex function of a curve (a, b) that is least where the curve gives the `wanted` means of `STATISTICS`."""

    def __init__(self, sketch: ClassSketch, wanted: Floats) -> None:
        self.wanted = wanted
        self.counts = np.asarray(sketch.counts, dtype=np.float64)
        self.shares = self.counts / self.counts.sum()
        self.starts, self.widths = np.asarray(sketch.edges[:-1]), np.diff(sketch.edges)

    def under(self, curve: Floats) -> tuple[Floats, Floats]:
        """The counts spread in proportion to the curve [1024], and the log of the area under it in each bin."""
        exponents = curve @ STATISTICS
        tops = np.maximum.reduceat(exponents, self.starts)  # taken off, so that no exponential overflows
        heights = np.exp(exponents - np.repeat(tops, self.widths))
        areas = np.add.reduceat(heights, self.starts)
        return heights * np.repeat(self.counts / areas, self.widths), tops + np.log(areas)

    def value(self, curve: Floats) -> float:
        return float(self.shares @ self.under(curve)[1] - curve @ self.wanted)

    def derivatives(self, curve: Floats) -> tuple[Floats, Floats]:
        weighted = STATISTICS * self.under(curve)[0] / self.counts.sum()
        sums, held = np.add.reduceat(weighted, self.starts, axis=1), self.shares > 0
        between_bins = (sums[:, held] / self.shares[held]) @ sums[:, held].T
        return sums.sum(axis=1) - self.wanted, weighted @ STATISTICS.T - between_bins

    def descend(self, curve: Floats, step: Floats, slope: float) -> Floats | None:
        """The curve a step on, the step halved until the value falls as it should (Armijo); None where it cannot."""
        now = self.value(curve)
        tried = ((curve - part * step, now - 1e-4 * part * slope) for part in HALVINGS)
        return next((lower for lower, enough in tried if self.value(lower) <= enough), None)
