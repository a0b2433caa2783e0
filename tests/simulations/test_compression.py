"""Compressed runs of the embedded engine: fewer bytes, as good a model, the same bits on any number of workers."""

import pytest

from fedward_common.testing import tiny_study
from fedward_simulations.benchmarks.update_compression import CODINGS, federated, measure


@pytest.mark.long
def test_a_compressed_run_has_the_same_bits_on_one_worker_and_on_two() -> None:
    study = tiny_study(
        input={"size": [32, 32]}, training={"rounds": 3}, strategy={"min_sites": 4}, update={"compression": "int8"}
    )
    runs = [federated(study, 24, workers=workers) for workers in (1, 2)]
    assert runs[0].model_sha256 == runs[1].model_sha256
    assert all(not row.refused for row in runs[0].history)


@pytest.mark.long
def test_fewer_bytes_and_as_good_a_model() -> None:
    figures = list(measure(rounds=20, patients=120, codings=CODINGS))
    for figure in figures:
        print(figure.as_json())
    bf16, int8, top_tenth, top_hundredth = (figure.setting for figure in figures)
    none = bf16["roc_auc_none"]
    assert none > 0.6  # there was something to learn
    assert bf16["roc_auc"] == pytest.approx(none, abs=0.02)
    assert int8["roc_auc"] == pytest.approx(none, abs=0.04)
    assert top_tenth["roc_auc"] > none - 0.1
    assert top_hundredth["roc_auc"] > 0.5
