"""What a strategy is compared with is plain training, whatever the study's strategy asks of its hospitals."""

from pathlib import Path

from fedward_common.study import SiteEntry, resolved
from fedward_common.testing import tiny_study
from fedward_simulations.compare import local_job, pooled_job


def test_baselines_of_a_study_with_layers_of_each_hospital_share_them(tmp_path: Path) -> None:
    study = tiny_study(
        input={"size": [32, 32]},
        model={"name": "resnet10", "options": {"norm": "batch"}},
        training={"batch_norm": "local", "local_steps": 3},
        strategy={"name": "fedbn"},
    )
    names = ["north", "south"]
    federated = resolved(study, sites=[SiteEntry(name=name) for name in names], seed=1)
    pooled = pooled_job(federated, names, 2, tmp_path, 1).study
    alone = local_job(federated, "north", names, tmp_path, 1).study
    for plain in (pooled, alone):
        assert (plain.strategy.name, plain.strategy.min_sites, plain.training.batch_norm) == ("fedavg", 1, "share")
    assert (pooled.training.local_steps, alone.training.local_steps) == (6, 3)


def test_baselines_of_a_robust_strategy_need_one_hospital(tmp_path: Path) -> None:
    study = tiny_study(strategy={"name": "krum", "min_sites": 5, "options": {"num_malicious_nodes": 1}})
    assert pooled_job(study, ["north"], 1, tmp_path, 1).study.strategy.min_sites == 1
    group = tiny_study(model={"name": "resnet10", "options": {"norm": "batch"}}, input={"size": [32, 32]},
                       training={"batch_norm": "group"})  # fmt: skip
    assert pooled_job(group, ["north"], 1, tmp_path, 1).study.training.batch_norm == "group"
