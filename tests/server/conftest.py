"""What the tests of the pages and of the people's API stand on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedward_server.testing import Ground, Person
from fedward_server.testing import ground as hub_with_people


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with hub_with_people(tmp_path) as made:
        yield made


@pytest.fixture
def ada(ground: Ground) -> Person:
    return ground.person("ada", "operator")
