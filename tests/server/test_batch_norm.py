"""Whether hospitals' BatchNorm statistics disagree: by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedward_server.batch_norm import LIMIT, disagreement


def site(
    mean: tuple[float, ...], variance: tuple[float, ...], other: tuple[float, ...] = (0.0,)
) -> Mapping[str, npt.NDArray[Any]]:
    return {
        "conv.weight": np.zeros((2, 2), np.float32),
        "bn1.running_mean": np.array(mean, np.float32),
        "bn1.running_var": np.array(variance, np.float32),
        "bn1.num_batches_tracked": np.asarray(3),
        "bn2.running_mean": np.array(other, np.float32),
        "bn2.running_var": np.ones(len(other), np.float32),
    }


def test_sites_that_agree_are_not_warned_of() -> None:
    assert disagreement({"a": site((1, 2), (1, 4)), "b": site((1.1, 2), (1.1, 4))}) is None
    assert disagreement({"a": site((1, 2), (1, 4))}) is None
    assert disagreement({"a": {"w": np.zeros(3)}, "b": {"w": np.ones(3)}}) is None
    assert disagreement({}) is None


def test_the_furthest_site_and_layer_by_hand() -> None:
    """Means 0, 0, 3, variances 1: M = 1, S^2 = 1 + 2; c is sqrt((2^2 + (1 - sqrt 3)^2) / 3) from all together."""
    found = disagreement({name: site((0,), (1,), (mean,)) for name, mean in {"a": 0.0, "b": 0.0, "c": 3.0}.items()})
    assert found is not None
    assert (found.site, found.layer) == ("c", "bn2")
    assert found.distance == pytest.approx(np.sqrt((4 + (1 - np.sqrt(3)) ** 2) / 3), rel=1e-4)
    assert "those of c are 1.2 standard deviations from all hospitals' together (layer bn2)" in found.warning


def test_other_variances_alone_disagree_and_scale_does_not_matter() -> None:
    """Standard deviations 1 and 5 against sqrt(13): the second is 0.39 above, the first 0.72 below."""
    found = disagreement({"a": site((0, 0), (1, 1)), "b": site((0, 0), (25, 25))})
    assert found is not None
    assert found.site == "a"
    assert found.distance == pytest.approx(1 - 1 / np.sqrt(13), rel=1e-3)
    larger = disagreement({"a": site((0, 0), (1e6, 1e6)), "b": site((0, 0), (25e6, 25e6))})
    assert larger is not None
    assert larger.distance == pytest.approx(found.distance, rel=1e-3)


def test_a_channel_that_never_varies_is_no_reason() -> None:
    assert disagreement({"a": site((0,), (0,)), "b": site((1e-4,), (1e-9,))}) is None
    assert LIMIT == 0.5
