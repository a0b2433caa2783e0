"""Flower's own SuperLink program, set for models: see ADR 0014.

    python -m fedward_server.superlink_process [what flower-superlink takes]

uvicorn stops reading a connection when 64 KiB of a body wait, and Flower, which wants the whole body, passes each such
piece through all layers of its application by itself: a third of what a SuperLink does in a round of models. A request
that has been answered waits for Python's garbage collector, with its body.
"""

from uvicorn.protocols.http import h11_impl, httptools_impl

from fedward_common.process_memory import collect_often

BODY_BYTES = 8 * 2**20  # that wait, of one request; Flower's own pieces of arrays have 5 MiB


def take_bodies_whole() -> None:
    """Set uvicorn's bound in this process. Raises RuntimeError for another uvicorn than this was written for."""
    for implementation in (h11_impl, httptools_impl):
        if not hasattr(implementation, "HIGH_WATER_LIMIT"):
            raise RuntimeError(
                f"{implementation.__name__} has no HIGH_WATER_LIMIT: install the uvicorn of constraints.txt"
            )
        setattr(implementation, "HIGH_WATER_LIMIT", BODY_BYTES)  # noqa: B010 - a name that it does not export


def main() -> None:
    """Run it until it is told to end."""
    from flwr.superlink.cli.flower_superlink import flower_superlink

    take_bodies_whole()
    collect_often()
    flower_superlink()


if __name__ == "__main__":
    main()
