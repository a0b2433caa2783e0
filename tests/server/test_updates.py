"""Updates that wait: in order, in files beyond a bound, dropped when refused."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward_common.errors import RunError
from fedward_common.records import Trained, from_array_record, to_array_record
from fedward_server.aggregation import StreamingMean
from fedward_server.shelf import IN_MEMORY_BYTES, Shelf
from fedward_server.updates import Updates, lower_median

NAMES = ["east", "north", "valley", "west"]


def trained(site: str, patients: int = 10) -> Trained:
    return Trained(
        site=site, study="ab" * 32, round=1, cohort="cd" * 32, patients=patients, images=patients, steps=1,
        train_loss=0.5, incoming=None, train_seconds=0.0, seconds=0.0,
    )  # fmt: skip


def arrays(site: str) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(NAMES.index(site))
    return {"w": random.normal(size=1000).astype(np.float32), "n": np.array([NAMES.index(site)], np.int64)}


def made(folder: Path, *, kept: bool = False, in_memory: int = IN_MEMORY_BYTES) -> Updates:
    return Updates(order=NAMES, shelf=Shelf(folder / "updates", in_memory), kept=kept)


@pytest.mark.parametrize("bound", [10**9, 0])
@pytest.mark.parametrize("kept", [True, False])
def test_the_bits_depend_on_the_sites_and_not_on_who_comes_first(tmp_path: Path, bound: int, kept: bool) -> None:
    in_order = StreamingMean()
    for weight, name in enumerate(NAMES, start=1):
        in_order.add(arrays(name), weight)
    expected = in_order.result()
    for order in itertools.permutations(NAMES):
        updates = made(tmp_path, kept=kept, in_memory=bound)
        for name in order:
            updates.accept(trained(name, NAMES.index(name) + 1), to_array_record(arrays(name)))
        updates.close({})
        mean = updates.mean()
        assert all(np.array_equal(mean[key], expected[key]) for key in expected)
        updates.clear()
        assert not (tmp_path / "updates").exists()


def test_what_waits_beyond_the_bound_is_in_files(tmp_path: Path) -> None:
    updates = made(tmp_path, kept=True, in_memory=6000)
    for name in NAMES:
        updates.accept(trained(name), to_array_record(arrays(name)))
    mapped = {
        line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "updates/" in line
    }
    assert len(mapped) == len(NAMES) - 1
    assert all(name.endswith(" (deleted)") for name in mapped)
    assert not list((tmp_path / "updates").iterdir()), "nothing is left if this process dies now"
    for name, record in updates.all():
        assert np.array_equal(from_array_record(record)["w"], arrays(name)["w"])


def test_a_refused_update_is_not_in_the_mean_and_others_need_not_wait_for_it(tmp_path: Path) -> None:
    updates = made(tmp_path)
    updates.accept(trained("valley"), to_array_record(arrays("valley")))
    updates.refuse("east", "NaN")
    updates.accept(trained("north"), to_array_record(arrays("north")))
    updates.close({"west": "is silent"})
    assert updates.refused == {"east": "NaN", "west": "is silent"}
    expected = (arrays("north")["w"].astype(np.float64) + arrays("valley")["w"]) / 2
    np.testing.assert_allclose(updates.mean()["w"], expected, atol=1e-6)


def test_one_that_waits_can_still_be_refused(tmp_path: Path) -> None:
    updates = made(tmp_path, kept=True)
    for name in NAMES[:3]:
        updates.accept(trained(name), to_array_record(arrays(name)))
    updates.refuse("north", "points elsewhere")
    updates.close({})
    assert [name for name, _ in updates.all()] == ["east", "valley"]
    assert updates.patients == 20


def test_a_disk_that_cannot_hold_it_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "updates").write_text("a file where the folder should be")
    with pytest.raises(RunError, match=r"free space on that disk, then resume"):
        made(tmp_path, kept=True, in_memory=0).accept(trained("east"), to_array_record(arrays("east")))


def test_the_lower_median_is_a_value_that_was_sent() -> None:
    stack = [np.array([1, 9]), np.array([3, 2]), np.array([10**9, 4]), np.array([2, 3])]
    assert lower_median(stack).tolist() == [2, 3]
