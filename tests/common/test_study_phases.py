"""[[phases]]: what is refused, in which words, and what a study says of itself."""

import pytest

from fedward_common.errors import StudyError
from fedward_common.study import StudySpec, loads
from fedward_common.study_text import describe

PHASE = "[[phases]]\nrounds = 3\n"


def text(phases: str, *, model: str = 'name = "dbn"', strategy: str = "", training: str = "rounds = 4") -> str:
    return f"""[study]
id = "s"
task = "classification"
[cohort]
labels = ["healthy", "ill"]
positive = "ill"
[model]
{model}
{phases}
[training]
{training}
[strategy]
{strategy}
"""


def refusal(phases: str, **others: str) -> list[str]:
    with pytest.raises(StudyError) as caught:
        loads(text(phases, **others), "s.toml")
    return [line.partition(": ")[2] for line in str(caught.value).split("\n")]


def test_rounds_are_numbered_through_all_phases() -> None:
    spec = loads(text(PHASE + PHASE))
    assert spec.rounds == 10
    assert [spec.layer(number) for number in range(1, 11)] == [0] * 3 + [1] * 3 + [None] * 4
    assert [spec.round_of_strategy(number) for number in range(1, 11)] == [1, 2, 3, 1, 2, 3, 1, 2, 3, 4]
    assert spec.work(3) is spec.phases[0]
    assert spec.work(7) is spec.training
    assert StudySpec.from_json(spec.canonical_json()) == spec
    assert loads(text("")).rounds == 4


def test_a_study_says_what_it_does_without_labels() -> None:
    phases = (
        PHASE + "[[phases]]\nrounds = 1\nlocal_steps = 20\nbatch_size = 8\noptimizer = { name = 'sgd', lr = 0.1 }\n"
    )
    told = dict(describe(loads(text(phases))))
    assert told["Without labels"] == (
        "First one layer after the other learns from training images alone, without their labels. Layer 1: 3 rounds, "
        "each of one pass over a hospital's training images, 32 images a batch; optimizer adamw, learning rate 0.0003, "
        "weight decay 0.01. Layer 2: 1 round, each of 20 batches at a hospital, 8 images a batch; optimizer sgd, "
        "learning rate 0.1, momentum 0.9, weight decay 0.01."
    )
    assert "Without labels" not in dict(describe(loads(text(""))))


def test_a_study_of_patients_without_labels_says_so() -> None:
    told = dict(describe(loads(text(PHASE).replace("[model]", "unlabelled = true\n[model]"))))
    assert "Patients without a label learn too, and hospitals that lack labels." in told["Patients"]


def test_a_network_without_such_layers_is_refused() -> None:
    (line,) = refusal(PHASE, model='name = "small-cnn"')
    assert 'has no effect: model "small-cnn" learns from labels alone; remove it, or choose dbn, ' in line


def test_more_phases_than_layers_are_refused() -> None:
    (line,) = refusal(3 * PHASE)
    assert line.endswith('has 3 phases, and model "dbn" has 2 layers to train in them with these options; remove some')
    assert loads(text(3 * PHASE, model='name = "dbn"\noptions = { hidden = [9, 8, 7] }')).rounds == 13
    (line,) = refusal(2 * PHASE, model='name = "rbm"')
    assert line.endswith('has 2 phases, and model "rbm" has 1 layer to train in them with these options; remove some')


@pytest.mark.parametrize("name", ["scaffold", "ditto"])
def test_strategies_of_whole_networks_are_refused(name: str) -> None:
    training = 'optimizer = { name = "sgd", momentum = 0.0 }'
    options = "\noptions = { proximal_lambda = 0.1 }" if name == "ditto" else ""
    (line,) = refusal(PHASE, strategy=f'name = "{name}"{options}', training=training)
    assert line.endswith(f'"{name}" follows a whole network, and [[phases]] train a layer at a time')


def test_frozen_layers_are_refused() -> None:
    (line,) = refusal(PHASE, model='name = "dbn"\nfrozen = ["layers.0.*"]')
    assert line.endswith("cannot stand beside [[phases]], which train layers; remove one of them")


def test_a_fault_in_a_phase_has_its_place() -> None:
    (line,) = refusal(PHASE + "[[phases]]\nrounds = 0\n")
    assert "rounds = 0: must be" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("{ hidden = [] }", "must be a list of 1 to 8 numbers, each from 1 to 8192"),
        ("{ hidden = [4, 0] }", "must be a list of 1 to 8 numbers, each from 1 to 8192"),
        ("{ hidden = 4 }", "must be a list of whole numbers, not 4"),
    ],
)
def test_widths_that_cannot_be_are_refused(options: str, says: str) -> None:
    (line,) = refusal("", model=f'name = "dbn"\noptions = {options}')
    assert says in line
