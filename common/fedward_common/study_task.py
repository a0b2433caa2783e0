"""[study] task: what a model is to say of a patient, and what follows from it for the rest of a study."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from fedward_common.study_faults import Fault

Task = Literal["classification", "segmentation", "registration", "detection", "survival"]
Primary = Literal["roc_auc", "loss", "dice", "c_index", "froc"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRules:
    """What a task asks of a study. `labels`: the least and the most of them, in words what they are."""

    inputs: tuple[str, ...]  # kinds of [input]
    primary: tuple[Primary, ...]  # the first is the usual one
    labels: tuple[int, int | None]
    called: str
    several: bool = False  # whether an example may have several labels or none, each by itself; a site may know some


TASKS: Mapping[Task, TaskRules] = {
    "classification": TaskRules(
        inputs=("image", "series", "sequence", "compound", "table"),
        primary=("roc_auc", "loss"),
        labels=(2, None),
        called="the words for what a patient may have, two or more",
    ),
    "segmentation": TaskRules(
        inputs=("image",), primary=("dice", "loss"), labels=(1, None), called="the structures to be found", several=True
    ),
    "registration": TaskRules(
        inputs=("image",),
        primary=("dice", "loss"),
        labels=(0, None),
        called="the structures whose overlap is measured, if any",
        several=True,
    ),
    "detection": TaskRules(
        inputs=("image",), primary=("froc", "loss"), labels=(1, None), called="the kinds of finding", several=True
    ),
    "survival": TaskRules(
        inputs=("table",),
        primary=("c_index", "loss"),
        labels=(2, 2),
        called='the words for "censored" and for the event, in this order',
    ),
}


def task_faults(
    task: Task, *, kind: str, labels: tuple[str, ...], positive: str | None, multi_label: bool, primary: Primary
) -> Iterator[Fault]:
    """What the rest of a study says that its task cannot have."""
    rules = TASKS[task]
    least, most = rules.labels
    if kind not in rules.inputs:
        taken = " or ".join(f'"{each}"' for each in rules.inputs)
        yield Fault(("input", "kind"), f'must be {taken} for [study] task = "{task}"')
    if not least <= len(labels) <= (most or len(labels)):
        yield Fault(("cohort", "labels"), f'must be {rules.called}, for [study] task = "{task}"')
    if primary not in rules.primary:
        measures = " or ".join(f'"{each}"' for each in rules.primary)
        yield Fault(("evaluation", "primary"), f'must be {measures} for [study] task = "{task}"')
    if task == "registration" and not labels and primary != "loss":
        yield Fault(("evaluation", "primary"), 'must be "loss" where [cohort] labels names no structure to be scored')
    if task == "survival" and len(labels) == 2 and positive != labels[1]:
        yield Fault(("cohort", "positive"), f'must be "{labels[1]}", the event')
    elif task == "survival" and "censored" in labels[1:]:
        yield Fault(("cohort", "labels"), "must name first what the end of a follow-up without the event is called")
    elif task == "classification" and positive is None and len(labels) == 2 and not multi_label:
        yield Fault(
            ("cohort", "positive"), f"missing; with two labels, say which of them is looked for: {' or '.join(labels)}"
        )
    if rules.several and (positive is not None or multi_label):
        key = "positive" if positive is not None else "multi_label"
        yield Fault(("cohort", key), f'has no meaning for [study] task = "{task}", which has each label; remove it')
