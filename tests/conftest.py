"""For all tests: what the place where they are started would otherwise change, and which of them begin."""

import signal

import pytest
from hypothesis import settings

# these machines are shared, so no example of a property has a time limit of its own
settings.register_profile("shared machines", deadline=None)
settings.load_profile("shared machines")

# a shell starts what it puts into the background with Ctrl-C ignored, and so would everything be that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)

WHOLE_SYSTEMS = {"e2e", "integration", "simulations"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: at the end one of them would keep a single worker busy."""
    items.sort(key=lambda item: item.path.parent.name not in WHOLE_SYSTEMS)
