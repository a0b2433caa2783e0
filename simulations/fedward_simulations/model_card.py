"""The model card: what the model is, what it may be used for, how well it did, and what nobody has yet said about it.

Sections after Mitchell et al. 2019, "Model Cards for Model Reporting" (FAT* 2019, arXiv 1810.03993). Beneath, the items
of CLAIM and TRIPOD+AI by number and topic, in words of ours, answered as far as a run can know; the rest is for the
study team. The checklists' own text is in their papers and is not repeated here.
"""

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from fedward_common.markdown import Markdown, plain, render
from fedward_common.sentences import sentences
from fedward_common.study import TableInput
from fedward_common.study_text_input import missing_words
from fedward_common.study_text_training import hospital_words
from fedward_server.figures.blocks import METRIC_TITLES, MODEL_TITLES
from fedward_simulations import method_wording, subgroup_report, wording
from fedward_simulations.results import Block, Metric, ModelName, Results

TO_FILL_IN = "*for the study team to fill in*"

Answer = Callable[[Results], str]


def render_model_card(results: Results) -> str:
    """model-card.md."""
    return render("fedward_simulations", "model-card.md", _context(results))


def _context(results: Results) -> dict[str, Any]:
    return {
        "results": results,
        "study": results.study,
        "spec": results.study.spec,
        "headline": wording.headline(results),
        "verdict": wording.verdict(results),
        "method": dict(method_wording.method(results)),
        "input": method_wording.input_text(results),
        "example": method_wording.EXAMPLES[results.study.spec.input.kind][0],
        "limits": [*method_wording.limits(results), *subgroup_report.limits(results)],
        "groups": subgroup_report.factors(results),
        "research_use": wording.RESEARCH_USE,
        "score": method_wording.score(results),
        "words": method_wording.words(results),
        "one_threshold": results.study.task == "classification",
        "tested_where": method_wording.tested_where(results),
        "table": Markdown(_table(results)),
        "alone": method_wording.alone_text(results),
        "hospitals": [(report.name, _hospital(results, report.name)) for report in results.site_reports],
        "checklists": [
            (name, citation, [(item, topic, _answer(results, key)) for item, topic, key in items])
            for name, citation, items in _checklists()
        ],
    }


def _table(results: Results) -> str:
    models = wording.shown(results)
    rows = [["Hospital", "Figure", *(MODEL_TITLES[model] for model in models)]]
    rows.append(["---"] * len(rows[0]))
    blocks: list[tuple[str, list[Block | None]]] = [
        (site.name, [site.block(model) for model in models]) for site in results.sites
    ]
    blocks.append(("All hospitals together", [getattr(results.overall, model) for model in models]))
    for name, columns in blocks:
        for metric in wording.metrics_shown(results):
            cells = [_cell(block, metric, results.study.headline) for block in columns]
            rows.append([plain(name), METRIC_TITLES[metric], *cells])
    headline, overall = results.study.headline, blocks[-1][1]
    for label in dict.fromkeys(label for block in overall if block is not None for label in block.labels):
        cells = [_cell(block.labels.get(label) if block else None, headline, headline) for block in overall]
        rows.append([blocks[-1][0], f"{METRIC_TITLES[headline]}: {plain(label)}", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(block: Block | None, metric: Metric, headline: Metric) -> str:
    if block is None:
        return "not trained"
    return "withheld" if block.figure(headline) is None else plain(wording.figure_text(block.figure(metric)))


def _hospital(results: Results, name: str) -> str:
    report = next(report for report in results.site_reports if report.name == name)
    sides = ", ".join(f"{wording.told(many)} {side}" for side, many in report.sides.items())
    kind = wording.SOURCES[results.study.spec.input.kind]
    scanners = ", ".join(report.scanners) or "scanner not named"
    named = f"; {scanners}" if results.study.spec.input.kind == "image" else ""
    images, patients = wording.told(report.images), wording.told(report.patients)
    labels = wording.labels_text(report)
    return f"{images} {kind} of {patients} patients ({sides}){f'; {labels}' if labels else ''}{named}"


def _checklists() -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    text = files("fedward_simulations").joinpath("templates", "checklists.json").read_text(encoding="utf-8")
    return [(entry["name"], entry["citation"], entry["items"]) for entry in json.loads(text)]


def _answer(results: Results, key: str) -> Markdown:
    """The run's answer to a checklist item; an empty key is one that no run can answer."""
    found = ANSWERS[key](results) if key else ""
    return Markdown(plain(found) if found else TO_FILL_IN)


def _named(results: Results) -> str:
    labels = " / ".join(results.study.labels)
    return f"{results.study.title}: federated deep learning, {results.study.task} ({labels})"


def _sources(results: Results) -> str:
    made = ", made up for a demonstration" if results.planted else ""
    return f"{wording.plural(len(results.sites), 'hospital')}: {', '.join(site.name for site in results.sites)}{made}"


def _flow(results: Results) -> str:
    return "Counts left out and quarantined, with reasons, are in report.html" if results.site_reports else ""


def _missing(results: Results) -> str:
    spec = results.study.spec
    learn = "learn too and are not tested" if spec.cohort.unlabelled else "are left out"
    return sentences(
        [
            f"Patients without a label {learn}" if spec.cohort.labels else "",
            missing_words(spec.input) if isinstance(spec.input, TableInput) else "",
            "Files that cannot be read are quarantined; what is left out or quarantined is counted by reason",
        ]
    )


def _heterogeneity(results: Results) -> str:
    done = hospital_words(results.study.spec) or ["No effect of a hospital was modelled"]
    return sentences(["Every figure is given for each hospital and overall", *done])


def _scanners(results: Results) -> str:
    return "; ".join(
        f"{report.name}: {', '.join(report.scanners)}" for report in results.site_reports if report.scanners
    )


def _deidentified(_results: Results) -> str:
    return "Identifiers become keyed hashes inside the hospital; no patient’s data, identifier or score leaves it"


def _size(results: Results) -> str:
    tested = results.overall.federated.patients
    total = sum(site.patients for site in results.sites)
    test = f", {wording.count(tested)} of them tested" if tested is not None else ""
    return f"{wording.plural(total, 'patient')}{test}; no sample size calculation is part of the run"


def _performance(results: Results) -> str:
    models: list[ModelName] = wording.shown(results)
    parts = [f"{MODEL_TITLES[model]} {_overall(results, model)}" for model in models]
    return f"{METRIC_TITLES[results.study.headline]}, all test patients: {'; '.join(parts)}"


def _overall(results: Results, model: ModelName) -> str:
    block: Block = getattr(results.overall, model)
    figure = block.figure(results.study.headline)
    return wording.figure_text(figure) if figure else "withheld"


def _imbalance(results: Results) -> str:
    spec = results.study.spec
    weighted = spec.training.class_weights and spec.study.task == "classification"
    return "Loss weighted by inverse class frequency at each hospital" if weighted else "Nothing was done about it"


def _topic(name: str) -> Answer:
    return lambda results: dict(method_wording.method(results))[name]


ANSWERS: dict[str, Answer] = {
    "named": _named,
    "purpose": lambda results: results.study.purpose,
    "retrospective": lambda _: "Retrospective: data and labels that the hospitals already had",
    "goal": lambda results: f"Model development. {method_wording.tested_where(results)}",
    "sources": _sources,
    "eligible": _topic("Cohort"),
    "missing": _missing,
    "images": method_wording.input_text,
    "scanners": _scanners,
    "deidentified": _deidentified,
    "split": method_wording.split_text,
    "size": _size,
    "model": _topic("Model"),
    "software": lambda results: ", ".join(f"{name} {text}" for name, text in sorted(results.versions.items())),
    "initial": method_wording.initial_text,
    "training": _topic("Training"),
    "selection": method_wording.selection_text,
    "none": lambda _: "None",
    "metrics": lambda results: method_wording.words(results).measures,
    "intervals": method_wording.intervals_text,
    "tested": method_wording.tested_where,
    "heterogeneity": _heterogeneity,
    "flow": _flow,
    "performance": _performance,
    "limits": lambda _: "See “Caveats and recommendations”",
    "use": lambda _: wording.RESEARCH_USE,
    "protocol": lambda results: f"Study file, digest {results.study.digest}",
    "artefacts": lambda results: f"model.safetensors (SHA-256 {results.model_sha256}), results.json, report.html",
    "imbalance": _imbalance,
    "output": method_wording.score_text,
    "operating_point": method_wording.operating_point_text,
    "poor_input": lambda _: "An image that cannot be read is quarantined and not scored",
}
