"""How statistics of a study's patients are shown on a terminal."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console

from fedward_common.cohort_statistics import MISSING
from fedward_common.feature_statistics import EDGES, NEAREST_ZERO, FeatureCells, PooledFeature, pooled_features
from fedward_common.quantiles import Range, range_of
from fedward_server.surveys import SurveyResult
from fedward_server.tables import show_table

_BARS = " ▁▂▃▄▅▆▇█"
_PLACES = 12  # bars side by side


def show_statistics(found: SurveyResult) -> None:
    """What hospitals said of their patients: a line each cell, a column each hospital, and quantiles as ranges."""
    console = Console()
    total = found.pooled
    sites = list(found.sites)
    heads = [
        {"": title, **{site: getattr(found.sites[site], name) for site in sites}, "all": getattr(total, name)}
        for title, name in (("patients", "patients"), ("rows" if total.features else "images", "images"))
    ]
    heads.append({
        "": "unusable",
        **{site: _told(found.sites[site].unusable) for site in sites},
        "all": _or_more(total.unusable, total.unusable_kept_home),
    })  # fmt: skip
    show_table(heads, ("", *sites, "all"), "")
    unknown: list[str] = []
    for variable, table in total.tables.items():
        rows = [
            {
                variable: cell,
                **{site: _told(found.sites[site].tables[variable].get(cell, 0)) for site in sites},
                "all": _or_more(count, table.kept_home.get(cell, 0)),
            }
            for cell, count in table.cells.items()
            if count or cell in table.kept_home
        ]
        if [row[variable] for row in rows] == [MISSING]:
            unknown.append(variable)
            continue
        show_table(rows, (variable, *sites, "all"), "")
        _show_quantiles(console, variable, table.quantiles)
    if unknown:
        console.print(f"not known of any patient: {', '.join(unknown)}", highlight=False)
    _show_quantiles(console, "grey values", total.grey_values)
    _show_features(found)
    for reason in found.left_out:
        console.print(f"without {reason}", highlight=False, markup=False, soft_wrap=True)


def _show_features(found: SurveyResult) -> None:
    """A line each feature and hospital: its values as bars on one scale, how many patients lack it, quantiles."""
    rows: list[dict[str, str]] = []
    for name, everywhere in found.pooled.features.items():
        sites = {site: said for site, said in found.sites.items() if name in said.feature_tables}
        low, high = window([said.feature_tables[name] for said in sites.values()], everywhere.quantiles)
        for site, said in sites.items():
            cells = said.feature_tables[name]
            own, drawn = pooled_features([({name: cells}, said.patients)])[name], bars(cells, low, high)
            rows.append(
                {"feature": name, "hospital": site, "values": drawn, "missing": _told(cells.missing), **_quantiles(own)}
            )
        missing = _or_more(everywhere.missing, everywhere.missing_kept_home)
        rows.append(
            {
                "feature": name,
                "hospital": "all",
                "values": _from_to(low, high),
                "missing": missing,
                **_quantiles(everywhere),
            }
        )
    if rows:
        show_table(rows, tuple(rows[0]), "")


def window(cells: Sequence[FeatureCells], quantiles: Mapping[str, Range]) -> tuple[float, float]:
    """From where to where a feature's bars reach: from its 5 % to its 95 %, else over all bins that end somewhere."""
    ends = [end for each in cells for first, last, _ in each.cells for end in range_of((first, last), EDGES)]
    finite = [end for end in ends if end is not None] or [0.0, 1.0]
    low, high = quantiles.get("5 %", (None, None))[0], quantiles.get("95 %", (None, None))[1]
    return min(finite) if low is None else low, max(finite) if high is None else high


def bars(cells: FeatureCells, low: float, high: float) -> str:
    """How values are spread from `low` to `high`, a cell's patients evenly over it; those kept home are not drawn."""
    places = np.linspace(low, high, _PLACES + 1)
    heights = np.zeros(_PLACES)
    for first, last, count in cells.cells:
        begin, end = (
            float(np.clip(other if edge is None else edge, low, high))
            for edge, other in zip(range_of((first, last), EDGES), (low, high), strict=True)
        )
        shares = np.clip(np.minimum(places[1:], end) - np.maximum(places[:-1], begin), 0.0, None)
        if not shares.any():
            shares[0 if end <= low else -1] = 1.0
        heights += (count or 0) * shares / shares.sum()
    steps = np.ceil(heights / max(heights.max(), 1.0) * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[step] for step in steps)


def _quantiles(feature: PooledFeature) -> dict[str, str]:
    ranges = {share: feature.quantiles.get(share) for share in ("5 %", "50 %", "95 %")}
    return {share: _from_to(*ends) if ends else "" for share, ends in ranges.items()}


def _told(count: int | None) -> str:
    return "kept home" if count is None else str(count)


def _or_more(count: int, kept_home: int) -> str:
    return f"{count} or more" if kept_home else str(count)


def _show_quantiles(console: Console, name: str, quantiles: Mapping[str, Range]) -> None:
    """Each as the range that it lies in: the bins that were told allow no more."""
    if quantiles:
        ranges = "; ".join(f"{share}: {_from_to(*ends)}" for share, ends in quantiles.items())
        console.print(f"{name}: {ranges}", highlight=False, markup=False, soft_wrap=True)


def _from_to(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else "0 or less" if _number(high) == "0" else f"below {_number(high)}"
    if high is None:
        return f"{_number(low)} or more"
    return _number(low) if _number(low) == _number(high) else f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return "0" if abs(value) <= NEAREST_ZERO else f"{value:.4g}"
