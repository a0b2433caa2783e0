"""The words and number formats that the report, the model card and the terminal share. Pure: results in, text out."""

from fedward_common.models import trained
from fedward_server.figures.blocks import METRIC_TITLES
from fedward_simulations.results import (
    METRICS,
    MODELS,
    OTHER_METRICS,
    Figure,
    Metric,
    ModelName,
    Results,
    SiteReport,
)

# what a hospital has
SOURCES = {"image": "images", "series": "recordings"} | dict.fromkeys(
    ("sequence", "compound", "table"), "rows of tables"
)
RESEARCH_USE = trained.RESEARCH_USE
UNKNOWN = "not reported"


def number(value: float | None) -> str:
    """Two decimals, as many as these samples can carry."""
    return "–" if value is None else f"{value:.2f}"


def interval(figure: Figure) -> str:
    """The 95 % interval, e.g. 0.80 to 0.93 with an en dash."""
    return figure.interval


def figure_text(figure: Figure | None) -> str:
    """A figure with its interval on one line."""
    return "–" if figure is None else figure.text


def percent(share: float | None) -> str:
    """A share as a whole percentage."""
    return UNKNOWN if share is None else f"{100 * share:.0f} %"


def size(count: int) -> str:
    """Bytes in decimal units."""
    if count < 1000:
        return f"{count} bytes"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5 or unit == "GB":
            break
    return f"{value:.{0 if value >= 100 else 1}f} {unit}"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    if seconds < 120:
        return f"{seconds:.{1 if seconds >= 10 else 2}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s"
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def count(value: int | None, min_cell: int | None = None) -> str:
    """A count, with thin thousands spaces; None is one that the small-cell rule kept home."""
    if value is None:
        return UNKNOWN if min_cell is None else f"fewer than {min_cell}"
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def told(value: int | None) -> str:
    """A count; None is one that stays home, because it is small or would tell another that is."""
    return "some" if value is None else count(value)


def plural(many: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count(many)} {noun}{'' if many == 1 else 's'}"


def shown(results: Results) -> list[ModelName]:
    """The models that these results compare."""
    return [model for model in MODELS if getattr(results.overall, model) is not None]


def headline(results: Results) -> str:
    """The result in one sentence."""
    metric = results.study.headline
    local, federated = results.overall.local.mean.figure(metric), results.overall.federated.mean.figure(metric)
    if not results.study.labels:
        return "The study names no structures, so that no figure says how well images match."
    if local is None or federated is None:
        return "No hospital has enough test patients to compare the models: the small-cell rule withholds every figure."
    others = [f"local-only {number(local)}"]
    if results.overall.pooled is not None:
        others.append(f"pooled data {number(results.overall.pooled.mean.figure(metric))}")
    reached = f"the federated model reached a mean {METRIC_TITLES[metric]} of {number(federated)}"
    return f"On the hospitals’ own test patients {reached} ({', '.join(others)})."


def verdict(results: Results) -> list[str]:
    """What the headline does and does not mean, in sentences computed from the numbers."""
    metric = results.study.headline
    local, federated = results.overall.local.mean.figure(metric), results.overall.federated.mean.figure(metric)
    if local is None or federated is None:
        return []
    found = ((site.local.figure(metric), site.federated.figure(metric)) for site in results.sites)
    pairs = [(alone, together) for alone, together in found if alone and together]
    gain = round(federated, 2) - round(local, 2)
    sentences = [_gain(gain, pairs, METRIC_TITLES[metric]), _overlap(pairs), _excluded(results)]
    return [sentence for sentence in sentences if sentence]


Pair = tuple[Figure, Figure]
"""One hospital's figures of its own model and of the federated one."""


def _gain(gain: float, pairs: list[Pair], title: str) -> str:
    alone = "the models that each hospital trained alone"
    if abs(gain) < 0.005:
        return f"To two decimals that is no different from {alone}: on these data federation did not raise the {title}."
    if gain < 0:
        return f"That is {-gain:.2f} lower than {alone}: on these data federation did not help."
    better = sum(federated.value > local.value for local, federated in pairs)
    return f"That is {gain:.2f} higher than {alone}; the gain shows at {better} of {plural(len(pairs), 'hospital')}."


def _overlap(pairs: list[Pair]) -> str:
    overlapping = sum(federated.low <= local.high and local.low <= federated.high for local, federated in pairs)
    if not overlapping:
        return "At no hospital do the 95 % intervals of the two models overlap."
    where = f"At {overlapping} of {plural(len(pairs), 'hospital')}"
    return (
        f"{where} the 95 % intervals of the two overlap: these test patients alone do not settle the difference there."
    )


def _excluded(results: Results) -> str:
    left = len(results.sites) - results.overall.federated.mean.sites
    if not left:
        return ""
    verb, has = ("is", "it lacks") if left == 1 else ("are", "they lack")
    return f"{plural(left, 'hospital')} {verb} not in these means: {has} figures for some of the models."


def labels_text(report: SiteReport) -> str:
    """Patients a label, e.g. 120 benign, 60 malignant."""
    return ", ".join(f"{told(many)} {label}" for label, many in report.labels.items())


def has_threshold(results: Results) -> bool:
    """Whether anything was measured at an operating point."""
    return results.overall.federated.sensitivity is not None


def metrics_shown(results: Results) -> list[Metric]:
    """The metrics that these results hold for at least one block."""
    blocks = [site.block(model) for site in results.sites for model in MODELS]
    blocks += [getattr(results.overall, model) for model in MODELS]
    return [
        metric
        for metric in (*METRICS, *OTHER_METRICS)
        if any(block is not None and block.figure(metric) for block in blocks)
    ]
