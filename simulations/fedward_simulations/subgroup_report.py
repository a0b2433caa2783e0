"""Groups of patients in the report and the model card: the words, the rows, the figure. Pure: results in, text out."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

from fedward_common.study_subgroups import GROUPS, NOT_KNOWN, OTHER, Subgroups
from fedward_simulations.drawing import LOOKS, RULE, new_canvas, svg_text
from fedward_simulations.results import GroupBlock, Results
from fedward_simulations.wording import METRIC_TITLES, count, figure_text, number

BY: Mapping[Subgroups, str] = {"sex": "sex", "age": "age", "vendor": "maker of the scanner"}
_WORDS: Mapping[tuple[Subgroups, str], str] = {
    ("sex", "F"): "women",
    ("sex", "M"): "men",
    ("sex", "O"): "other sex",
    ("sex", NOT_KNOWN): "sex not known",
    ("age", NOT_KNOWN): "age not known",
    ("vendor", NOT_KNOWN): "maker not known",
    ("vendor", OTHER): "other makers",
}


class GroupRow(NamedTuple):
    """A group of patients and the federated model's figures on it, as text."""

    title: str
    tested: str
    hospitals: str
    figures: tuple[str, ...]


def title(by: Subgroups, name: str) -> str:
    """What a group is called where it stands alone."""
    word = _word(by, name)
    return word[0].upper() + word[1:]


def _word(by: Subgroups, name: str) -> str:
    """What it is called in a sentence."""
    return _WORDS.get((by, name), f"age {name}" if by == "age" else name)


def blocks(results: Results) -> Iterator[tuple[Subgroups, str, str, GroupBlock]]:
    """By what patients are grouped, the group, the label and its figures, in the order in which they are shown."""
    for by in results.study.spec.evaluation.subgroups:
        shown = results.subgroups.get(by, {})
        yield from ((by, name, label, b) for name in GROUPS[by] for label, b in shown.get(name, {}).items())


def rows(results: Results) -> list[tuple[str, list[GroupRow]]]:
    """The table: a heading for each way of grouping, and a row a group."""
    found: dict[Subgroups, list[GroupRow]] = {by: [] for by in results.study.spec.evaluation.subgroups}
    for by, name, label, block in blocks(results):
        figures = tuple(figure_text(figure) for figure in (block.roc_auc, block.sensitivity, block.specificity))
        tested = f"{count(block.patients)} ({count(block.positives)} with the finding)"
        found[by].append(GroupRow(_named(results, by, name, label), tested, str(block.sites), figures))
    return [(f"By {BY[by]}", own) for by, own in found.items() if own]


def _named(results: Results, by: Subgroups, name: str, label: str) -> str:
    return title(by, name) if results.study.positive else f"{title(by, name)}: {label}"


def notes(results: Results) -> list[str]:
    """Where the model differs between groups, and of which groups nothing is known."""
    return [*_differences(results), *_missing(results)]


def _differences(results: Results) -> Iterator[str]:
    """Pairs of groups whose intervals do not overlap."""
    for one, other in combinations(blocks(results), 2):
        (by, first, label, low), (by_2, second, label_2, high) = one, other
        if (by, label) != (by_2, label_2) or low.roc_auc is None or high.roc_auc is None:
            continue
        if low.roc_auc.high < high.roc_auc.low or high.roc_auc.high < low.roc_auc.low:
            names = _word(by, first), _word(by, second)
            yield (
                f"The federated model does not do alike in all groups by {BY[by]}: the ROC-AUC for “{label}” is "
                f"{figure_text(low.roc_auc)} in {names[0]}, {figure_text(high.roc_auc)} in {names[1]}; the 95 % "
                "intervals do not overlap."
            )


def _missing(results: Results) -> Iterator[str]:
    """Groups that one would look for and no hospital may tell of."""
    for by in results.study.spec.evaluation.subgroups:
        shown = results.subgroups.get(by, {})
        if not shown:
            yield f"No figure by {BY[by]}: no hospital has enough test patients in its groups."
            continue
        foreseen = {"sex": ("F", "M"), "age": GROUPS["age"][:-1], "vendor": ()}[by]
        if missing := [_word(by, name) for name in foreseen if name not in shown]:
            yield f"No figure for {' or '.join(missing)}: too few test patients at any hospital, or none."


def forest(results: Results) -> str:
    """The ROC-AUC of each group with its interval, beneath each other; the line is that of all test patients."""
    held = [one for one in blocks(results) if one[3].roc_auc is not None]
    with new_canvas((7.2, 1.0 + 0.34 * len(held))) as canvas:
        axes = canvas.add_subplot()
        whole, look = results.overall.federated.roc_auc, LOOKS["federated"]
        if whole is not None:
            axes.axvline(whole.value, color=RULE, linewidth=1.2)
        for place, (*_, block) in enumerate(held):
            area = block.roc_auc
            if area is not None:
                axes.plot([area.low, area.high], [place, place], color=look.colour, linewidth=1.2)
                axes.plot(area.value, place, look.marker, color=look.colour, markersize=6)
        names = [f"{_named(results, by, name, label)}, n = {count(b.patients)}" for by, name, label, b in held]
        axes.set_yticks(range(len(held)), names)
        axes.set_ylim(len(held) - 0.4, -0.6)
        lows = [block.roc_auc.low for *_, block in held if block.roc_auc is not None]
        axes.set(xlim=(min(0.5, *lows), 1.0), xlabel=f"{METRIC_TITLES['roc_auc']} with 95 % interval")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        return svg_text(canvas, "subgroups", forest_alt(results))


def forest_alt(results: Results) -> str:
    """The figure in words."""
    said = [
        f"{_named(results, by, name, label)}: {figure_text(block.roc_auc)}"
        for by, name, label, block in blocks(results)
        if block.roc_auc is not None
    ]
    whole = results.overall.federated.roc_auc
    of_all = f" All test patients: {number(whole.value)}." if whole is not None else ""
    return f"ROC-AUC of the federated model by group of patients. {'; '.join(said)}.{of_all}"


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
    held = [
        f"{_named(results, by, name, label)} {figure_text(block.roc_auc)}"
        for by, name, label, block in blocks(results)
        if block.roc_auc is not None
    ]
    if not results.study.spec.evaluation.subgroups:
        return "Age, sex, ethnicity and other groups of patients: not analysed."
    return (
        f"Groups of test patients, {METRIC_TITLES['roc_auc']} of the federated model: {'; '.join(held) or 'withheld'}."
    )
