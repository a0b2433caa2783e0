"""A strategy at work on a run's model: what it is shown, what it asks of sites, what it makes of their updates.

A strategy sees a façade of the grid whose nodes are the sites of this round, in the order of their names, and of the
model the arrays that sites send back. One that averages gets one pre-averaged reply, another gets all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedward_common.batch_norm import returned_names
from fedward_common.compression import decode_update, encode_model
from fedward_common.errors import RunError
from fedward_common.records import (
    CONTROL,
    Question,
    arrays_in,
    from_array_record,
    plain,
    question_record,
    record_of,
    texts_in,
    to_array_record,
)
from fedward_common.study import StudySpec
from fedward_common.study_strategy import OPTIONS, SHIPPED
from fedward_server.aggregation import StreamingMean
from fedward_server.facade import RosterGrid
from fedward_server.roster import Participant
from fedward_server.strategies import make_strategy, only_averages, takes
from fedward_server.strategies.scaffold import ROSTER_EXAMPLES
from fedward_server.updates import Updates, lower_median

State = dict[str, npt.NDArray[Any]]

# flwr's strategies read arrays through numpy's .npy parser, and so through Python's ast, which in CPython 3.11 fails
# when several threads are in it: the engines of one process take turns
_FLOWER = Lock()


@dataclass(slots=True)
class Steering:
    """A run's model, and the strategy that makes the next one of it.

    `state` is the whole of the network's, buffers too; `parameters` are the names of what an optimiser changes.
    """

    study: StudySpec
    grid: Grid
    state: State
    parameters: frozenset[str]
    begins: int = 1  # the round whose strategy it begins with
    strategy: Strategy = field(init=False)
    _sent_back: dict[str, None] = field(init=False)  # names of what sites send back this round, in order

    def __post_init__(self) -> None:
        self.strategy = make_strategy(self.study, self.begins)
        self._sent_back = {}

    # Questions -------------------------------------------------------------------------------------------------------

    def questions(
        self, number: int, trainers: Sequence[Participant], question: Question, told: Callable[[str], dict[str, object]]
    ) -> dict[str, Message]:
        """The strategy's messages by site, with the whole state and `question` in them, and what each is `told`.

        A strategy begins anew with each layer that learns alone, with the whole network, and after each fold: what it
        remembers of one says nothing of another.
        """
        if self.study.begins_anew(number):
            self.strategy = make_strategy(self.study, number)
        self._sent_back = dict.fromkeys(returned_names(self.study, self.state, number))
        by_node = dict(enumerate(trainers, start=1))
        everything = to_array_record(self.state)
        self.state = from_array_record(everything)  # the same in the message's own memory: it is held once
        sent = record_of({name: array for name, array in everything.items() if self._is_the_strategys(name)})
        with _FLOWER:
            given, facade = self._given(sent), RosterGrid(by_node, self.grid)
            messages = list(self.strategy.configure_train(number, given, ConfigRecord(), facade))
        coded: dict[int, ArrayRecord] = {}  # strategies give all sites one record
        questions = {}
        for message in messages:
            site = by_node[message.metadata.dst_node_id]
            config = texts_in(message.content)["config"]
            arrays = arrays_in(message.content)
            if id(arrays) not in coded:
                extra = {name: array for name, array in arrays.items() if name.startswith(CONTROL)}
                coded[id(arrays)] = self._coded(
                    record_of({**{name: arrays.get(name, array) for name, array in everything.items()}, **extra})
                )
            asked = question.model_copy(update=told(site.name))
            content = question_record(asked, coded[id(arrays)], config)
            questions[site.name] = Message(content, site.node_id, message.metadata.message_type)
        return questions

    def expected(self, question: Message) -> State:
        """What a site is to send back, as it was sent: its part of the state, and what the strategy added."""
        sent = from_array_record(arrays_in(question.content))
        return {**self._returned, **{name: array for name, array in sent.items() if name.startswith(CONTROL)}}

    def decoded(self, sent: ArrayRecord) -> ArrayRecord:
        """An update as the study's [update] lets it travel, at full precision. RecordError where it is none."""
        arrays = from_array_record(sent)
        if self.study.update.compression == "none":
            return sent
        return to_array_record(decode_update(arrays, self._returned, self.study.update))

    # Updates ---------------------------------------------------------------------------------------------------------

    def step(self, number: int, updates: Updates, asked: Mapping[str, Message], training_patients: int) -> None:
        """Take the strategy's step from the updates of a round; `training_patients` are all sites', silent ones too."""
        name = self.study.strategy.name
        if only_averages(self.strategy):
            learned, others = updates.mean(), State()
        else:
            if takes(self.study.strategy) == "all":
                replies, others = self._all(updates, asked)
            else:
                replies, others = self._averaged(updates, asked, training_patients)
            with _FLOWER:
                arrays, _ = self.strategy.aggregate_train(self.study.round_of_strategy(number), replies)
            if arrays is None:
                raise RunError(
                    f"strategy {name} made no model of the {len(updates.accepted)} updates of round {number}: see the "
                    "hub's log of the run"
                )
            learned = from_array_record(arrays)
        if wrong := next((key for key, array in learned.items() if not np.isfinite(array).all()), None):
            raise RunError(
                f"strategy {name} made numbers that are none of the updates of round {number} (array {wrong}): lower "
                "its learning rate, or choose another strategy; the run can be resumed"
            )
        self.state = {
            name: learned[name].astype(old.dtype, copy=False) if name in learned else others.get(name, old)
            for name, old in self.state.items()
        }

    def _averaged(
        self, updates: Updates, asked: Mapping[str, Message], training_patients: int
    ) -> tuple[list[Message], State]:
        """One pre-averaged reply: a mean-based strategy computes the same from it as from all. Then the buffers."""
        mean = updates.mean()
        taken = {name for name in mean if name in self.parameters or name.startswith(CONTROL)}
        arrays = to_array_record({name: mean[name] for name in mean if name in taken})
        reply = _reply(self._given(arrays), updates.patients, updates.train_loss, next(iter(asked.values())))
        reply.content.metric_records["metrics"][ROSTER_EXAMPLES] = training_patients
        return [reply], {name: array for name, array in mean.items() if name not in taken}

    def _all(self, updates: Updates, asked: Mapping[str, Message]) -> tuple[list[Message], State]:
        """Each site's reply, of the arrays that the strategy makes. Then the others: means, of integers a median."""
        order = [name for name in self.state if self._is_the_strategys(name)]  # by place, as flwr's q-FedAvg does
        order += sorted({name for _, record in updates.all() for name in record if name.startswith(CONTROL)})
        averaged = [name for name, old in self._returned.items() if old.dtype.kind == "f" and name not in order]
        counts: dict[str, list[npt.NDArray[Any]]] = {}
        statistics = StreamingMean()
        replies = []
        for site, record in updates.all():
            trained = updates.accepted[site]
            whole = from_array_record(record)
            floats = {name: record[name] for name in order if name in record}
            replies.append(_reply(self._given(record_of(floats)), trained.patients, trained.train_loss, asked[site]))
            for name in whole.keys() - floats.keys() - set(averaged):
                counts.setdefault(name, []).append(whole[name])
            if averaged:
                statistics.add({name: whole[name] for name in averaged}, trained.patients)
        medians = {name: lower_median(values) for name, values in counts.items()}
        return replies, {**medians, **(statistics.result() if averaged else {})}

    # Views of the state ----------------------------------------------------------------------------------------------

    @property
    def _returned(self) -> State:
        """The part of the state that sites send back."""
        return {name: self.state[name] for name in self._sent_back}

    def _is_the_strategys(self, name: str) -> bool:
        """Whether a strategy makes the next one of an array that sites send back: of parameters, or of real numbers.

        The latter where it takes all, so that a robust one protects BatchNorm's statistics too.
        """
        if name not in self._sent_back:
            return False
        spec = self.study.strategy
        everything = takes(spec) == "all" and (spec.name not in OPTIONS or OPTIONS[spec.name].makes_statistics)
        return self.state[name].dtype.kind == "f" if everything else name in self.parameters

    def _given(self, record: ArrayRecord) -> ArrayRecord:
        """Arrays as a strategy may be given them: ours take views, a plug-in may not."""
        return record if self.study.strategy.name in SHIPPED else plain(record)

    def _coded(self, model: ArrayRecord) -> ArrayRecord:
        """The model as it travels: the hub keeps it at full precision."""
        if self.study.update.compression == "none":
            return model
        return to_array_record(encode_model(from_array_record(model), self.study.update))


def _reply(arrays: ArrayRecord, patients: int, train_loss: float, asked: Message) -> Message:
    metrics = MetricRecord({"num-examples": patients, "train-loss": train_loss})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=asked)
