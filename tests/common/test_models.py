"""The registry: what it lists, what it refuses and in which words, plug-ins, and the weights that runs start from."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from fedward_common import models
from fedward_common.errors import ModelError
from fedward_common.models import ModelCard, Option
from fedward_common.study import StudySpec
from fedward_common.study_task import Task

ALL = {
    "alexnet",
    "cnn-1d",
    "cnn-3d",
    "cox",
    "dbn",
    "densenet121",
    "densenet169",
    "enhanced-alexnet",
    "lista",
    "logistic-regression",
    "mlp",
    "rbm",
    "resnet10",
    "resnet18",
    "resnet34",
    "resnet50",
    "retinanet",
    "small-cnn",
    "sparse-autoencoder",
    "unet",
    "voxelmorph",
}


def study(name: str, size: tuple[int, ...] = (32, 32), **options: Option) -> StudySpec:
    return StudySpec.model_validate(
        {
            "study": {"id": "s", "task": "classification"},
            "cohort": {"labels": ("benign", "malignant"), "positive": "malignant"},
            "input": {"size": size},
            "model": {"name": name, "options": options},
        }
    )


def refusal(
    name: str,
    options: Mapping[str, Option] | None = None,
    size: tuple[int, ...] = (64, 64),
    channels: int = 1,
    classes: int = 2,
    task: Task = "classification",
) -> str:
    with pytest.raises(ModelError) as caught:
        models.check(name, options or {}, size, channels, classes, task=task)
    with pytest.raises(ModelError, match=r".") as built:
        models.build(name, options=options or {}, size=size, channels=channels, classes=classes, task=task)
    assert str(built.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_choosing_a_model_imports_no_torch() -> None:
    code = """
import sys
from fedward_common import models
for name in models.names():
    card = models.describe(name)
    for task in card.tasks:
        models.check(name, card.options, (64,) * card.dims[0], 1, models.outputs(task, 2), task=task)
heavy = {"torch", "monai", "pandas", "scipy"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_are_sorted_and_complete() -> None:
    assert models.names() == sorted(ALL)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_card_agrees_with_itself(name: str) -> None:
    card = models.describe(name)
    assert card.name == name
    assert card.title
    assert card.paper
    assert set(card.limits) <= set(card.options)
    for dims in card.dims:
        for task in card.tasks:
            models.check(name, card.options, (card.min_size,) * dims, 1, models.outputs(task, 2), task=task)


def test_cards_tell_which_networks_can_have_batch_normalisation() -> None:
    assert {name for name in models.names() if models.describe(name).batch_norm} == {
        name for name in ALL if name.startswith(("resnet", "densenet", "unet"))
    }


def test_unknown_model_names_all_and_the_nearest() -> None:
    assert refusal("enhanced-alexnt") == (
        f'there is no model "enhanced-alexnt"; choose one of {", ".join(sorted(ALL))}; did you mean enhanced-alexnet?'
    )
    assert "did you mean" not in refusal("zzz")
    with pytest.raises(ModelError, match=r'no model "resnet-18".*did you mean resnet18'):
        models.describe("resnet-18")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "alexnet",
            {"widht": 4096},
            'model "alexnet" has no option "widht"; it has dropout, width; did you mean width?',
        ),
        ("alexnet", {"width": 4096.0}, 'option "width" of model "alexnet" must be a whole number, not 4096.0'),
        ("alexnet", {"width": True}, 'option "width" of model "alexnet" must be a whole number, not True'),
        ("alexnet", {"width": "4096"}, 'option "width" of model "alexnet" must be a whole number, not \'4096\''),
        ("alexnet", {"width": 1}, 'option "width" of model "alexnet" must be from 16 to 8192, not 1'),
        ("alexnet", {"dropout": 1.0}, 'option "dropout" of model "alexnet" must be from 0 to 0.9, not 1.0'),
        ("alexnet", {"dropout": False}, 'option "dropout" of model "alexnet" must be a number, not False'),
        (
            "alexnet",
            {"dropout": float("nan")},
            'option "dropout" of model "alexnet" must be from 0 to 0.9, not nan',
        ),
        ("resnet18", {"norm": "layer"}, 'option "norm" of model "resnet18" must be "group" or "batch", not \'layer\''),
        ("resnet18", {"norm": 1}, 'option "norm" of model "resnet18" must be text, not 1'),
    ],
)
def test_options_are_refused_in_words(name: str, options: dict[str, Option], words: str) -> None:
    assert refusal(name, options) == words


def test_a_whole_number_may_stand_for_a_float() -> None:
    models.check("alexnet", {"dropout": 0}, (64, 64), 1, 2)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("alexnet", (62, 200), 'model "alexnet" needs images of at least 63 x 63, and the size is 62 x 200'),
        ("alexnet", (64, 64, 64), 'model "alexnet" takes 2-D images, and the study has 3-D images of 64 x 64 x 64'),
        ("resnet18", (64,), 'model "resnet18" takes 2-D or 3-D images, and the study has windows of 64 samples'),
        ("mlp", (64, 64), 'model "mlp" takes rows of tables, and the study has 2-D images of 64 x 64'),
        ("small-cnn", (), 'model "small-cnn" takes 2-D or 3-D images, and the study has rows of a table'),
        ("cnn-1d", (), 'model "cnn-1d" takes recordings or sequences, and the study has rows of a table'),
        ("cnn-1d", (7,), 'model "cnn-1d" needs windows of at least 8, and the size is 7'),
        (
            "resnet18",
            (16, 64, 64),
            'model "resnet18" needs images of at least 32 x 32 x 32, and the size is 16 x 64 x 64',
        ),
    ],
)
def test_sizes_are_refused_in_words(name: str, size: tuple[int, ...], words: str) -> None:
    assert refusal(name, size=size) == words


def test_channels_and_classes_are_refused_in_words() -> None:
    assert refusal("small-cnn", channels=0) == "an example has at least 1 channel, not 0"
    assert refusal("small-cnn", classes=1) == "a model tells at least 2 classes apart, not 1"


@pytest.mark.parametrize(
    ("name", "task", "size", "words"),
    [
        (
            "small-cnn",
            "segmentation",
            (64, 64),
            'model "small-cnn" is for classification, and the task is segmentation: choose one of unet',
        ),
        ("mlp", "registration", (), "the task is registration: no model does that with rows of a table"),
        ("mlp", "segmentation", (), 'model "mlp" is for classification or survival, and the task is segmentation'),
        ("unet", "survival", (), "the task is survival: choose one of cox, mlp"),
        ("unet", "detection", (64, 64), "the task is detection: choose one of retinanet"),
    ],
)
def test_a_network_that_does_not_do_the_task_is_refused_with_those_that_do(
    name: str, task: Task, size: tuple[int, ...], words: str
) -> None:
    assert words in refusal(name, size=size, task=task)


def test_what_a_task_has_no_outputs_for_is_refused_in_words() -> None:
    assert refusal("unet", classes=0, task="segmentation") == "segmentation is of at least 1 structure, not 0"
    assert refusal("retinanet", classes=0, task="detection") == "detection is of at least 1 kind of finding, not 0"
    assert refusal("cox", size=(), task="survival") == "survival has 1 output, the log-risk, not 2"
    for structures in (0, 3):
        models.check("voxelmorph", {}, (64, 64), 1, models.outputs("registration", structures), task="registration")


# Plug-ins: a package as pip would have installed it, on sys.path.

PLUG_IN = """
from torch import nn
from fedward_common.models import Architecture, ModelCard, Range

CARD = ModelCard(name="{name}", title="Linear", paper="none", dims=(2,), min_size=4, options={{"bias": True}})
NET = Architecture(card=CARD, builder="{module}:build")
BROKEN = Architecture(card=CARD, builder="{module}:absent")

def build(*, dims, size, channels, classes, bias):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes, bias=bias))
"""


def install(folder: Path, module: str, *, name: str, point: str) -> None:
    (folder / f"{module}.py").write_text(PLUG_IN.format(name=name, module=module), encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[fedward.models]\n{name} = {module}:{point}\n", encoding="utf-8")


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for module in [each for each in set(sys.modules) - before if each.startswith("plug_")]:
        del sys.modules[module]


def test_an_installed_plug_in_is_a_model_like_any_other(site_packages: Path) -> None:
    install(site_packages, "plug_linear", name="linear-net", point="NET")
    assert models.names() == sorted({*ALL, "linear-net"})
    assert models.describe("linear-net").options == {"bias": True}
    assert "at least 4 x 4" in refusal("linear-net", size=(2, 2))
    model = models.build("linear-net", options={"bias": False}, size=(4, 6), channels=3, classes=5)
    assert model(torch.zeros(2, 3, 4, 6)).shape == (2, 5)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3 * 4 * 6 * 5
    assert set(models.initial_state(study("linear-net"), 1)) == {"1.weight", "1.bias"}


def test_a_plug_in_that_tells_no_anchors_is_no_detector(site_packages: Path) -> None:
    install(site_packages, "plug_boxes", name="boxes-net", point="NET")
    module = site_packages / "plug_boxes.py"
    module.write_text(module.read_text().replace("dims=(2,)", 'dims=(2,), tasks=("detection",)'))
    with pytest.raises(ModelError, match='model "boxes-net" finds no boxes: it has no anchors and levels'):
        models.build("boxes-net", options={}, size=(16, 16), channels=1, classes=1, task="detection")


def test_a_plug_in_whose_layers_learn_alone_is_layered(site_packages: Path) -> None:
    install(site_packages, "plug_layers", name="layers-net", point="NET")
    module = site_packages / "plug_layers.py"
    module.write_text(module.read_text().replace("dims=(2,)", "dims=(2,), layers=1"))
    with pytest.raises(ModelError, match='model "layers-net" has no layers that learn alone, as its card says'):
        models.build("layers-net", options={}, size=(8, 8), channels=1, classes=2)


def test_a_plug_in_is_not_imported_to_be_listed(site_packages: Path) -> None:
    install(site_packages, "plug_lazy", name="lazy-net", point="NET")
    assert "lazy-net" in models.names()
    assert "plug_lazy" not in sys.modules


def test_a_plug_in_cannot_replace_a_shipped_model(site_packages: Path) -> None:
    install(site_packages, "plug_false", name="small-cnn", point="NET")
    assert refusal("small-cnn") == (
        'the model name "small-cnn" is taken more than once: uninstall or rename that of plug_false'
    )


def test_two_plug_ins_of_one_name_are_both_refused(site_packages: Path) -> None:
    install(site_packages, "plug_one", name="same-net", point="NET")
    install(site_packages, "plug_two", name="same-net", point="NET")
    assert "plug_one, plug_two" in refusal("same-net")


@pytest.mark.parametrize("point", ["CARD", "missing"])
def test_a_broken_plug_in_is_told_by_name(site_packages: Path, point: str) -> None:
    install(site_packages, "plug_broken", name="broken-net", point=point)
    assert f"plug_broken:{point}" in refusal("broken-net")


def test_a_plug_in_whose_builder_is_missing_is_told_by_name(site_packages: Path) -> None:
    install(site_packages, "plug_hollow", name="hollow-net", point="BROKEN")
    models.check("hollow-net", {}, (8, 8), 1, 2)
    with pytest.raises(ModelError, match=r'"hollow-net" cannot be built here.*plug_hollow'):
        models.build("hollow-net", options={}, size=(8, 8), channels=1, classes=2)


def test_a_registered_model_is_built_and_its_name_is_taken(
    site_packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedward_common.models import registry

    monkeypatch.setattr(registry, "_registered", dict(registry._registered))  # the next test starts without it
    (site_packages / "plug_local.py").write_text(PLUG_IN.format(name="x", module="plug_local"), encoding="utf-8")
    card = ModelCard(name="local-net", title="t", paper="p", dims=(2,), min_size=4, options={"bias": True})
    models.register(card, "plug_local:build")
    assert "local-net" in models.names()
    assert models.describe("local-net") == card
    model = models.build("local-net", options={}, size=(4, 4), channels=1, classes=2)
    assert model(torch.zeros(1, 1, 4, 4)).shape == (1, 2)
    with pytest.raises(ModelError, match='"local-net" is taken'):
        models.register(card, "plug_local:build")


# Initial weights.


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one
    )


@pytest.mark.parametrize("name", ["small-cnn", "enhanced-alexnet", "resnet10"])
def test_initial_state_depends_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(0)
    first = models.initial_state(study(name), 7)
    torch.manual_seed(1)
    torch.rand(5)
    np.random.default_rng(3).random()
    again = models.initial_state(study(name), 7)
    assert same(first, again)
    assert not same(first, models.initial_state(study(name), 8))


def test_initial_state_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models.initial_state(study("small-cnn"), 7)
    assert torch.equal(torch.rand(3), expected)


def test_initial_state_is_the_same_in_another_process_with_other_threads() -> None:
    code = """
import sys, torch
torch.set_num_threads(2)
from fedward_common import models
from fedward_common.records import model_sha256
from fedward_common.study import StudySpec
print(model_sha256(models.initial_state(StudySpec.from_json(sys.stdin.read()), 7)))
"""
    from fedward_common.records import model_sha256

    spec = study("enhanced-alexnet", (64, 64))
    done = subprocess.run(
        [sys.executable, "-c", code], input=spec.canonical_json().decode(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == model_sha256(models.initial_state(spec, 7))


def test_initial_state_is_in_the_order_of_the_state_dict_and_writable() -> None:
    spec = study("resnet10", norm="batch")
    state = models.initial_state(spec, 7)
    model = models.build("resnet10", options={"norm": "batch"}, size=(32, 32), channels=1, classes=2)
    assert list(state) == list(model.state_dict())
    assert [array.shape for array in state.values()] == [tuple(each.shape) for each in model.state_dict().values()]
    assert state["bn1.num_batches_tracked"].dtype == np.int64
    for array in state.values():
        assert array.flags.owndata
        assert array.flags.writeable
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})


def test_initial_model_is_the_initial_state_at_the_seed_of_the_study() -> None:
    spec = study("resnet10", norm="batch")
    state, parameters = models.initial_model(spec)
    assert same(state, models.initial_state(spec, spec.training.seed))
    assert set(state) - parameters == {name for name in state if "running_" in name or "num_batches" in name}
    assert parameters < set(state)


def test_no_name_of_the_package_is_a_module_of_it() -> None:
    """Importing the module would put it in the name's place."""
    folder = Path(models.__file__).parent
    assert not {path.stem for path in folder.glob("*.py")} & set(models.__all__)
