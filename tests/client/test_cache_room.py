"""Room for caches: the least recently used goes, what is read stays, what cannot fit is refused before work starts."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedward_client import cache_room
from fedward_client.cache import load
from fedward_client.cache_room import IMAGES, USERS
from fedward_client.cli import app
from fedward_client.handlers import Hospital
from fedward_client.site import Site
from fedward_client.source import SiteSource
from fedward_common.errors import DataError
from fedward_common.events import Event
from fedward_common.records import Question
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

Folder = Callable[..., Path]
LABELS = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(16)}


def study(side: int) -> StudySpec:
    """A study whose 32 images take 128 `side`^2 bytes."""
    return tiny_study(input={"size": [side, side]}, cohort={"min_patients": 5}, split={"shares": [1.0, 0.0, 0.0]})


@pytest.fixture
def site(site_folder: Folder) -> Site:
    return Site.open(site_folder(LABELS))


def sizes(site: Site) -> list[int]:
    """The sides of the images that are there, the least recently used first."""
    whole = [(entry.path / IMAGES).stat().st_size for entry in cache_room.entries(cache_room.root_of(site))]
    return [round((size / 128) ** 0.5) for size in whole]


def limited(site: Site, *sides: int) -> Site:
    """The site with room for the caches of these studies, and not for one more."""
    return replace(site, cache_bytes=sum(128 * side**2 + 16384 for side in sides))


def test_the_least_recently_used_goes_first(site: Site) -> None:
    for side in (32, 33, 34):
        load(site, study(side), "run-1" + str(side))
    load(site, study(32), "run-132")  # used again
    assert sizes(site) == [33, 34, 32]
    load(limited(site, 32, 34, 35), study(35), "run-135")
    assert sizes(site) == [34, 32, 35]
    load(limited(site, 60), study(60), "run-160")
    assert sizes(site) == [60]


def test_what_is_read_stays(site: Site) -> None:
    held = load(site, study(32), "run-1")
    load(site, study(33), "run-2")
    at = limited(site, 32, 34)
    load(at, study(34), "run-3")
    assert sizes(site) == [32, 34]
    with pytest.raises(DataError, match="the caches that are read at this moment leave less"):
        load(limited(site, 35), study(35), "run-4")
    assert sizes(site) == [32, 34], "nothing went in vain"
    assert held.images.any()
    del held
    load(limited(site, 35), study(35), "run-4")
    assert sizes(site) == [35]


def test_a_site_reads_one_runs_images_at_a_time(site: Site) -> None:
    hospital = Hospital(SiteSource(limited(site, 40)))
    for side in (38, 39, 40):
        hospital.prepare(Question(kind="prepare", study=study(side), run=f"run-{side}"))
        assert sizes(site) == [side]


def test_a_study_that_alone_does_not_fit_is_refused_before_it_starts(site: Site) -> None:
    load(site, study(32), "run-1")
    events: list[Event] = []
    with pytest.raises(DataError, match=r"north: the cache needs 2 MiB, and \[limits\] cache_mib allows 1 MiB: raise"):
        load(replace(site, cache_bytes=2**20), study(100), "run-2", events.append)
    assert not [event for event in events if event.stage == "cache"]
    assert sizes(site) == [32]


def test_the_floor_of_free_space_is_kept(site: Site) -> None:
    load(site, study(32), "run-1")
    with pytest.raises(DataError, match=r"has \d+ MiB, of which \[limits\] min_free_mib keeps 1099511627776 MiB; make"):
        load(replace(site, min_free_bytes=2**60), study(33), "run-2")
    assert sizes(site) == [32]
    load(replace(site, min_free_bytes=2**60), study(32), "run-1")  # it is there already


def test_check_says_so(site_folder: Folder, tmp_path: Path) -> None:
    folder = site_folder(LABELS, settings="[limits]\ncache_mib = 1\n[privacy]\nmin_cell = 1\n")
    path = tmp_path / "s.toml"
    text = '[study]\nid = "s"\ntask = "classification"\n[cohort]\nmodality = "US"\nlabels = ["benign", "malignant"]\n'
    text += 'positive = "malignant"\nmin_patients = 5\n[model]\nname = "small-cnn"\n[input]\nsize = '
    path.write_text(text + "[100, 100]\n")
    refused = CliRunner().invoke(app, ["check", str(folder), str(path)])
    assert refused.exit_code == 1, refused.output
    shown = " ".join(refused.output.split())
    assert "Cannot take part: north: the cache needs 2 MiB, and [limits] cache_mib allows 1 MiB" in shown
    assert "the most that all studies' caches may take" in shown
    path.write_text(text + "[50, 50]\n")
    assert CliRunner().invoke(app, ["check", str(folder), str(path)]).exit_code == 0


@given(
    held=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3)), max_size=6),
    needed=st.integers(1, 100),
    limit=st.integers(100, 300),
)
def test_as_few_go_as_must(
    tmp_path_factory: pytest.TempPathFactory, held: list[tuple[int, int]], needed: int, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("site")
    site = replace(Site.open(folder), cache_bytes=limit * 2**20, min_free_bytes=0)
    root = cache_room.root_of(site)
    for number, (size, age) in enumerate(held):
        (root / f"{number}" / USERS).mkdir(parents=True)
        with (root / f"{number}" / IMAGES).open("wb") as file:
            file.truncate(size * 2**20)
        mark = root / f"{number}" / USERS / "ab"
        mark.touch()
        os.utime(mark, (age, age))
    before = cache_room.entries(root)
    going = cache_room.plan(site, needed * 2**20)
    assert going == before[: len(going)]

    def fits(staying: list[cache_room.Entry]) -> bool:
        return sum(entry.size for entry in staying) + needed * 2**20 <= limit * 2**20

    assert fits(before[len(going) :])
    assert not going or not fits(before[len(going) - 1 :])
    cache_room.make(site, needed * 2**20)
    assert cache_room.entries(root) == before[len(going) :]


FULL = """
import resource, sys
from pathlib import Path
from fedward_client.cache import load
from fedward_client.site import Site
from fedward_common.errors import DataError
from fedward_common.study import StudySpec

site, study = Site.open(Path(sys.argv[1])), StudySpec.from_json(sys.stdin.read())
load(site, study.model_copy(update={"input": study.input.model_copy(update={"size": (16, 16)})}), "run-1")
resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, -1))
try:
    load(site, study, "run-2")
except DataError as error:
    print(error)
print(*sorted(path.suffix or path.name[:1] for path in (site.state / "cache").iterdir() if not path.is_dir()))
print(sum(path.is_dir() for path in (site.state / "cache").iterdir()))
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
print(len(load(site, study, "run-2").images))
"""


def test_a_write_that_fails_leaves_no_part_of_a_cache(site: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, site.folder],
        input=study(64).canonical_json(),
        capture_output=True,
        check=True,
    )
    message, files, folders, images = done.stdout.decode().splitlines()
    assert message.startswith("north: the cache needs 1 MiB, the disk of the state folder has ")
    assert "(File too large); make room" in message
    assert (files, folders, images) == (".", "1", "32")
