"""What a run has only one of at a site: the first that is asked for is remembered, another is a `DataError`."""

import json

from fedward_client.source import Source
from fedward_common.errors import DataError
from fedward_common.records import Arrays, Question, model_sha256


def fix_model(source: Source, question: Question, whom: str, arrays: Arrays) -> None:
    """Test patients are scored by one model of a run: figures of many would add up to single patients' scores.

    A fold is, too: from two models, with all other folds alike, its few patients could be told.
    """
    model = model_sha256(arrays)
    if source.once(question.run, f"model of {whom}", model) != model:
        raise DataError(f"{source.name} has scored {whom} of this run by another model: start a new one")


def fix_operating_points(source: Source, question: Question) -> None:
    """A run gets figures at one set of operating points: those of many would add up to single patients' scores."""
    if question.thresholds is None:
        return
    points = json.dumps(question.thresholds, sort_keys=True)
    if source.once(question.run, f"operating points, {question.side}", points) != points:
        raise DataError(
            f"{source.name} has scored this run's {question.side} patients at other operating points already; "
            "a run gets one set of them"
        )


def fix_scale(source: Source, question: Question) -> None:
    """A run has one scale, or what was trained on it is not what is scored."""
    scale = question.model_dump_json(include={"scale"})
    if question.scale is not None and source.once(question.run, "scale", scale) != scale:
        raise DataError(f"{source.name} has this run's data on another scale already: start a new run")
