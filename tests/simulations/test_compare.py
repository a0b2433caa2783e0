"""What a strategy is compared with is plain training, whatever the study's strategy asks of its hospitals."""

from pathlib import Path

from fedward_common.study import SiteEntry, loads, resolved, template_path
from fedward_common.testing import tiny_study
from fedward_simulations.compare import local_job, openers, pooled_job, simulate_seed
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.studies import hospital_folder
from fedward_simulations.synthetic import compounds

PSEUDO = """unlabelled = true
[input]
kind = "compound"
column = "smiles"
bits = 1024
[model]
name = "sparse-autoencoder"
options = { hidden = [8] }
[[phases]]
rounds = 1
local_steps = 2
[training]
rounds = 2
local_steps = 10
pseudo_labels_after = 1
[strategy]
min_sites = 1
"""


def test_baselines_of_a_study_with_layers_of_each_hospital_share_them(tmp_path: Path) -> None:
    study = tiny_study(
        input={"size": [32, 32]},
        model={"name": "resnet10", "options": {"norm": "batch"}},
        training={"batch_norm": "local", "local_steps": 3},
        strategy={"name": "fedbn"},
    )
    names = ["north", "south"]
    federated = resolved(study, sites=[SiteEntry(name=name) for name in names], seed=1)
    pooled = pooled_job(federated, names, [2], tmp_path, 1).study
    alone = local_job(federated, "north", names, tmp_path, 1).study
    for plain in (pooled, alone):
        assert (plain.strategy.name, plain.strategy.min_sites, plain.training.batch_norm) == ("fedavg", 1, "share")
    assert (pooled.training.local_steps, alone.training.local_steps) == (6, 3)


def test_baselines_of_a_robust_strategy_need_one_hospital(tmp_path: Path) -> None:
    study = tiny_study(strategy={"name": "krum", "min_sites": 5, "options": {"num_malicious_nodes": 1}})
    assert pooled_job(study, ["north"], [1], tmp_path, 1).study.strategy.min_sites == 1
    group = tiny_study(model={"name": "resnet10", "options": {"norm": "batch"}}, input={"size": [32, 32]},
                       training={"batch_norm": "group"})  # fmt: skip
    assert pooled_job(group, ["north"], [1], tmp_path, 1).study.training.batch_norm == "group"


def test_pooled_data_are_those_of_patients_without_a_label_too(tmp_path: Path) -> None:
    """As many batches as the hospitals saw: the one without labels trains where no label is needed."""
    folders = {name: hospital_folder(tmp_path, name, '[table]\nmap = "columns.toml"\n') for name in ("east", "west")}
    for name, folder in folders.items():
        compounds.write(folder, name, 80, 1.0, measured=name == "east")
    head = template_path("compound-activity").read_text("utf-8").split("[split]")[0]
    study = loads(head + PSEUDO)
    with EmbeddedGrid(openers(study, folders, pooled=True), workers=1, log_file=tmp_path / "log") as grid:
        comparison = simulate_seed(
            study,
            folders,
            out=tmp_path / "out",
            seed=1,
            engine="embedded",
            pooled=True,
            workers=1,
            resume=False,
            grid=grid,
            listener=lambda title, event: None,
            log_file=tmp_path / "log",
        )
    assert not comparison.failed
    assert comparison.pooled is not None
    federated, pooled = (
        [sum(site.patients for site in row.sites.values()) for row in result.history]
        for result in (comparison.federated, comparison.pooled)
    )
    assert federated == pooled
    assert pooled[0] == pooled[2] > pooled[1]
    steps = [work.local_steps for work in (*comparison.pooled.study.phases, comparison.pooled.study.training)]
    assert steps == [4, 15]
