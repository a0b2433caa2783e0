"""How a run was done and what its numbers cannot say, for the report and the model card. Pure: results in, text out."""

from collections.abc import Mapping

from fedward_common.sentences import listed, sentences
from fedward_common.study import Input
from fedward_common.study_text import cohort_words, counted, privacy_words
from fedward_common.study_text_input import HEADINGS, before_scaling, input_words
from fedward_common.study_text_training import combined, initial_words, own_word
from fedward_server import limits as run_limits
from fedward_server.figures.blocks import METRIC_TITLES
from fedward_simulations.results import Results, SiteEffectChange
from fedward_simulations.task_wording import WORDS, TaskWords
from fedward_simulations.wording import has_threshold, number, plural

EXAMPLES = {
    "image": ("image", "images"),
    "series": ("window", "windows"),
    "sequence": ("window", "windows"),
    "compound": ("compound", "compounds"),
    "table": ("row", "rows"),
}


def words(results: Results) -> TaskWords:
    """What is said of the study's task."""
    return WORDS[results.study.task]


def score(results: Results) -> str:
    """What the model gives."""
    positive, labels = results.study.positive, results.study.labels
    each = "each label" if results.study.task == "classification" else ", ".join(labels) or "nothing"
    return words(results).output.format(labels=f"“{positive}”" if positive else each)


def score_text(results: Results) -> str:
    """What the model gives, and how a patient's figure comes of it."""
    one, several = EXAMPLES[results.study.spec.input.kind]
    of_patient = words(results).of_patient.format(several=several, labels=", ".join(results.study.labels) or "nothing")
    return f"{score(results)} for each {one}; {of_patient}."


def method(results: Results) -> list[tuple[str, str]]:
    """The method in words: (topic, text)."""
    spec = results.study.spec
    return [
        ("Model", _model_text(results)),
        ("Training", _training_text(results)),
        ("Model selection", selection_text(results)),
        ("Comparison", _comparison_text(results)),
        ("Cohort", cohort_words(spec)),
        ("Patients", split_text(results)),
        (HEADINGS[results.study.spec.input.kind], input_text(results)),
        *(
            []
            if results.site_effect is None
            else [("Scanners", site_effect_text(results.site_effect, spec.input.kind))]
        ),
        ("Score" if results.study.task == "classification" else "Output", score_text(results)),
        *([("Operating point", operating_point_text(results))] if results.study.task == "classification" else []),
        ("Intervals", intervals_text(results)),
        ("Small cells", small_cells_text(results)),
        ("Privacy", privacy_words(spec.privacy)),
    ]


def _model_text(results: Results) -> str:
    model = results.study.spec.model
    named = _with_options(model.name, model.options)
    source = " from the seed alone," * (model.start is None)
    return sentences([f"{named}, initial weights{source} the same at every hospital", *initial_words(model)])


def initial_text(results: Results) -> str:
    """Where the first weights came from."""
    model = results.study.spec.model
    seed = f"from the seed ({', '.join(map(str, results.seeds))})"
    if model.start is None:
        return sentences([f"Random, {seed} alone", *initial_words(model)])
    return sentences([*initial_words(model), f"Layers without such weights are random, {seed}"])


def _with_options(name: str, options: Mapping[str, object]) -> str:
    said = ", ".join(f"{key} = {value}" for key, value in options.items())
    return f"{name} ({said})" if said else name


def _training_text(results: Results) -> str:
    training, strategy = results.study.spec.training, results.study.spec.strategy
    local = f"{training.local_steps} batches" if training.local_steps else plural(training.local_epochs or 1, "epoch")
    rule = _with_options(strategy.name, strategy.options)
    up_to = "up to " * (results.study.spec.evaluation.early_stopping is not None)
    phases = [plural(phase.rounds, "round") for phase in results.study.spec.phases]
    parts = [
        *([f"layers alone, without labels, for {', '.join(phases)}, one after the other, then"] if phases else []),
        f"{up_to}{plural(training.rounds, 'round')} of {rule}{_repeated(results)}, {local} at each hospital per round",
        f"batches of {training.batch_size}, {training.optimizer.name} with learning rate {training.optimizer.lr:g}",
    ]
    if training.augmentation:
        parts.append(f"augmentation by {', '.join(training.augmentation)}")
    if training.class_weights and results.study.spec.study.task == "classification":
        parts.append("loss weighted by inverse class frequency")
    after = training.pseudo_labels_after
    word = f" {own_word(after, EXAMPLES[results.study.spec.input.kind][1])}." if after is not None else ""
    return f"{'; '.join(parts)}.{word} {combined(strategy, counted(results.study.spec))}."


def selection_text(results: Results) -> str:
    """Which round's model was taken, and by what."""
    evaluation = results.study.spec.evaluation
    measure = "loss" if evaluation.primary == "loss" else METRIC_TITLES[evaluation.primary]
    if evaluation.keep == "best":
        kept = f"The model of the round with the best {measure} on validation patients"
    elif evaluation.early_stopping is not None:
        kept = "The model after the last round"
    else:
        return f"The model after round {results.rounds}; no round was picked by its result."
    if evaluation.early_stopping is None:
        return f"{kept}."
    patience = plural(evaluation.early_stopping.patience, "round")
    return f"{kept}. Training ends when the {measure} on validation patients has not become better for {patience}."


def _repeated(results: Results) -> str:
    folds = results.study.spec.split.folds
    return "" if folds is None else f" for each of {folds} folds, and as many for the model of all patients"


def _comparison_text(results: Results) -> str:
    alone = (
        "Local only: each hospital trains alone, on its own training patients. Federated: one model, trained together."
    )
    personal = " Personal: a model of each hospital's own, trained there beside the federated one and held to it."
    pooled = " Pooled data: one model trained with all data in one place, possible only where data may be moved."
    budget = " Every model had the same budget of rounds."
    if results.study.spec.evaluation.early_stopping is not None:
        budget = " Every model had the same largest number of rounds, and the same rule for when to end before it."
    own = personal if results.overall.personal is not None else ""
    return alone + own + (pooled if results.overall.pooled is not None else "") + budget


def split_text(results: Results) -> str:
    """How patients were split."""
    split = results.study.spec.split
    always = "No patient is on two sides."
    if split.kind == "hash":
        shares = " / ".join(f"{100 * share:.0f} %" for share in split.shares)
        return (
            f"Split by patient into training, validation and test ({shares}) at each hospital, by keyed hash. {always}"
        )
    if split.kind == "column":
        return f"Split by patient, as the column “{split.column}” of each hospital’s label table says. {always}"
    if split.kind == "leave-site-out":
        return f"{split.site or 'One hospital'} is only tested; the others train and validate. {always}"
    if split.kind == "folds":
        dealt = f"Patients of each hospital were dealt into {split.folds} folds by keyed hash"
    else:
        dealt = f"Each patient of a hospital was tested alone, in up to {split.folds} folds"
    return (
        f"{dealt}. Each fold was tested once, by a model that the others trained and the next fold’s patients "
        "validated; the figures are of all folds’ scores together. No model was tested on a patient that it was "
        "trained on."
    )


def input_text(results: Results) -> str:
    """How an image, a window of a recording or of DNA, or a row of a table becomes the model's input."""
    spec = results.study.spec.input
    if not isinstance(spec, Input):
        return input_words(spec)
    size_text = " × ".join(map(str, spec.size))
    if spec.intensity == "percentile":
        scaling = f"percentiles {spec.percentiles[0]:g} and {spec.percentiles[1]:g} of an image set to 0 and 1"
    elif spec.intensity == "window" and spec.window is not None:
        scaling = f"window with centre {spec.window[0]:g} and width {spec.window[1]:g}"
    elif spec.intensity == "landmarks":
        scaling = "grey values matched to the hospitals’ common landmarks (Nyúl)"
    else:
        scaling = "each image set to mean 0 and standard deviation 1"
    if spec.statistics == "foreground":
        scaling += ", measured on the foreground"
    before = "".join(f"{sentence}. " for sentence in before_scaling(spec))
    how = "Resampled" if spec.spacing is None else "Cut or padded"
    return f"{before}{how} to {size_text} pixels, {plural(spec.channels, 'channel')}; {scaling}."


def site_effect_text(change: SiteEffectChange, kind: str) -> str:
    """Whether hospitals could be told by their images, or rows."""
    _, several = EXAMPLES[kind]
    untouched = "images only brought to size" if kind == "image" else "features without ComBat"
    before, after = change.before, change.after
    verdict = "can still be told" if after.found else "can no longer be told" if before.found else "could not be told"
    return (
        f"A plain classifier was asked which hospital a patient’s {several} come from. Its balanced accuracy was "
        f"{number(before.accuracy)} on {untouched}, {number(after.accuracy)} on the model’s input; "
        f"guessing gives {number(after.chance)} ({number(after.chance_low)}–{number(after.chance_high)}). "
        f"Hospitals {verdict} by what it looks at; other patients, not only other scanners, can be the reason."
    )


def operating_point_text(results: Results) -> str:
    """How the threshold was chosen."""
    if not has_threshold(results):
        return words(results).threshold
    point = results.study.spec.evaluation.operating_point
    rule = (
        "the largest sum of sensitivity and specificity (Youden’s index)"
        if isinstance(point, str)
        else f"a sensitivity of at least {point['sensitivity']:g}"
    )
    if results.study.spec.split.folds is not None:
        return (
            f"Chosen for {rule} on the scores of every patient as a validation patient, by another fold’s model than "
            "the one that tests them. No test score played a part in it; the truth of each test patient did, as one of "
            "all."
        )
    return f"Chosen on validation patients for {rule}; test patients played no part in it."


def intervals_text(results: Results) -> str:
    """Where the intervals come from."""
    several = len(results.seeds) > 1
    seeds = (
        f" Figures are means over {len(results.seeds)} seeds, bounds likewise; ± is the standard deviation over seeds."
    )
    text = f"All intervals are 95 %. {words(results).intervals}"
    return text + (seeds if several else "")


def small_cells_text(results: Results) -> str:
    """The small-cell rule."""
    least = sorted({report.min_cell for report in results.site_reports})
    k = "the hospital’s own minimum" if not least else " or ".join(map(str, least))
    return f"No count of fewer than {k} patients leaves a hospital. {words(results).leaves}"


def tested_where(results: Results) -> str:
    """Whether any hospital was tested that did not train."""
    return run_limits.tested_where(results.study.spec, [site.name for site in results.sites])


def alone_text(results: Results) -> str:
    """Whose models are called local where a hospital trained none; "" where all trained."""
    spec = results.study.spec
    tested = [site.name for site in results.sites if spec.only_evaluates(site.name)]
    if not tested:
        return ""
    return (
        f"{listed(tested, 'and')} did not train: “Local only” is there a mean over the models that the other hospitals "
        "trained alone, each tested on these patients."
    )


def limits(results: Results) -> list[str]:
    """What these numbers cannot say."""
    tested = results.overall.federated.patients
    found = list(results.data_notes)
    if results.planted:
        found.insert(
            0, "The hospitals are made up for a demonstration; the figures say nothing about any real hospital."
        )
    if results.engine != "deployment" or results.planted:
        found.append("Hospitals and hub ran on one system: times hold no hospital network between them.")
    sites = [site.name for site in results.sites]
    return found + run_limits.limits(results.study.spec, sites, patients=tested, seeds=len(results.seeds))
