"""What of a run's figures a person may see: a steward nothing of another hospital, not even as a difference.

Beside his own hospital's figures a steward sees those of all hospitals together where at least two others are in them.
With one other they would be that one's, less his own. All that he sees of several hospitals is of the same ones: what
two such figures differ by would again be of one. What is not poolable in this sense, `poolable` takes out.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from fedward_common.metrics import Evaluation, GroupEvaluation
from fedward_server.people import Person

_BY_LABEL = ("sketches", "figures", "overlaps", "unregistered", "detections")
_OF_ALL = ("concordance", "folding")

Held = TypeVar("Held", bound=GroupEvaluation)


@dataclass(frozen=True, slots=True)
class Scope:
    """Whoever looks: a steward of a `site`, or anybody else."""

    site: str | None = None

    @classmethod
    def of(cls, person: Person) -> Self:
        """A person's; a steward of no site sees no site."""
        return cls((person.site or "") if person.role == "steward" else None)

    def sees(self, site: str) -> bool:
        """Whether a site's own figures may be seen."""
        return self.site is None or site == self.site

    def pools(self, sites: Iterable[str]) -> bool:
        """Whether something of all these sites together may be seen."""
        return self.site is None or len({*sites} - {self.site}) != 1

    def words(self, sentence: str, names: Collection[str]) -> str:
        """A sentence without the names of other sites, of all `names`."""
        hidden = sorted((re.escape(name) for name in names if not self.sees(name)), key=len, reverse=True)
        if not hidden:
            return sentence
        name = rf"(?<![\w-])(?:{'|'.join(hidden)})(?![\w-])"
        several = re.sub(rf"{name}(?:(?:, | and ){name})+", "other hospitals", sentence)
        return re.sub(name, "another hospital", several)


def shown_by(evaluations: Mapping[str, GroupEvaluation], field: str, label: str | None = None) -> set[str]:
    """The sites that have such a figure, of a label where it is by label."""
    held = {site: getattr(each, field) for site, each in evaluations.items()}
    return {site for site, found in held.items() if (found is not None if label is None else label in found)}


def reference(evaluations: Mapping[str, GroupEvaluation]) -> set[str]:
    """The sites that have any figure."""
    return {
        site
        for site, each in evaluations.items()
        if any(getattr(each, field) for field in _BY_LABEL) or any(getattr(each, field) for field in _OF_ALL)
    }


def poolable(evaluations: Mapping[str, Evaluation], scope: Scope, of: Collection[str]) -> dict[str, Evaluation]:
    """The evaluations with what may be put together for whoever looks: of a steward, what all sites `of` have."""
    if scope.site is None:
        return dict(evaluations)
    if not scope.pools(of):
        return {}
    whole = _common(evaluations, of)
    partitions = {by for each in evaluations.values() for by in each.subgroups}
    for by in sorted(partitions):
        for name in sorted({name for each in evaluations.values() for name in each.subgroups.get(by, {})}):
            own = {site: e.subgroups[by][name] for site, e in evaluations.items() if name in e.subgroups.get(by, {})}
            for site, group in _common(own, of).items():
                groups = whole[site].subgroups
                changed = {**groups, by: {**groups[by], name: group}}
                whole[site] = whole[site].model_copy(update={"subgroups": changed})
    return whole


def _common(evaluations: Mapping[str, Held], of: Collection[str]) -> dict[str, Held]:
    """Without the figures that not just the sites `of` have."""
    labels = {field: {label for each in evaluations.values() for label in getattr(each, field)} for field in _BY_LABEL}
    kept = {
        field: {label for label in found if shown_by(evaluations, field, label) == set(of)}
        for field, found in labels.items()
    }
    whole = {field for field in _OF_ALL if shown_by(evaluations, field) == set(of)}

    def changes(each: Held) -> dict[str, Any]:
        by_label = {
            field: {label: one for label, one in getattr(each, field).items() if label in kept[field]}
            for field in _BY_LABEL
        }
        return by_label | {field: getattr(each, field) if field in whole else None for field in _OF_ALL}

    return {site: each.model_copy(update=changes(each)) for site, each in evaluations.items()}
