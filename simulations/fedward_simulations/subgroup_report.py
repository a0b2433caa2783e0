"""Groups of patients in the report and the model card: the words, the rows, the figure. Pure: results in, text out."""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from fedward_common.study_subgroups import GROUPS, Subgroups
from fedward_server.figures.blocks import METRIC_TITLES
from fedward_server.figures.drawing import new_canvas, svg_text
from fedward_server.figures.groups import BY, title, word
from fedward_server.figures.plots import forest as draw_forest
from fedward_server.figures.plots import forest_inches
from fedward_simulations.results import OTHER_METRICS, Figure, GroupBlock, Metric, Results
from fedward_simulations.wording import count, figure_text, number


class GroupRow(NamedTuple):
    """A group of patients and the federated model's figures on it, as text."""

    title: str
    tested: str
    hospitals: str
    figures: tuple[str, ...]


def blocks(results: Results) -> Iterator[tuple[Subgroups, str, str, GroupBlock]]:
    """By what patients are grouped, the group, the label and its figures, in the order in which they are shown."""
    for by in results.study.spec.evaluation.subgroups:
        shown = results.subgroups.get(by, {})
        yield from ((by, name, label, b) for name in GROUPS[by] for label, b in shown.get(name, {}).items())


def metrics(results: Results) -> list[Metric]:
    """The columns of the table."""
    if results.study.task == "classification":
        return ["roc_auc", "sensitivity", "specificity"]
    return [metric for metric in OTHER_METRICS if any(metric in block.figures for *_, block in blocks(results))]


def rows(results: Results) -> list[tuple[str, list[GroupRow]]]:
    """The table: a heading for each way of grouping, and a row a group."""
    found: dict[Subgroups, list[GroupRow]] = {by: [] for by in results.study.spec.evaluation.subgroups}
    for by, name, label, block in blocks(results):
        figures = tuple(figure_text(block.figure(metric)) for metric in metrics(results))
        tested = count(block.patients)
        if block.positives is not None:
            tested += f" ({count(block.positives)} with the finding)"
        found[by].append(GroupRow(_named(results, by, name, label), tested, str(block.sites), figures))
    return [(f"By {BY[by]}", own) for by, own in found.items() if own]


def _named(results: Results, by: Subgroups, name: str, label: str) -> str:
    return title(by, name) if _one_label(results) else f"{title(by, name)}: {label}"


def _one_label(results: Results) -> bool:
    return results.study.positive is not None or len(results.study.labels) == 1


def _whole(results: Results) -> Figure | None:
    """The figure of all test patients; None where groups have one for each of several labels."""
    return results.overall.federated.figure(results.study.headline) if _one_label(results) else None


def _headlines(results: Results) -> list[tuple[str, GroupBlock, Figure]]:
    """The groups that have the figure that the report is about: what they are called, and it."""
    return [
        (_named(results, by, name, label), block, figure)
        for by, name, label, block in blocks(results)
        if (figure := block.figure(results.study.headline)) is not None
    ]


def notes(results: Results) -> list[str]:
    """Where the model differs between groups, and of which groups nothing is known."""
    return [*_differences(results), *_missing(results)]


def _differences(results: Results) -> Iterator[str]:
    """Pairs of groups whose intervals do not overlap."""
    metric = results.study.headline
    for one, other in combinations(blocks(results), 2):
        (by, first, label, block), (by_2, second, label_2, block_2) = one, other
        low, high = block.figure(metric), block_2.figure(metric)
        if (by, label) != (by_2, label_2) or low is None or high is None:
            continue
        if low.high < high.low or high.high < low.low:
            names = word(by, first), word(by, second)
            yield (
                f"The federated model does not do alike in all groups by {BY[by]}: the {METRIC_TITLES[metric]} for "
                f"“{label}” is {figure_text(low)} in {names[0]}, {figure_text(high)} in {names[1]}; the 95 % intervals "
                "do not overlap."
            )


def _missing(results: Results) -> Iterator[str]:
    """Groups that one would look for and no hospital may tell of."""
    for by in results.study.spec.evaluation.subgroups:
        shown = results.subgroups.get(by, {})
        if not shown:
            yield f"No figure by {BY[by]}: no hospital has enough test patients in its groups."
            continue
        foreseen = {"sex": ("F", "M"), "age": GROUPS["age"][:-1], "vendor": ()}[by]
        if missing := [word(by, name) for name in foreseen if name not in shown]:
            yield f"No figure for {' or '.join(missing)}: too few test patients at any hospital, or none."


def forest(results: Results) -> str:
    """The headline's figure of each group with its interval, beneath each other; the line is of all test patients."""
    held = _headlines(results)
    rows = [(f"{name}, n = {count(block.patients)}", figure) for name, block, figure in held]
    with new_canvas(forest_inches(len(rows))) as canvas:
        draw_forest(canvas, rows, _whole(results), METRIC_TITLES[results.study.headline])
        return svg_text(canvas, "subgroups", forest_alt(results))


def forest_alt(results: Results) -> str:
    """The figure in words."""
    said = "; ".join(f"{name}: {figure_text(figure)}" for name, _, figure in _headlines(results))
    whole = _whole(results)
    of_all = f" All test patients: {number(whole.value)}." if whole is not None else ""
    return f"{METRIC_TITLES[results.study.headline]} of the federated model by group of patients. {said}.{of_all}"


def limits(results: Results) -> list[str]:
    """What the groups' figures cannot say, and what they do."""
    if not results.study.spec.evaluation.subgroups:
        return ["Results were not split by age, sex or other groups of patients."]
    return [
        *notes(results),
        "Groups of patients were looked at one by one, not crossed; they hold few patients, and several are compared.",
    ]


def factors(results: Results) -> str:
    """What the model card says of groups of patients."""
    if not results.study.spec.evaluation.subgroups:
        return "Age, sex, ethnicity and other groups of patients: not analysed."
    said = "; ".join(f"{name} {figure_text(figure)}" for name, _, figure in _headlines(results)) or "withheld"
    return f"Groups of test patients, {METRIC_TITLES[results.study.headline]} of the federated model: {said}."
