"""Trained weights in a network: known answers for what is computed, and a refusal for everything that does not fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from torch.nn import functional

from fedward_common import models
from fedward_common.errors import ModelError
from fedward_common.models import weights_file
from fedward_common.models.trained import Trained
from fedward_common.models.transfer import Transferred, inflated_kernel, transfer
from fedward_common.records import model_sha256
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

Arrays = dict[str, np.ndarray[Any, Any]]
RANDOM = np.random.default_rng(5)


def filled(**shapes: tuple[int, ...]) -> Arrays:
    """Arrays of numbers by name; `__` stands for a dot."""
    return {name.replace("__", "."): RANDOM.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


# A network of two layers for grey images, and its head of two labels
NETWORK = filled(features__0__weight=(4, 1, 3, 3), features__0__bias=(4,), head__weight=(2, 4), head__bias=(2,))


def taken_over(
    source: Mapping[str, Any], state: Arrays = NETWORK, prefixes: Mapping[str, str] | None = None, **rules: Any
) -> tuple[Arrays, Transferred]:
    defaults = {"inflate": False, "take_head": True, "strides": {}, "channels": 1, "classes": 2}
    return transfer(state, source, **{"prefixes": prefixes or {}, **defaults, **rules})


def refusal(source: Mapping[str, Any], state: Arrays = NETWORK, **rules: Any) -> str:
    with pytest.raises(ModelError) as refused:
        taken_over(source, state, **rules)
    return str(refused.value)


# What fits -----------------------------------------------------------------------------------------------------------


def test_a_model_of_the_same_shape_is_taken_whole_in_the_networks_order() -> None:
    source = {name: array + 1 for name, array in reversed(NETWORK.items())}
    result, told = taken_over(source)
    assert list(result) == list(NETWORK)
    for name in NETWORK:
        np.testing.assert_array_equal(result[name], source[name])
        assert result[name] is not source[name]
    assert str(told) == "4 of the network's 4 arrays are taken over."


def test_a_head_of_other_labels_stays_at_its_random_start_and_is_told() -> None:
    source = {**NETWORK, **filled(head__weight=(7, 4), head__bias=(7,))}
    result, told = taken_over(source)
    assert told.head == ["head.weight", "head.bias"]
    np.testing.assert_array_equal(result["head.weight"], NETWORK["head.weight"])
    assert "The head has another shape and stays at its random start: head.weight, head.bias." in str(told)


def test_a_head_is_taken_whole_or_not_at_all() -> None:
    source = {**NETWORK, **filled(head__weight=(2, 9), head__bias=(2,))}  # only the weight has another shape
    result, told = taken_over(source)
    assert told.head == ["head.weight", "head.bias"]
    np.testing.assert_array_equal(result["head.bias"], NETWORK["head.bias"])


def test_a_head_that_tells_other_labels_apart_stays_at_its_random_start() -> None:
    source = {name: array + 1 for name, array in NETWORK.items()}
    result, told = taken_over(source, take_head=False)
    for name in NETWORK:
        np.testing.assert_array_equal(result[name], (NETWORK if name.startswith("head") else source)[name])
    assert str(told) == (
        "2 of the network's 4 arrays are taken over. The head tells other labels apart and stays at its random start: "
        "head.weight, head.bias."
    )


def test_a_flat_head_that_fits_with_depth_is_taken() -> None:
    state = {**NETWORK, **filled(head__weight=(2, 4, 1, 1, 1))}
    source = filled(head__weight=(2, 4, 1, 1), head__bias=(2,))
    result, told = taken_over(source, state, inflate=True)
    np.testing.assert_array_equal(result["head.weight"][:, :, 0], source["head.weight"])
    assert (told.head, told.inflated) == ([], ["head.weight"])
    assert taken_over({**NETWORK, **source}, state)[1].head == ["head.weight", "head.bias"]


def test_a_map_takes_its_prefixes_alone_and_the_longest_counts() -> None:
    source = filled(
        encoder__0__weight=(4, 1, 3, 3), encoder__0__bias=(4,), encoder__last__weight=(2, 4), decoder__weight=(9, 9)
    )
    result, told = taken_over(source, prefixes={"encoder.": "features.", "encoder.last.": "head."})
    np.testing.assert_array_equal(result["features.0.weight"], source["encoder.0.weight"])
    np.testing.assert_array_equal(result["head.weight"], source["encoder.last.weight"])
    assert (told.absent, told.unused) == (["head.bias"], ["decoder.weight"])
    assert "Not in the file, at their random start: 1, head.bias. Not asked for by the map: 1 of the file" in str(told)


def test_an_empty_prefix_stands_for_every_name() -> None:
    source = {name.removeprefix("features."): array for name, array in NETWORK.items() if name.startswith("features")}
    result, _ = taken_over(source, prefixes={"": "features."})
    np.testing.assert_array_equal(result["features.0.bias"], NETWORK["features.0.bias"])


@given(st.permutations(list(NETWORK)), st.text("abc.", max_size=5))
def test_what_a_prefix_is_changed_to_does_not_depend_on_the_order(names: list[str], prefix: str) -> None:
    source = {f"{prefix}{name}": NETWORK[name] + 1 for name in names}
    result, told = taken_over(source, prefixes={prefix: ""})
    assert list(told.taken) == list(NETWORK)
    for name, array in NETWORK.items():
        np.testing.assert_array_equal(result[name], array + 1)


def test_a_colour_kernel_answers_to_a_grey_image_as_to_the_same_image_three_times() -> None:
    colour = filled(features__0__weight=(4, 3, 3, 3))
    result, told = taken_over(colour)
    assert told.summed == ["features.0.weight"]
    image = torch.from_numpy(RANDOM.standard_normal((2, 1, 8, 8)).astype(np.float32))
    grey = functional.conv2d(image, torch.from_numpy(result["features.0.weight"]))
    three = functional.conv2d(image.repeat(1, 3, 1, 1), torch.from_numpy(colour["features.0.weight"]))
    torch.testing.assert_close(grey, three)


def test_channels_are_summed_by_hand() -> None:
    colour = np.arange(4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3)
    result, _ = taken_over({"features.0.weight": colour})
    assert result["features.0.weight"][0, 0, 0, 0] == 0 + 9 + 18


def test_a_network_for_colour_and_a_later_layer_sum_nothing() -> None:
    colour = filled(features__0__weight=(4, 3, 3, 3))
    state = {**NETWORK, **filled(features__0__weight=(4, 3, 3, 3))}
    result, told = taken_over(colour, state, channels=3)
    assert told.summed == []
    np.testing.assert_array_equal(result["features.0.weight"], colour["features.0.weight"])
    deep = {"features.0.weight": NETWORK["features.0.weight"], **filled(features__1__weight=(4, 1, 3, 3)), **NETWORK}
    assert "4 x 3 x 3 x 3 in the file and 4 x 1 x 3 x 3" in refusal(filled(features__1__weight=(4, 3, 3, 3)), deep)


def test_an_inflated_kernel_answers_to_a_constant_depth_as_the_flat_one() -> None:
    kernel = RANDOM.standard_normal((4, 2, 3, 3))
    image = torch.from_numpy(RANDOM.standard_normal((2, 2, 9, 9)))
    flat = functional.conv2d(image, torch.from_numpy(kernel))
    deep = torch.from_numpy(inflated_kernel(kernel, 5))
    answer = functional.conv3d(image[:, :, None].repeat(1, 1, 7, 1, 1), deep)
    assert answer.shape == (2, 4, 3, 7, 7)
    for depth in range(3):
        torch.testing.assert_close(answer[:, :, depth], flat)


@pytest.mark.parametrize(("depth", "stride"), [(2, 2), (4, 2), (3, 1)])
def test_an_inflated_transposed_kernel_answers_to_a_constant_depth_as_the_flat_one(depth: int, stride: int) -> None:
    kernel = RANDOM.standard_normal((4, 2, 2, 2))
    image = torch.from_numpy(RANDOM.standard_normal((2, 4, 9, 9)))
    flat = functional.conv_transpose2d(image, torch.from_numpy(kernel), stride=2)
    deep = torch.from_numpy(inflated_kernel(kernel, depth, stride))
    answer = functional.conv_transpose3d(image[:, :, None].repeat(1, 1, 7, 1, 1), deep, stride=(stride, 2, 2))
    for inner in range(depth, answer.shape[2] - depth):
        torch.testing.assert_close(answer[:, :, inner], flat)


def test_a_colour_kernel_becomes_a_grey_one_with_depth() -> None:
    state = {**NETWORK, **filled(features__0__weight=(4, 1, 2, 3, 3))}
    source = filled(features__0__weight=(4, 3, 3, 3))
    result, told = taken_over(source, state, inflate=True)
    expected = source["features.0.weight"].sum(axis=1, keepdims=True)[:, :, np.newaxis] / 2
    np.testing.assert_allclose(result["features.0.weight"], expected.repeat(2, axis=2), rtol=1e-6)
    assert (told.summed, told.inflated) == (["features.0.weight"], ["features.0.weight"])


def test_types_become_those_of_the_network() -> None:
    half = {"features.0.bias": np.array([1, 2, 3, 4], np.float16)}
    result, _ = taken_over(half)
    assert result["features.0.bias"].dtype == np.float32
    assert result["features.0.bias"].tolist() == [1, 2, 3, 4]


# What does not -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "rules", "words"),
    [
        ({"features.0.wieght": NETWORK["features.0.weight"]}, {}, "did you mean features.0.weight?; say in [model]"),
        ({"e.0.gain": np.ones(4)}, {"prefixes": {"e.": "features."}}, '"e.0.gain" of the file would be "features.0.ga'),
        ({"e.0.gain": np.ones(4)}, {"prefixes": {"e.": "features."}}, "map a longer prefix"),
        (NETWORK, {"prefixes": {"encoder.": "features."}}, '"encoder." is the longest prefix of no name in the file'),
        (
            {"a.bias": np.ones(4), "b.bias": np.ones(4)},
            {"prefixes": {"a.": "features.0.", "b.": "features.0."}},
            "both",
        ),
        (filled(features__0__bias=(5,)), {}, '"features.0.bias" has the shape 5 in the file and 4 in the network'),
        (filled(features__0__weight=(4, 2, 3, 3)), {}, "4 x 2 x 3 x 3 in the file"),
        ({"features.0.bias": np.ones(4, np.int32)}, {}, "of int32 in the file and of float32 in the network"),
        ({"features.0.bias": np.array([1, np.nan, 1, 1])}, {}, "holds NaN"),
        ({"features.0.bias": np.array([1e300, 1, 1, 1])}, {}, "too large"),
        ({}, {}, "none of the network's layers is in the file"),
        (filled(head__weight=(7, 4), head__bias=(7,)), {}, "has nothing for the network but a head of other labels"),
    ],
)
def test_what_does_not_fit_is_refused(source: Arrays, rules: dict[str, Any], words: str) -> None:
    assert words in refusal(source, **rules)


def test_a_flat_kernel_for_a_volume_says_how_to_take_it() -> None:
    state = {**NETWORK, **filled(features__0__weight=(4, 1, 3, 3, 3))}
    assert "inflate = true takes 2-D kernels" in refusal({"features.0.weight": NETWORK["features.0.weight"]}, state)
    wide = filled(features__0__weight=(4, 1, 5, 5))
    assert "has the shape 4 x 1 x 5 x 5 in the file" in refusal(wide, state, inflate=True)


# A file --------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_and_anything_else_refused(tmp_path: Path) -> None:
    save_file(NETWORK, tmp_path / "good.safetensors")
    read = weights_file.read(tmp_path / "good.safetensors")
    assert model_sha256(read) == model_sha256(NETWORK)
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x02}q\x00.")
    torch_file = tmp_path / "bf16.safetensors"
    from safetensors.torch import save_file as save_tensors

    save_tensors({"a": torch.ones(2, dtype=torch.bfloat16)}, torch_file)
    for name, words in (
        ("pickle.pt", "is no safetensors file"),
        ("absent.safetensors", "there is no file"),
        ("", "cannot be read"),
        ("bf16.safetensors", '"a" is of type BF16; these are taken: F16'),
    ):
        with pytest.raises(ModelError, match=words):
            weights_file.read(tmp_path / name)


@given(st.binary(max_size=200))
def test_no_bytes_bring_the_reader_down(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "file.safetensors"
    path.write_bytes(content)
    try:
        assert weights_file.read(path) == {}
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


# A study -------------------------------------------------------------------------------------------------------------


def study(**model: Any) -> StudySpec:
    return tiny_study(model={"name": "small-cnn", **model})


def trained(other: StudySpec) -> Arrays:
    return {name: np.asarray(array + 1, array.dtype) for name, array in models.initial_state(other, 99).items()}


def test_a_run_begins_with_the_weights_in_its_folder_and_no_others(tmp_path: Path) -> None:
    arrays = trained(study())
    save_file(arrays, tmp_path / "w.safetensors")
    open_study = study(start={"file": "w.safetensors"})
    spec, told = models.bound(open_study, tmp_path / "w.safetensors")
    assert spec.model.start is not None
    assert spec.model.start.sha256 == model_sha256(arrays)
    assert spec.digest != open_study.digest
    assert len(told.taken) == len(arrays)
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(ModelError, match="there is no file"):
        models.initial_model(spec, run)
    with pytest.raises(ModelError, match="they are not here"):
        models.initial_model(spec)
    save_file(arrays, run / weights_file.NAME)
    state, parameters = models.initial_model(spec, run)
    assert model_sha256(state) == model_sha256(arrays)
    assert parameters == models.initial_model(study())[1]
    first = next(iter(arrays))
    save_file({**arrays, first: arrays[first] * 2}, run / weights_file.NAME)
    with pytest.raises(ModelError, match="is not what the study begins with"):
        models.initial_model(spec, run)
    save_file({**arrays, first: arrays[first] * 2}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"start\.sha256"):
        models.bound(spec, tmp_path / "w.safetensors")


def test_weights_of_other_features_are_refused(tmp_path: Path) -> None:
    """Of the same shape they would fit, and each would weigh another feature."""
    file = tmp_path / "w.safetensors"

    def of(*features: str, **model: Any) -> StudySpec:
        return tiny_study(input={"kind": "table", "features": features}, model={"name": "logistic-regression", **model})

    filed(file, of("age", "volume"))
    start = {"start": {"file": "w.safetensors"}}
    models.bound(of("age", "volume", **start), file)
    with pytest.raises(ModelError, match="was trained on other features, or in another order"):
        models.bound(of("volume", "age", **start), file)


def filed(path: Path, theirs: StudySpec) -> Path:
    """A model's file that says of which study it is."""
    arrays = trained(theirs)
    about = Trained(study=theirs, scale=None, thresholds={}, model_sha256=model_sha256(arrays), limits=())
    save_file(arrays, path, metadata=about.header)
    return path


@pytest.mark.parametrize(
    ("labels", "head", "taken"),
    [
        (["benign", "malignant"], None, True),
        (["malignant", "benign"], None, False),
        (["cyst", "malignant"], None, False),
        (["malignant", "benign"], True, True),
        (["benign", "malignant"], False, False),
    ],
)
def test_a_head_is_of_the_labels_in_order(labels: list[str], head: bool | None, taken: bool, tmp_path: Path) -> None:
    file = filed(tmp_path / weights_file.NAME, tiny_study(cohort={"labels": labels}))
    spec, told = models.bound(study(start={"file": file.name, "head": head}), file)
    assert spec.model.start is not None
    assert spec.model.start.head is taken
    assert bool(told.head) is not taken
    assert ("The head tells other labels apart" in str(told)) is not taken
    state, _ = models.initial_model(StudySpec.from_json(spec.canonical_json()), tmp_path)  # as a run, also resumed
    last = list(state)[-1]
    first = trained(study()) if taken else models.initial_state(study(), study().training.seed)
    np.testing.assert_array_equal(state[last], first[last])
    assert models.bound(spec, file) == (spec, told)


SEGMENTS: dict[str, Any] = {
    "study": {"id": "tiny", "task": "segmentation"},
    "cohort": {"labels": ["tumour"], "positive": None},
    "evaluation": {"primary": "dice"},
}


def test_a_displacement_is_of_no_label(tmp_path: Path) -> None:
    """Three structures are as many as a volume has axes."""

    def of(labels: list[str], **start: Any) -> StudySpec:
        about = {"study": {"id": "tiny", "task": "registration"}, "cohort": {"labels": labels, "positive": None}}
        size, model = {"size": [8, 8, 8]}, {"name": "voxelmorph", "options": {"width": 2}, **start}
        return tiny_study(**{**SEGMENTS, **about}, input=size, model=model)

    file = filed(tmp_path / "w.safetensors", of(["liver", "spleen"]))
    _, told = models.bound(of(["a", "b", "c"], start={"file": file.name}), file)
    assert not told.head


@pytest.mark.parametrize(("kept", "strategy"), [("local", "fedavg"), ("local", "fedbn"), ("recalibrate", "fedavg")])
def test_layers_that_never_left_a_hospital_are_nothing_to_begin_with(kept: str, strategy: str, tmp_path: Path) -> None:
    batch = {"name": "resnet10", "options": {"norm": "batch"}}
    size = {"size": [32, 32]}
    theirs = tiny_study(model=batch, training={"batch_norm": kept}, strategy={"name": strategy}, input=size)
    file = filed(tmp_path / "w.safetensors", theirs)
    ours = tiny_study(model={**batch, "start": {"file": file.name}}, input=size)
    if kept == "recalibrate":  # its statistics are the hospitals' mean
        models.bound(ours, file)
    else:
        with pytest.raises(ModelError, match=r'batch_norm = "local", so .*with another batch_norm'):
            models.bound(ours, file)


def test_a_flat_unet_answers_to_a_constant_depth_as_to_one_slice(tmp_path: Path) -> None:
    """In the middle, where no zeros are padded; with statistics of batches, which the depth does not change."""
    network = {"name": "unet", "options": {"norm": "batch", "width": 2, "depth": 1}}

    def of(size: list[int], **start: Any) -> StudySpec:
        return tiny_study(**SEGMENTS, model={**network, **start}, input={"size": size})

    flat, deep = of([16, 16]), of([32, 16, 16], start={"file": "w.safetensors", "inflate": True})
    file = filed(tmp_path / weights_file.NAME, flat)
    state, _ = models.initial_model(models.bound(deep, file)[0], tmp_path)
    networks = [models.network(each).eval() for each in (flat, deep)]
    for each, arrays in zip(networks, (trained(flat), state), strict=True):
        each.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    image = torch.from_numpy(RANDOM.random((1, 1, 16, 16)).astype(np.float32))
    with torch.no_grad():
        slice_, volume = networks[0](image), networks[1](image[:, :, None].repeat(1, 1, 32, 1, 1))
    torch.testing.assert_close(volume[:, :, 16], slice_, rtol=1e-4, atol=1e-4)


def test_where_a_file_lies_is_not_in_the_digest(tmp_path: Path) -> None:
    save_file(trained(study()), tmp_path / "w.safetensors")
    here, _ = models.bound(study(start={"file": "w.safetensors"}), tmp_path / "w.safetensors")
    there, _ = models.bound(study(start={"file": "/home/someone/w.safetensors"}), tmp_path / "w.safetensors")
    assert here == there


@pytest.mark.parametrize(
    ("flat", "deep"), [("small-cnn", (8, 16, 16)), ("resnet10", (32, 32, 32)), ("densenet121", (32, 32, 32))]
)
def test_flat_colour_networks_become_deep_grey_ones(flat: str, deep: tuple[int, ...], tmp_path: Path) -> None:
    labels = {"labels": ["a", "b", "c"], "positive": None}
    size = [32, 32] if flat != "small-cnn" else [16, 16]
    source = trained(tiny_study(model={"name": flat}, input={"size": size, "channels": 3}, cohort=labels))
    save_file(source, tmp_path / "w.safetensors")
    start = {"file": "w.safetensors", "inflate": True}
    spec = tiny_study(model={"name": flat, "start": start}, input={"size": list(deep)})
    _, told = models.bound(spec, tmp_path / "w.safetensors")
    assert len(told.summed) == 1
    assert told.inflated
    assert len(told.head) == 2
    assert len(told.taken) == len(source) - 2


def test_patterns_name_frozen_arrays() -> None:
    spec = study(frozen=["1.*", "2.running_*"])
    names = list(models.initial_state(study(), 1))
    frozen = models.frozen_names(spec, names)
    assert {"1.weight", "2.running_mean", "2.running_var"} & set(names) == frozen


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"frozen": ["features.*"]}, 'frozen: "features.*" matches no array of "small-cnn", which has 1.weight'),
        ({"frozen": ["*"]}, "nothing would be trained"),
        ({"learning_rates": {"head.*": 2.0}}, 'learning_rates: "head.*" matches no array that learns'),
        ({"frozen": ["1.*"], "learning_rates": {"1.*": 2.0}}, 'learning_rates: "1.*" matches no array that learns'),
    ],
)
def test_patterns_that_match_nothing_are_refused(model: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError) as refused:
        models.initial_model(study(**model))
    assert words in str(refused.value)


def test_of_several_rates_the_longest_pattern_counts_whatever_the_order() -> None:
    rates = {"*": 2.0, "11.*": 10.0, "*.bias": 0.5}
    for order in (rates, dict(reversed(rates.items()))):
        model = study(learning_rates=order).model
        assert models.rate_factor(model, "8.weight") == 2.0
        assert models.rate_factor(model, "8.bias") == 0.5
        assert models.rate_factor(model, "11.bias") == 0.5
        assert models.rate_factor(model, "11.weight") == 10.0
    again = StudySpec.from_json(study(learning_rates=rates).canonical_json())
    assert models.rate_factor(again.model, "11.bias") == 0.5
    assert models.rate_factor(study().model, "11.bias") == 1.0
