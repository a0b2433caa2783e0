"""[input] of recordings and of tables: what is refused, in which words, and what a study says of itself."""

import pytest

from fedward_common.errors import StudyError
from fedward_common.study import FeatureScale, SequenceInput, SeriesInput, StudySpec, TableInput, loads, resolved
from fedward_common.study_text import describe

SERIES = """kind = "series"
signals = ["ankle forward", "trunk lateral"]
unit = "mg"
rate_hz = 64
window_s = 4
step_s = 0.5
scale = 1000
"""
SEQUENCE = """kind = "sequence"
column = "dna"
length = 200
"""
TABLE = """kind = "table"
features = ["age", "volume", "thickness"]
combat = ["volume", "thickness"]
covariates = ["age"]
"""


def text(section: str, *, cohort: str = "", training: str = "", model: str = "mlp") -> str:
    return f"""[study]
id = "s"
task = "classification"
[cohort]
labels = ["healthy", "ill"]
positive = "ill"
{cohort}
[input]
{section}
[model]
name = "{model}"
[training]
{training}
"""


def refusal(section: str, **others: str) -> list[str]:
    with pytest.raises(StudyError) as caught:
        loads(text(section, **others), "s.toml")
    return [line.partition(": ")[2] for line in str(caught.value).split("\n")]


def test_a_study_of_recordings() -> None:
    spec = loads(text(SERIES, model="cnn-1d"))
    assert isinstance(spec.input, SeriesInput)
    assert (spec.input.size, spec.input.channels, spec.input.measures_scale) == ((256,), 2, False)
    assert StudySpec.from_json(spec.canonical_json()) == spec
    told = dict(describe(spec))
    assert told["Recordings"] == (
        "Windows of 4 s, one every 0.5 s, at 64 Hz. Signals: ankle forward and trunk lateral. 1000 mg become 1."
    )
    assert told["Patients"].startswith("Patients with recordings and one of the labels healthy or ill.")


def test_a_study_of_sequences() -> None:
    spec = loads(text(SEQUENCE, model="cnn-1d", training='augmentation = ["reverse-complement"]'))
    assert isinstance(spec.input, SequenceInput)
    assert (spec.input.size, spec.input.channels, spec.input.measures_scale) == ((200,), 4, False)
    assert StudySpec.from_json(spec.canonical_json()) == spec
    told = dict(describe(spec))
    assert told["Sequences"] == (
        "Windows of DNA, 200 bases around the middle of the sequences in column dna. One channel each for A, C, G and "
        "T; an unknown base is a quarter of each."
    )
    assert "Training windows are varied by reading the other strand." in told["Training"]
    assert told["Cohort"].startswith("DNA sequences with one of the labels healthy or ill.")
    assert told["Split"].startswith("By group, such as a gene, at random: about 60 % training,")
    assert "weighted by their training groups" in told["Combination"]
    assert "on test groups" in told["Success"]


def test_a_study_of_tables() -> None:
    spec = loads(text(TABLE))
    assert isinstance(spec.input, TableInput)
    assert (spec.input.size, spec.input.channels, spec.input.measures_scale) == ((), 3, True)
    assert StudySpec.from_json(spec.canonical_json()) == spec
    assert "16 rows a batch" in dict(describe(loads(text(TABLE, training="batch_size = 16"))))["Training"]
    assert dict(describe(spec))["Tables"] == (
        "Features: age, volume and thickness. A missing value is set to the mean. What each hospital adds to volume "
        "and thickness is taken out (ComBat); the effect of age stays. Features are brought to mean 0 and standard "
        "deviation 1 over all hospitals, which they measure together before round 1."
    )


def test_a_table_with_its_scale_measures_none() -> None:
    plain = 'kind = "table"\nfeatures = ["age", "volume"]\n'
    spec = loads(text(plain + "scale = { centre = [60.0, 7.0], spread = [8.0, 0.5] }"))
    assert spec.input.measures_scale is False
    assert spec == resolved(spec)
    measured = loads(text(plain)).input.on_scale(FeatureScale(centre=(60.0, 7.0), spread=(8.0, 0.5)))
    assert measured == spec.input
    with pytest.raises(ValueError, match="one for each feature"):
        loads(text(plain)).input.on_scale(FeatureScale(centre=(60.0,), spread=(8.0,)))
    with pytest.raises(ValueError, match="that of its features"):
        loads(text(plain)).input.on_scale((0.1,) * 9)


@pytest.mark.parametrize(
    ("section", "others", "words"),
    [
        (
            'kind = "tabel"',
            {},
            '[input] kind = "tabel": must be one of "image", "series", "sequence", "compound", "table"; did you mean table?',  # noqa: E501
        ),
        ("kind = 3", {}, '[input] kind = 3: must be one of "image", "series", "sequence", "compound", "table"'),
        (
            'kind = "table"',
            {},
            "[input] features: missing; it must be a list of at least 1 and at most 4096 values, each text in quotes "  # noqa: ISC004
            "that is not empty",
        ),
        (
            'kind = "table"\nfeature = ["age"]\nfeatures = ["age"]',
            {},
            (
                '[input] feature = ["age"]: unknown key; did you mean features? valid keys: kind, features, missing, '
                "combat, covariates, scale"
            ),
        ),
        (
            TABLE.replace('["age"]', '["ages"]'),
            {},
            '[input] covariates item 1 = "ages": must be one of the features; did you mean age?',
        ),
        (
            TABLE.replace('combat = ["volume", "thickness"]', 'combat = ["volume"]'),
            {},
            '[input] combat = ["volume"]: must name at least two features: ComBat learns from many at once',
        ),
        (
            TABLE.replace('covariates = ["age"]', 'covariates = ["volume"]'),
            {},
            '[input] covariates = ["volume"]: holds "volume", which combat changes; a covariate is left as it is',
        ),
        (
            'kind = "table"\nfeatures = ["age"]\ncovariates = ["age"]',
            {},
            '[input] covariates = ["age"]: has no effect without combat; remove it, or name the features for combat',
        ),
        (
            TABLE + "scale = { centre = [0.0, 0.0, 0.0], spread = [1.0, 1.0, 1.0] }",
            {},
            "[input] scale.combat: is there exactly where [input] combat names features",
        ),
        (
            TABLE,
            {"cohort": 'modality = "MR"'},
            '[cohort] modality = "MR": is said of images, and this study takes tables; remove it',
        ),
        (
            TABLE,
            {"training": 'augmentation = ["flip"]'},
            '[training] augmentation = ["flip"]: varies images, and this study takes tables; remove it',
        ),
        (
            "size = [64, 64]",
            {"training": 'augmentation = ["flip", "reverse-complement"]', "model": "small-cnn"},
            (
                '[training] augmentation = ["flip", "reverse-complement"]: varies sequences, and this study takes '
                "images; remove it"
            ),
        ),
        (
            SEQUENCE.replace("200", "5000"),
            {"model": "cnn-1d"},
            "[input] length = 5000: must be a whole number at least 8 and at most 4096",
        ),
        (
            TABLE,
            {"model": "small-cnn"},
            '[model] name = "small-cnn": model "small-cnn" takes 2-D or 3-D images, and the study has rows of a table',
        ),
        (
            SERIES.replace('"mg"', '"lb"'),
            {"model": "cnn-1d"},
            '[input] unit = "lb": must be one of "mg", "g", "m/s2", "deg/s", "rad/s", "N", "V", "mV", "uV", "bpm", "1"',
        ),
        (
            SERIES.replace("window_s = 4", "window_s = 4000"),
            {"model": "cnn-1d"},
            "[input] window_s = 4000: must be a window of 2 to 65536 samples; 4000 s at 64 Hz are 256000",
        ),
        (
            SERIES.replace("trunk lateral", "ankle forward"),
            {"model": "cnn-1d"},
            '[input] signals = ["ankle forward", "ankle forward"]: names one signal twice; name each once',
        ),
        (
            SERIES.replace("0.5", "0.001"),
            {"model": "cnn-1d"},
            "[input] step_s = 0.001: must be a sample at least: 0.001 s at 64 Hz are none",
        ),
        (
            SERIES + 'intensity = "zscore"',
            {"model": "cnn-1d"},
            '[input] scale = 1000: has no effect without intensity = "none"; remove it, or set intensity = "none"',
        ),
        (
            TABLE
            + "scale = { centre = [0.0, 0.0, 0.0], spread = [1.0, 1.0, 1.0], combat = { alpha = [0.0, 0.0], "
            + "beta = [[0.0, 0.0]], sigma = [1.0], sites = {} } }",
            {},
            "[input] scale.combat: must have 2 numbers in each row, one a feature of combat",
        ),
    ],
)
def test_what_is_wrong_is_told_in_words(section: str, others: dict[str, str], words: str) -> None:
    assert words in refusal(section, **others)


def test_all_that_is_wrong_is_told_at_once() -> None:
    found = refusal('kind = "table"\nfeatures = ["a", "a"]\nmissing = "zero"\ncombat = ["a"]')
    assert len(found) == 3
