"""Some of an embedded engine's hospitals as a Flower `Grid` of their own."""

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedward_simulations.grid import EmbeddedGrid


class GridView(Grid):
    """An `EmbeddedGrid` with some of its hospitals only: what a baseline's engine sees."""

    def __init__(self, grid: EmbeddedGrid, names: Iterable[str]) -> None:
        self._grid = grid
        self._nodes = sorted(grid.nodes[name] for name in names)

    def get_node_ids(self) -> list[int]:
        """The nodes of the named hospitals."""
        return list(self._nodes)

    @property
    def run(self) -> Run:
        """The grid's run."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """Take a run as the current one."""
        self._grid.set_run(run)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """As the grid does."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """As the grid does."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """As the grid does."""
        return self._grid.send_and_receive(messages, timeout=timeout)
