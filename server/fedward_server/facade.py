"""The grid as a strategy sees it."""

from collections.abc import Iterable
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedward_common.errors import RunError


class RosterGrid(Grid):
    """What a strategy sees: the nodes that the engine picked. Sending and receiving are the engine's."""

    def __init__(self, node_ids: Iterable[int], grid: Grid) -> None:
        self._node_ids = list(node_ids)
        self._grid = grid

    def get_node_ids(self) -> list[int]:
        """The nodes of this round, in the order of their sites' names."""
        return list(self._node_ids)

    @property
    def run(self) -> Any:
        """The run that the strategy works for."""
        return self._grid.run

    def set_run(self, run: Any) -> None:
        """Refused."""
        del run
        raise RunError("a strategy may not change the run: the round engine owns it")

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """A message for the engine to send."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refused."""
        del messages
        raise RunError("a strategy may not send: the round engine does")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refused."""
        del message_ids
        raise RunError("a strategy may not receive: the round engine does")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Refused."""
        del messages, timeout
        raise RunError("a strategy may not send: the round engine does")
