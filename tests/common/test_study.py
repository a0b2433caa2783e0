"""Reading a study: what a good one becomes, and how a wrong one is refused."""

import inspect
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedward_common.errors import StudyError, UsageError
from fedward_common.study import (
    SiteEntry,
    Strategy,
    StudySpec,
    Update,
    find,
    load,
    loads,
    resolved,
    template_names,
    template_path,
)
from fedward_common.study_strategy import COMPARE_COORDINATES
from fedward_common.study_text import describe

GOOD: dict[str, str] = {
    "study": 'id = "s"\ntask = "classification"',
    "cohort": 'labels = ["benign", "malignant"]\npositive = "malignant"',
    "model": 'name = "small-cnn"',
}


def text(**sections: str) -> str:
    """A small good study, some sections replaced or added; "top" comes before all."""
    top = sections.pop("top", "")
    merged = {**GOOD, **sections}
    return "\n".join([top, *(f"[{name}]\n{body}" for name, body in merged.items())]) + "\n"


def refusal(study: str) -> list[str]:
    with pytest.raises(StudyError) as caught:
        loads(study, "s.toml")
    return str(caught.value).splitlines()


def test_defaults_are_written_out_and_in_the_digest() -> None:
    spec = loads(text())
    assert spec.training.local_epochs == 1
    assert spec.training.local_steps is None
    assert json.loads(spec.canonical_json())["training"]["local_epochs"] == 1
    assert loads(text(training="local_epochs = 1")).digest == spec.digest
    assert loads(text(training="local_epochs = 2")).digest != spec.digest
    assert loads(text(training="local_steps = 2")).training.local_epochs is None


def test_a_scale_that_the_hospitals_measure_is_said_in_words() -> None:
    spec = loads(text(input='intensity = "landmarks"'))
    assert spec.input.measures_scale
    told = dict(describe(spec))["Images"]
    assert "matched to the hospitals' common scale, from 0 to 1, which they measure together before round 1." in told


def test_every_step_of_an_image_is_said_in_words() -> None:
    body = """size = [8, 32, 32]
orientation = "LPS"
spacing = [2.0, 1.0, 1.0]
bias_field = "n4"
crop = "foreground"
intensity = "landmarks"
statistics = "foreground"
landmarks = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
"""
    assert dict(describe(loads(text(input=body))))["Images"] == (
        "Axes are turned to LPS. Slow changes of brightness over an image, which the scanner adds, are taken out (N4). "
        "Images are cropped to their foreground. One pixel is 2 x 1 x 1 mm; images more than 4 times as coarse are "
        "left out. Cut or padded to 8 x 32 x 32 (depth x height x width), grey; grey values are matched to the "
        "hospitals' common scale, from 0 to 1, measured on the "
        "foreground."
    )


def test_arrays_become_tuples_and_dates_dates() -> None:
    spec = loads(text(study=GOOD["study"] + "\nends = 2027-12-31", model=GOOD["model"]))
    assert spec.cohort.labels == ("benign", "malignant")
    assert spec.study.ends == date(2027, 12, 31)
    assert not spec.ended(date(2027, 12, 31))
    assert spec.ended(date(2028, 1, 1))


def test_a_study_survives_its_journey() -> None:
    spec = loads(text(strategy='name = "fedprox"', training="local_steps = 7"))
    assert StudySpec.from_json(spec.canonical_json()) == spec
    assert StudySpec.from_json(spec.canonical_json()).digest == spec.digest


@pytest.mark.parametrize(
    ("name", "given_options", "options"),
    [
        ("fedavg", "", {}),
        ("fedprox", "", {"proximal_mu": 0.01}),
        ("fedprox", "proximal_mu = 1", {"proximal_mu": 1.0}),
        ("fedadam", "", {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}),
        ("fedyogi", "eta = 0.5", {"eta": 0.5, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}),
        ("fedyogi", "eta_l = 3e-4", {"eta": 0.01, "eta_l": 3e-4, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}),
    ],
)
def test_strategy_options_are_resolved(name: str, given_options: str, options: dict[str, float]) -> None:
    spec = loads(text(strategy=f'name = "{name}"\noptions = {{ {given_options} }}'))
    assert spec.strategy.options == options


def test_strategies_that_compare_value_by_value_refuse_top_k() -> None:
    def faults(compression: str, strategy: str) -> list[str]:
        update = Update.model_validate({"compression": compression})
        values = {"update": update, "strategy": Strategy.model_construct(name=strategy)}
        return [fault.reason for fault in StudySpec.faults(values)]

    for name in COMPARE_COORDINATES:
        (reason,) = faults("top-k", name)
        assert f'cannot stand beside [strategy] name = "{name}", which compares updates value by value' in reason
        assert faults("int8", name) == []
    assert faults("top-k", "fedavg") == []


@pytest.mark.parametrize(
    ("coding", "words"),
    [
        ("", "Models and updates travel as they are, four bytes a number."),
        ('compression = "int8"', "Models and updates travel at one byte a number (int8). What this leaves out"),
        ('compression = "top-k"\nshare = 0.025', "of an update the 2.5 % of its values that are largest. What this"),
    ],
)
def test_a_study_says_how_updates_travel(coding: str, words: str) -> None:
    assert words in dict(describe(loads(text(update=coding))))["Messages"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of flwr itself, when it is imported
def test_our_defaults_are_flowers() -> None:
    from flwr.serverapp.strategy import FedAdam, FedYogi

    for name, flower in (("fedadam", FedAdam), ("fedyogi", FedYogi)):
        theirs = inspect.signature(flower).parameters
        for option, value in loads(text(strategy=f'name = "{name}"')).strategy.options.items():
            if (name, option) != ("fedadam", "eta"):  # Flower's is as much as most weights are
                assert theirs[option].default == value


SEGMENTS, UNET = 'id = "s"\ntask = "segmentation"', 'name = "unet"'
DICE, SENSITIVE = 'primary = "dice"', "operating_point = { sensitivity = 0.9 }"
DETECTS = {
    "study": 'id = "s"\ntask = "detection"',
    "cohort": 'labels = ["nodule"]',
    "evaluation": 'primary = "froc"',
}
FAULTS: list[tuple[dict[str, str], str]] = [
    (
        {"training": "round = 20"},
        "line 11: [training] round = 20: unknown key; did you mean rounds? valid keys: rounds,",
    ),
    ({"training": "min_sites = 2"}, "line 11: [training] min_sites = 2: unknown key; it belongs to [strategy]; valid"),
    ({"trainin": ""}, "line 10: [trainin]: unknown key; did you mean training? valid keys: schema_version,"),
    ({"top": "zzz = 1"}, "line 1: zzz = 1: unknown key; valid keys: schema_version,"),
    ({"training": 'rounds = "20"'}, '[training] rounds = "20": must be a whole number at least 1 and at most 10000'),
    ({"training": "rounds = 2.0"}, "[training] rounds = 2.0: must be a whole number"),
    ({"training": "rounds = 0"}, "[training] rounds = 0: must be a whole number at least 1"),
    ({"training": "class_weights = 1"}, "[training] class_weights = 1: must be true or false"),
    ({"training": "optimizer = { lr = 0 }"}, "[training] optimizer.lr = 0: must be a number above 0"),
    ({"training": "optimizer = { lr = inf }"}, "[training] optimizer.lr = inf: must be a number above 0"),
    ({"training": "[training.optimizer]\nname = 'adamm'"}, 'line 12: [training] optimizer.name = "adamm": must be one'),
    ({"training": "augmentation = [\n'flip',\n'flp']"}, "line 13: [training] augmentation item 2"),
    ({"training": "augmentation = ['flip', 'flip']"}, "names one augmentation twice"),
    ({"training": "optimizer = { momentum = 0.5 }"}, 'optimizer.momentum = 0.5: has no effect without name = "sgd"'),
    ({"training": "local_epochs = 1\nlocal_steps = 1"}, "line 12: [training] local_steps = 1: cannot stand beside"),
    ({"training": "seed = 9007199254740992"}, "must be a whole number at least 0 and below 9007199254740992"),
    ({"study": 'id = "S"\ntask = "classification"'}, '[study] id = "S": must be 1 to 63 lower-case letters'),
    ({"study": 'id = "s"\ntask = "diagnosis"'}, '[study] task = "diagnosis": must be '),
    ({"study": GOOD["study"] + '\nends = "soon"'}, '[study] ends = "soon": must be a date such as 2027-12-31'),
    ({"study": 'task = "classification"'}, "line 2: [study] id: missing; it must be 1 to 63 lower-case"),
    (
        {"cohort": 'labels = ["a", "b"]'},
        "[cohort] positive: missing; with two labels, say which of them is looked for: a or b",
    ),
    ({"cohort": 'labels = ["a", "b"]\npositive = "c"'}, '[cohort] positive = "c": must be one of the labels: a, b'),
    (
        {"cohort": 'labels = ["a"]'},
        '[cohort] labels = ["a"]: must be the words for what a patient may have, two or more',
    ),
    ({"cohort": 'labels = ["a", "a", "b"]'}, 'holds "a" 2 times'),
    ({"cohort": 'labels = ["a", "b ", "c"]'}, '[cohort] labels item 2 = "b ": must be printable text without spaces'),
    ({"cohort": 'labels = ["a", "", "c"]'}, '[cohort] labels item 2 = ""'),
    ({"cohort": f"labels = {[str(number) for number in range(1001)]}"}, "must be a list of at most 1000 values, each"),
    (
        {"split": "shares = [0.7, 0.1]"},
        "[split] shares = [0.7, 0.1]: must be a list of 3 values, each a number at least 0",
    ),
    ({"split": "shares = [0.7, 0.1, 0.1]"}, "must add up to 1 (train, validation, test); these add up to 0.9"),
    ({"split": "shares = [0, 0.5, 0.5]"}, "[split] shares item 1 = 0: must be above 0"),
    ({"split": 'kind = "leave-site-out"'}, '[split] site: missing; kind = "leave-site-out" needs the name'),
    ({"split": 'site = "a"'}, '[split] site = "a": has no effect without kind = "leave-site-out"'),
    ({"split": "folds = 5"}, '[split] folds = 5: has no effect without kind = "folds" or "leave-one-patient-out"'),
    ({"split": 'kind = "folds"'}, '[split] folds: missing; kind = "folds" needs the number of folds: 5 or 10, for'),
    ({"split": 'kind = "leave-one-patient-out"'}, "needs the number of folds: as many as the hospital with most"),
    ({"split": 'kind = "folds"\nfolds = 2'}, "[split] folds = 2: must be a whole number at least 3 and at most 1000"),
    ({"split": 'kind = "folds"\nfolds = 3\nshares = [0.8, 0.1, 0.1]'}, "shares = [0.8, 0.1, 0.1]: has no effect with"),
    ({"split": 'column = "fold"'}, 'has no effect without kind = "column"'),
    (
        {"input": "size = [128]"},
        "[input] size = [128]: must be [height, width] or [depth, height, width], not 1 numbers",
    ),
    ({"input": "size = [128, 4]"}, "[input] size item 2 = 4: must be a whole number at least 8 and at most 1024"),
    ({"input": "channels = 2"}, "[input] channels = 2: must be one of 1, 3"),
    ({"input": 'channels = ""'}, '[input] channels = "": must be one of 1, 3'),
    ({"input": "spacing = [1.0]"}, "[input] spacing = [1.0]: must be as many numbers as size, 2: millimetres in the"),
    ({"input": "spacing = [1, 0]"}, "[input] spacing item 2 = 0: must be a number at least 0.01 and at most 100"),
    ({"input": "max_upsampling = 2"}, "[input] max_upsampling = 2: has no effect without spacing; remove it, or give"),
    ({"input": "spacing = [1, 1]\nmax_upsampling = 0.5"}, "max_upsampling = 0.5: must be a number at least 1 and at"),
    ({"input": 'orientation = "RAS"'}, '[input] orientation = "RAS": has no effect on 2-D images; remove it, or give'),
    (
        {"input": 'size = [8, 8, 8]\norientation = "RAA"'},
        '[input] orientation = "RAA": must be three letters, one each of L or R, P or A, I or S',
    ),
    ({"input": 'size = [8, 8, 8]\norientation = "ras"'}, 'orientation = "ras": must be three letters'),
    ({"input": 'size = [8, 8, 8]\norientation = "RA"'}, 'orientation = "RA": must be three letters'),
    ({"input": 'bias_field = "N4"'}, '[input] bias_field = "N4": must be "n4"'),
    ({"input": 'crop = "lungs"'}, '[input] crop = "lungs": must be "foreground"'),
    ({"input": 'intensity = "zscores"'}, "did you mean zscore?"),
    (
        {"input": 'intensity = "window"\nwindow = [40, 400]\nstatistics = "foreground"'},
        '[input] statistics = "foreground": has no effect with intensity = "window"',
    ),
    ({"input": f"landmarks = {[0.5] * 9}"}, 'has no effect without intensity = "landmarks"'),
    (
        {"input": 'intensity = "landmarks"\nlandmarks = [0.1, 0.5]'},
        "[input] landmarks = [0.1, 0.5]: must be 9 numbers from 0 to 1, none lower than the one before",
    ),
    (
        {"input": f'intensity = "landmarks"\nlandmarks = {[0.2, 0.1, *[0.5] * 7]}'},
        "must be 9 numbers from 0 to 1, none lower than the one before",
    ),
    (
        {"input": f'intensity = "landmarks"\nlandmarks = {[0.5] * 8 + [1.5]}'},
        "[input] landmarks item 9 = 1.5: must be a number at least 0 and at most 1",
    ),
    ({"input": "percentiles = [99, 1]"}, "must be two numbers from 0 to 100, the lower one first"),
    ({"input": "percentiles = [0, 101]"}, "must be two numbers from 0 to 100"),
    ({"input": 'intensity = "window"'}, '[input] window: missing; intensity = "window" needs [center, width]'),
    ({"input": "window = [40, 400]"}, '[input] window = [40, 400]: has no effect without intensity = "window"'),
    ({"input": 'intensity = "zscore"\npercentiles = [2, 98]'}, 'has no effect without intensity = "percentile"'),
    (
        {"model": 'name = "small-cnn"\noptions = { x = [1.5] }'},
        "[model] options.x = [1.5]: must be true or false, a number",
    ),
    (
        {"model": 'name = "small-cnn"\nstart = {}'},
        "[model] start.file: missing; say where the weights are: file = ",
    ),
    (
        {"model": 'name = "small-cnn"\nstart = { file = "a", model = "b" }'},
        '[model] start.model = "b": cannot stand beside file',
    ),
    ({"model": 'name = "small-cnn"\nstart = { file = " " }'}, "must be the path of a safetensors file"),
    ({"model": 'name = "small-cnn"\nstart = { model = "A" }'}, 'start.model = "A": must be 1 to 63 lower-case'),
    ({"model": 'name = "small-cnn"\nstart = { file = "a", sha256 = "A" }'}, "must be a SHA-256 of 64"),
    (
        {"model": 'name = "small-cnn"\nstart = { file = "a", inflate = true }'},
        "[model] start.inflate = true: has an effect on 3-D images only",
    ),
    (
        {"model": 'name = "small-cnn"\nfrozen = ["1.*", "1.*"]'},
        'frozen = ["1.*", "1.*"]: names one pattern twice',
    ),
    ({"model": 'name = "small-cnn"\nfrozen = [""]'}, "must be a pattern of names in quotes"),
    (
        {"model": 'name = "small-cnn"\nlearning_rates = { "1.*" = 0 }'},
        "a factor above 0; to hold a layer as it is, name it in frozen",
    ),
    ({"strategy": "options = { eta = 1 }"}, "[strategy] options.eta = 1: unknown key; there are none to set here"),
    ({"strategy": 'name = "fedprox"\noptions = { mu = 1 }'}, "options.mu = 1: unknown key; valid keys: proximal_mu"),
    (
        {"strategy": 'name = "fedprox"\noptions.proximal_mu = -1'},
        "options.proximal_mu = -1: must be a number at least 0",
    ),
    (
        {"strategy": 'name = "fedadam"\noptions.beta_1 = 1'},
        "options.beta_1 = 1: must be a number at least 0 and below 1",
    ),
    ({"strategy": 'name = "fedadam"\noptions.eta_l = 0.1'}, "options.eta_l = 0.1: is the sites' learning rate, and"),
    ({"update": 'compression = "gzip"'}, 'must be one of "none", "bf16", "int8", "top-k"'),
    ({"update": "share = 0.1"}, '[update] share = 0.1: has no effect without compression = "top-k"; remove it, or set'),
    (
        {"update": 'compression = "top-k"\nshare = 0.6'},
        "[update] share = 0.6: must be a number above 0 and at most 0.5",
    ),
    ({"privacy": "secure_aggregation = true"}, "is not in this version of Fedward: remove the key"),
    ({"privacy": "dp = { unit = 'patient' }"}, "[privacy] dp: is not in this version of Fedward: remove the key"),
    ({"privacy": "dp = {}"}, "[privacy] dp: is not in this version of Fedward: remove the key"),
    ({"evaluation": "operating_point = {}"}, '[evaluation] operating_point: must be "youden", or { sensitivity ='),
    ({"evaluation": "operating_point = { sensitivity = 2 }"}, 'operating_point: must be "youden", or { sensitivity ='),
    ({"evaluation": 'primary = "auc_roc"'}, 'must be one of "roc_auc", "loss"'),
    (
        {"study": SEGMENTS, "cohort": 'labels = ["a"]', "model": UNET, "evaluation": f"{DICE}\n{SENSITIVE}"},
        '[evaluation] operating_point: has no effect without [study] task = "classification"; remove it',
    ),
    (
        {
            "study": SEGMENTS,
            "cohort": 'labels = ["a"]',
            "model": UNET,
            "evaluation": DICE,
            "training": "class_weights = false",
        },
        '[training] class_weights = false: has no effect without [study] task = "classification"; remove it',
    ),
    (
        {"cohort": f'{GOOD["cohort"]}\nmodality = "CT"\nsequence = ["T1"]'},
        'line 9: [cohort] sequence = ["T1"]: is said of MR images, and modality is "CT"; remove it',
    ),
    (
        {"cohort": f'{GOOD["cohort"]}\nmodality = "US"', "input": 'bias_field = "n4"'},
        '[input] bias_field = "n4": is said of MR images, and [cohort] modality is "US"; remove it',
    ),
    (
        {"model": 'name = "dbn"\noptions = { visible = "binary" }', "input": 'size = [16, 16]\nintensity = "zscore"'},
        '[model] options.visible = "binary": is for inputs between 0 and 1, and those of this study lie around 0; set',
    ),
    (
        {"model": 'name = "dbn"\noptions = { visible = "gaussian" }'},
        '[model] options.visible = "gaussian": is for inputs of mean 0 and deviation 1, and those of this study lie',
    ),
    (
        {"model": 'name = "rbm"', "input": 'kind = "table"\nfeatures = ["age"]'},
        '[model] options.visible: is "binary" where nothing else is said, for inputs between 0 and 1, and those of',
    ),
    (
        {"cohort": f'{GOOD["cohort"]}\nmodality = "US"', "input": 'intensity = "window"\nwindow = [-600, 1500]'},
        '[input] window = [-600, 1500]: lies around -600, as for CT, and [cohort] modality is "US"',
    ),
    (
        {"cohort": f'{GOOD["cohort"]}\nmodality = "MR"', "input": 'intensity = "window"\nwindow = [-600, 1500]'},
        '[input] window = [-600, 1500]: lies around -600, as for CT, and [cohort] modality is "MR"',
    ),
    (
        {"cohort": f'{GOOD["cohort"]}\nmodality = "MRI"'},
        'must be a DICOM modality in capitals such as "US", or absent to take any; did you mean MR?',
    ),
    (
        {"cohort": f"{GOOD['cohort']}\nslices = [20, 60]"},
        "[cohort] slices = [20, 60]: has no effect on 2-D images; remove it",
    ),
    (
        {
            "split": 'kind = "leave-site-out"\nsite = "a"\nshares = [0.8, 0, 0.2]',
            "evaluation": 'keep = "best"',
        },
        '[evaluation] keep = "best": needs validation patients',
    ),
    ({"split": 'kind = "column"\nshares = [0.8, 0.1, 0.1]'}, 'has no effect with kind = "column"'),
    (
        {"model": 'name = "rbm"\noptions.visible = "binary"', "input": 'kind = "table"\nfeatures = ["age"]'},
        "line 10: [model] options.visible",
    ),
    ({"study": f'{GOOD["study"]}\ntitle = "\\u001b[31m"'}, 'title = "\\u001b[31m": must be printable text'),
    ({"training": "optimizer = { lr = 1e300 }"}, "[training] optimizer.lr = 1e+300: must be a number above 0 and at"),
    (
        {"evaluation": "operating_point = { sensitivity = 0.0 }"},
        '"youden", or { sensitivity = a number above 0, up to 1 }',
    ),
    (
        {"evaluation": "operating_point = { sensitivity = 0.9 }", "split": "shares = [0.7, 0.0, 0.3]"},
        "needs validation patients: give [split] shares a second number",
    ),
    (
        {**DETECTS, "model": 'name = "retinanet"', "input": "size = [24, 16]"},
        "[model] options: give anchors of up to 32 pixels, and no side of [input] size is as long; lower levels or",
    ),
    (
        {**DETECTS, "model": 'name = "retinanet"\noptions = { levels = 9007199254740991 }'},
        "[model] options: ",
    ),
    ({"top": 'min_fedward = "99.1"'}, 'line 1: min_fedward = "99.1": needs a newer Fedward: '),
    ({"top": 'min_fedward = "new"'}, 'min_fedward = "new": must be a version such as'),
    ({"top": "schema_version = 2"}, "line 1: schema_version = 2: must be 1"),
    ({"[sites]": 'name = "a"\n[[sites]]\nname = "a"'}, '[[sites]] item 2 name = "a": is also the name of item 1'),
    ({"[sites]": 'name = "a"'}, "[strategy] min_sites: must be at most 1, the number of sites in [[sites]] that train"),
    ({"[sites]": 'name = "a"\nfingerprint = "A"'}, '[[sites]] item 1 fingerprint = "A": must be a SHA-256 of 64'),
    (
        {"split": 'kind = "leave-site-out"\nsite = "north"', "[sites]": 'name = "nort"\n[[sites]]\nname = "south"'},
        '[split] site = "north": must be one of the sites: nort, south; did you mean nort?',
    ),
]


@pytest.mark.parametrize(("sections", "says"), FAULTS, ids=[says[:50] for _, says in FAULTS])
def test_a_fault_is_told_in_one_line(sections: dict[str, str], says: str) -> None:
    lines = refusal(text(**sections))
    assert len(lines) == 1, lines
    assert lines[0].startswith("s.toml")
    assert says in lines[0]


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"model": 'name = "small-cn"'}, '[model] name = "small-cn": '),
        ({"model": 'name = "small-cnn"\noptions = { no_such = 1 }'}, "[model] options: "),
        ({"input": "size = [8, 8, 8]", "model": 'name = "enhanced-alexnet"'}, '[model] name = "enhanced-alexnet": '),
    ],
)
def test_what_the_registry_refuses_stands_at_the_name_or_the_options(sections: dict[str, str], key: str) -> None:
    (line,) = refusal(text(**sections))
    assert key in line


@pytest.mark.parametrize(
    "sections",
    [
        {"cohort": f'{GOOD["cohort"]}\nmodality = "MR"\nsequence = ["T1"]', "input": 'bias_field = "n4"'},
        {"cohort": f'{GOOD["cohort"]}\nsequence = ["T1"]', "input": 'bias_field = "n4"'},
        {"model": 'name = "dbn"\noptions = { visible = "binary" }', "input": "size = [16, 16]"},
        {
            "model": 'name = "rbm"\noptions = { visible = "binary" }',
            "input": 'kind = "table"\nfeatures = ["share"]\nscale = { centre = [0.0], spread = [1.0] }',
        },
        {**DETECTS, "model": 'name = "retinanet"', "input": "size = [16, 32]"},
        {**DETECTS, "model": 'name = "retinanet"\noptions = { anchor = 4 }', "input": "size = [16, 16]"},
        {"input": 'channels = 3\nintensity = "window"\nwindow = [40, 400]'},  # grey becomes three equal channels
        {
            "cohort": f'{GOOD["cohort"]}\nmodality = "MR"',
            "input": 'intensity = "window"\nwindow = [0, 400]',
        },  # of phase
        {"cohort": f'{GOOD["cohort"]}\nmodality = "US"', "input": 'intensity = "window"\nwindow = [127, 256]'},
        {"cohort": f'{GOOD["cohort"]}\nmodality = "RTDOSE"'},
    ],
)
def test_pairings_that_work_are_taken(sections: dict[str, str]) -> None:
    assert loads(text(**sections)).rounds


def test_where_a_network_begins_is_told_in_words_and_in_the_digest() -> None:
    plain = loads(text())
    table = '{ model = "old", map = { "encoder." = "features.", "" = "all." } }'
    body = f'{GOOD["model"]}\nstart = {table}\nfrozen = ["1.*"]\nlearning_rates = {{ "11.*" = 10 }}'
    spec = loads(text(model=body))
    assert spec.digest != plain.digest
    words = dict(describe(spec))["Network"]
    assert words == (
        "Small network for first trials and small images (small-cnn with width = 16). Begins with the weights of the "
        "registered model old (SHA-256 filled in when the study is started), taking encoder. as features. and all "
        "names as all., the last layer where it is of the same labels. Held as they are: 1.*. "
        "Learning rates of layers: 11.* times 10."
    )
    for head, told in (("true", "the last layer where it fits."), ("false", "not the last layer, which stays at")):
        body = f'start = {{ file = "w.safetensors", sha256 = "{"a" * 64}", inflate = true, head = {head} }}'
        spec = loads(text(model=f"{GOOD['model']}\n{body}", input="size = [8, 32, 32]"))
        words = dict(describe(spec))["Network"]
        assert f"weights of w.safetensors (SHA-256 {'a' * 64}), 2-D kernels spread along the depth, {told}" in words
    alone = "Small network for first trials and small images (small-cnn with width = 16)."
    assert dict(describe(plain))["Network"] == alone


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    lines = refusal(
        text(
            top='min_fedward = "99"',
            cohort='labels = ["a", ""]\npositive = "c"\nmin_patients = "20"',
            split='shares = [0.7, 0.1]\nsite = "a"',
            training="local_epochs = 1\nlocal_steps = 1\nround = 2\noptimizer = { lr = 0, momentum = 0.1 }",
            privacy="secure_aggregation = true",
        )
    )
    keys = [line.partition(": ")[2].partition(":")[0].partition(" =")[0] for line in lines]
    assert keys == [
        "min_fedward",
        "[cohort] labels item 2",
        "[cohort] positive",
        "[cohort] min_patients",
        "[split] shares",
        "[split] site",
        "[training] local_steps",
        "[training] round",
        "[training] optimizer.lr",
        "[training] optimizer.momentum",
        "[privacy] secure_aggregation",
    ]
    numbers = [int(line.partition("line ")[2].partition(":")[0]) for line in lines]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("broken", "line", "says"),
    [
        ("[study]\nid = \n", 2, "id =: this is no TOML: invalid value"),
        ("a = 1\na = 2\n", 2, "cannot overwrite"),
        ("a = 1\nb = [1,\n", 2, "this is no TOML"),
        ("", 0, "[study]: missing; it must be a table of id, title"),
    ],
)
def test_broken_toml_names_its_line(broken: str, line: int, says: str) -> None:
    first = refusal(broken)[0]
    assert says in first
    assert (f"line {line}:" in first) == bool(line)


def test_a_file_is_read_with_or_without_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(b"\xef\xbb\xbf" + text().replace("\n", "\r\n").encode())
    assert load(path) == loads(text())


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"[study]\ntitle = 'M\xfcller'\n")
    with pytest.raises(StudyError, match=r"latin.toml, line 2: is no UTF-8"):
        load(tmp_path / "latin.toml")
    with pytest.raises(StudyError, match=r"cannot be read: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(StudyError, match="nested too deeply"):
        loads("a = " + "[" * 100_000)


def test_direct_construction_and_the_wire_are_held_to_the_same_rules() -> None:
    document = json.loads(loads(text()).canonical_json())
    document["split"]["kind"] = "leave-site-out"
    with pytest.raises(ValidationError, match="needs the name of the site"):
        StudySpec.from_json(json.dumps(document))


def test_resolved_takes_a_roster_and_a_seed_and_checks_them() -> None:
    spec = loads(text())
    sites = [SiteEntry(name=name) for name in ("north", "south")]
    run = resolved(spec, sites=sites, seed=7)
    assert run.sites == tuple(sites)
    assert run.training.seed == 7
    assert run.digest != spec.digest
    assert resolved(spec) == spec
    with pytest.raises(StudyError, match=r"min_sites = 2: must be at most 1"):
        resolved(spec, sites=sites[:1])
    with pytest.raises(StudyError, match=r"\[training\] seed = -1: must be a whole number"):
        resolved(spec, seed=-1)


def test_a_site_that_only_evaluates_does_not_count_for_the_quorum() -> None:
    sites = [SiteEntry(name="north"), SiteEntry(name="south", role="evaluate")]
    with pytest.raises(StudyError, match="must be at most 1"):
        resolved(loads(text()), sites=sites)


@pytest.mark.parametrize("name", template_names())
def test_every_template_is_a_study_by_its_name(name: str) -> None:
    spec = load(template_path(name))
    assert spec.study.id == name
    assert spec.study.title
    assert "#" in template_path(name).read_text(encoding="utf-8")


def test_the_breast_ultrasound_template_is_the_one_of_the_demo() -> None:
    spec = load(find("breast-ultrasound"))
    assert spec.cohort.labels == ("benign", "malignant")
    assert spec.positive_index == 1
    assert spec.model.name == "enhanced-alexnet"
    assert (spec.training.rounds, spec.strategy.min_sites, spec.input.size) == (20, 3, (128, 128))


def test_where_nobody_validates_no_operating_point_is_promised() -> None:
    told = dict(describe(loads(text(split="shares = [0.8, 0, 0.2]"))))["Success"]
    assert "There is no validation patient to choose an operating point." in told


@pytest.mark.parametrize("name", template_names())
def test_every_template_is_told_in_whole_sentences(name: str) -> None:
    for heading, words in describe(load(template_path(name))):
        assert re.fullmatch(r"[A-Z0-9].*\.", words), heading
        assert not re.search(r"None|  |\.\.|\band nothing\b|[{}] ?\.", words), (heading, words)


def test_a_study_is_found_by_path_or_template_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text())
    assert find(str(path)) == path
    assert find("image-classification") == template_path("image-classification")
    with pytest.raises(UsageError, match=r"no study file 'breast-ultrasond'.*did you mean breast-ultrasound\?"):
        find("breast-ultrasond")
    with pytest.raises(UsageError, match="no template is called"):
        template_path("../study")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = [(section, key) for section, fields in json.loads(loads(text()).canonical_json()).items()
        if isinstance(fields, dict) for key in fields]  # fmt: skip


def toml(value: Any) -> str:
    """Junk as TOML, None left to the side."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return "0" if value is None else json.dumps(value).replace("\x7f", "\\u007f")


@given(st.sampled_from(KEYS), JUNK)
def test_junk_is_refused_in_words_or_makes_a_study_with_a_digest(where: tuple[str, str], junk: Any) -> None:
    section, key = where
    body = "\n".join(line for line in GOOD.get(section, "").splitlines() if not line.startswith(f"{key} ="))
    try:
        spec = loads(text(**{section: f"{body}\n{key} = {toml(junk)}"}), "s.toml")
    except StudyError as error:
        refused = str(error)
    else:
        assert StudySpec.from_json(spec.canonical_json()).digest == spec.digest
        return
    assert all(line.startswith("s.toml") and ": " in line for line in refused.splitlines())
    assert all(line.isprintable() for line in refused.split("\n"))
