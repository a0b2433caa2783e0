"""The blocks of results.json beside those of `figures.blocks`: means over hospitals, models compared. Values only."""

from pydantic import Field

from fedward_server.figures.blocks import METRICS, Block, Count, Metric, Part, empty


class Means(Part):
    """Means over the `sites` hospitals that have the figure for every model compared: each hospital counts once.

    `sd` is that of the study's main figure over the seeds, of each seed's own such mean.
    """

    sites: Count
    sd: float | None = None
    roc_auc: float | None
    sensitivity: float | None
    specificity: float | None
    precision: float | None
    figures: dict[Metric, float] = Field(default_factory=dict, exclude_if=empty)

    def figure(self, metric: Metric) -> float | None:
        """The mean of that name."""
        value: float | None = getattr(self, metric) if metric in METRICS else self.figures.get(metric)
        return value


class OverallBlock(Block):
    """All hospitals' test patients taken together, and the mean over hospitals."""

    mean: Means


class Compared(Part):
    """The ways to a model on all hospitals' test patients; `pooled` is None where data cannot be pooled.

    `personal` is each hospital's own model of a strategy that keeps one there, None where it does not.
    """

    local: Block
    federated: Block
    personal: Block | None = None
    pooled: Block | None


class Overall(Part):
    """`Compared` with the means over hospitals."""

    local: OverallBlock
    federated: OverallBlock
    personal: OverallBlock | None = None
    pooled: OverallBlock | None
