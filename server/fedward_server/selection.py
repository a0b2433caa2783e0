"""Which round's model is the best so far, and whether the run may end before its last round."""

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from fedward_common.study import Evaluation


class Standing(BaseModel):
    """What a selection knows; goes on over a resume."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    best_round: int = 0  # 0 where no model was scored yet
    best: float | None = None
    mark: float | None = None  # the last value that was better than the one before by more than `min_delta`
    mark_round: int = 0


@dataclass(slots=True)
class Selection:
    """Follows the primary metric of a run's models: the loss falls, all others rise."""

    rules: Evaluation
    standing: Standing = field(default_factory=Standing)

    def score(self, number: int, value: float | None) -> bool:
        """Take note of a round's value; whether its model is the best so far. Without a value nothing changes."""
        if value is None:
            return False
        now = self.standing
        stopping = self.rules.early_stopping
        best = now.best is None or self._gain(value, now.best) > 0
        marked = now.mark is None or self._gain(value, now.mark) > (stopping.min_delta if stopping else 0.0)
        self.standing = Standing(
            best_round=number if best else now.best_round,
            best=value if best else now.best,
            mark=value if marked else now.mark,
            mark_round=number if marked else now.mark_round,
        )
        return best

    def stalled(self, number: int) -> bool:
        """Whether the run ends after round `number`, the last that was scored."""
        stopping = self.rules.early_stopping
        return stopping is not None and number - self.standing.mark_round >= stopping.patience

    def _gain(self, value: float, before: float) -> float:
        return before - value if self.rules.primary == "loss" else value - before
