"""The pages of models and their API: registering, cards, lineages, files; what a steward finds of other hospitals."""

import json
import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from fedward_common import cli, models
from fedward_common.audit import entries
from fedward_common.models import trained, weights_file
from fedward_common.records import Arrays, model_sha256
from fedward_common.study import StudySpec
from fedward_common.testing import FakeSite, tiny_study
from fedward_server import lineage, model_access
from fedward_server.models import Registry, keep_start
from fedward_server.people import Role
from fedward_server.result import RunResult
from fedward_server.store import RunRow
from fedward_server.testing import Ground, Person

STUDY = tiny_study()
TWO = {"north": 60, "south": 90}
FOUR = {**TWO, "east": 120, "valley": 75}


def finished(ground: Ground, run: str, patients: Mapping[str, int], *absent: str, study: StudySpec = STUDY) -> str:
    """A run of so many patients at each site; its model, another in each run. `absent` sites were asked too."""
    shift = sum(run.encode()) / 1e5

    def learned(arrays: Arrays) -> Arrays:
        return {name: array + np.asarray(shift, array.dtype) for name, array in arrays.items()}

    sites = [FakeSite(name=name, patients=many, quality=0.8, update=learned) for name, many in patients.items()]
    return ground.finished(run, *sites, study=study, absent=absent).model_sha256


def begins(sha256: str, **start: Any) -> StudySpec:
    """A study, resolved, that begins with weights."""
    return tiny_study(model={"start": {"sha256": sha256, "head": True, **start}})


def goes_on(ground: Ground, run: str, patients: Mapping[str, int], name: str) -> str:
    """A run that begins with a registered model."""
    entry, path = registry(ground).find(name)
    keep_start(path, ground.hub.runs / run)
    return finished(ground, run, patients, study=begins(entry.sha256, model=name))


def registry(ground: Ground) -> Registry:
    return Registry(ground.hub)


def told(ground: Ground, event: str) -> list[dict[str, Any]]:
    """What the audit log says of an event."""
    return [dict(entry.data) for entry in entries(ground.hub.audit_file) if entry.event == event]


def text_of(page: str) -> str:
    """What of a page is read, spaces made one."""
    main = page.partition("<main")[2].partition("</main>")[0]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", main)).split())


# Registering and removing ---------------------------------------------------------------------------------------------


def test_an_operator_registers_the_model_of_a_run_and_removes_it(ground: Ground, ada: Person) -> None:
    assert "No run has finished yet." in ada.sees("/models")
    sha256 = finished(ground, "run-1", TWO)
    ground.started("run-2", "north")
    page = ada.sees("/models")
    assert re.findall(r'<option value="([^"]*)"', page) == ["run-1"]
    status, _ = ada.sends("/models/add", run="run-1", name="pilot", note="of the pilot")
    assert status == 303
    done = [{"model": "pilot", "sha256": sha256, "by": "ada"}]
    assert told(ground, "model registered") == done
    page = text_of(ada.sees("/models"))
    assert (
        f"pilot small-cnn tiny run-1 {registry(ground).find('pilot')[0].added[:10]} of the pilot {sha256[:12]}…" in page
    )
    status, page = ada.sends("/models/pilot/remove", typed="pilat")
    assert status == 409
    assert "To forget pilot here, type its name." in page
    assert "pilot is registered no more." in ada.sends("/models/pilot/remove", typed="pilot")[1]
    assert registry(ground).entries() == []
    assert ada.browser.get("/models/pilot").status_code == 404
    assert told(ground, "model removed") == done


def test_what_cannot_be_registered_is_said_and_nothing_that_was_typed_is_lost(ground: Ground, ada: Person) -> None:
    finished(ground, "run-1", TWO)
    ground.started("run-2", "north")
    ada.sends("/models/add", run="run-1", name="pilot", note="")
    for run, name, words in (
        ("run-1", "pilot", "the name 'pilot' is taken"),
        ("run-1", "Pilot", "'Pilot' is no name of a model"),
        ("run-1", "../pilot", "'../pilot' is no name of a model"),
        ("run-2", "other", "run run-2 has not finished (running)"),
        ("run-9", "other", "run run-9 is not known here"),
    ):
        status, page = ada.sends("/models/add", run=run, name=name, note="kept <b>")
        assert status == 409
        assert words in unescape(page)
        assert 'value="kept &lt;b&gt;"' in page
        assert str(ground.folder) not in page
    assert [entry.name for entry in registry(ground).entries()] == ["pilot"]
    assert len(told(ground, "model registered")) == 1


@pytest.mark.parametrize("role", ["investigator", "steward", "auditor"])
def test_each_role_does_what_it_may(ground: Ground, role: Role) -> None:
    finished(ground, "run-1", TWO)
    registry(ground).add_run("pilot", "run-1")
    eve = ground.person("eve", role, "north" if role == "steward" else None)
    adds, takes = role == "investigator", role in {"investigator", "steward"}
    page = eve.sees("/models/pilot")
    assert ('action="/models/add"' in eve.sees("/models")) == adds
    assert ('href="/models/pilot/file"' in page) == takes
    assert "/remove" not in page
    assert eve.browser.get("/models/pilot/card").status_code == 200
    assert eve.browser.get("/models/pilot/file").status_code == (200 if takes else 403)
    assert eve.sends("/models/add", run="run-1", name="second", note="")[0] == (303 if adds else 403)
    assert eve.sends("/models/pilot/remove", typed="pilot")[0] == 403
    added = {"name": "third", "run": "run-1"}
    assert eve.calls("POST", "/models", json=added).status_code == (201 if adds else 403)
    assert eve.calls("DELETE", "/models/pilot").status_code == 403
    assert eve.calls("GET", "/models/pilot/file").status_code == (200 if takes else 403)
    assert eve.calls("GET", "/models/pilot/card").status_code == 200
    assert {entry.name for entry in registry(ground).entries()} == ({"pilot", "second", "third"} if adds else {"pilot"})


# Cards ----------------------------------------------------------------------------------------------------------------


def test_a_card_says_what_the_hub_knows(ground: Ground, ada: Person) -> None:
    ground.enrolled("east")
    study = tiny_study(study={"title": "Breast lesions", "purpose": "To tell them apart.", "contact": "pi@example.org"})
    sha256 = finished(ground, "run-1", TWO, "east", study=study)
    entry = registry(ground).add_run("pilot", "run-1", note="1. of <b>the</b> *pilot* | x")
    page = ada.sees("/models/pilot")
    assert 'href="/runs/run-1/results"' in page
    text = text_of(page)
    digest = entry.study_digest
    threshold = RunResult.read(ground.hub.runs / "run-1").thresholds["malignant"]
    for words in (
        "1. of <b>the</b> *pilot* | x",
        "For research use only. Not a medical device",
        "Breast lesions tiny",
        "To tell them apart.",
        f"Digest of the study {digest}",
        "Task classification: benign, malignant",
        "2; the model is that of round 2",
        "Hospitals that took part 2: north, south",
        f"SHA-256 {sha256}",
        "On 150 test patients of all hospitals together, with 95 % intervals.",
        "Label ROC-AUC Sensitivity Specificity Precision Operating point malignant 0.8",
        f"{threshold:.3f}",
        "Not in the run: east: is not connected to the hub.",
        "The figures rest on 150 test patients in all",
        "Network small-cnn",
        "Differential privacy off",
        "run run-1 (finished)",
    ):
        assert words in text, words
    arrays = load_file(registry(ground).find("pilot")[1])
    assert f"{sum(array.size for array in arrays.values()):,} parameters".replace(",", " ") in text
    answer = ada.browser.get("/models/pilot/card")
    card = answer.text
    assert answer.headers["content-type"].startswith("text/markdown")
    assert answer.headers["content-disposition"] == 'attachment; filename="pilot-card.md"'
    assert card.startswith("# Model card: pilot\n\n> **For research use only.")
    assert "1\\. of &lt;b&gt;the&lt;/b&gt; \\*pilot\\* \\| x\n" in card
    for words in (
        f"- SHA-256: `{sha256}`\n",
        "2 hospitals: north, south.\n",
        "| malignant | 0.8",
        f"- malignant: {threshold:.3f}\n",
        "- Contact: pi@example.org\n",
        "- Not in the run: east: is not connected to the hub.\n",
        f"- pilot, SHA-256 {sha256[:16]}…, made by run run-1, this model\n",
    ):
        assert words in card, words
    assert "\n\n\n" not in card
    assert fedward("model", "card", "pilot", "--hub", ground.hub.folder).stdout == card
    found = json.loads(fedward("model", "card", "pilot", "--hub", ground.hub.folder, "--json").stdout)
    assert found == ada.calls("GET", "/models/pilot").json()
    assert (found["card"]["sha256"], found["card"]["patients"]) == (sha256, 150)


def fedward(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_a_model_that_came_as_a_file_has_the_card_that_its_file_holds(ground: Ground, ada: Person) -> None:
    arrays = models.initial_state(tiny_study(), 3)
    file = ground.folder / "old.safetensors"
    save_file(arrays, file)
    registry(ground).add_file("bare", file)
    about = trained.Trained(
        study=tiny_study(study={"title": "Elsewhere"}),
        thresholds={"malignant": 0.25},
        model_sha256=model_sha256(arrays),
        limits=("One seed.",),
    )
    save_file(arrays, file, metadata=about.header)
    registry(ground).add_file("known", file)
    bare, known = text_of(ada.sees("/models/bare")), text_of(ada.sees("/models/known"))
    for text in (bare, known):
        assert "There are no figures: it came as a file, not from a run of this hub." in text
        assert "came as a file" in text
    assert "Elsewhere" not in bare
    assert "not known, " in bare
    assert "Elsewhere" in known
    assert "One seed." in known
    assert "\nNone: it came as a file, not from a run of this hub.\n" in ada.browser.get("/models/bare/card").text
    assert "Not known: no run of this hub made it." in ada.browser.get("/models/bare/card").text
    assert "- malignant: 0.250\n" in ada.browser.get("/models/known/card").text


def test_a_model_whose_run_is_gone_still_has_a_card(ground: Ground, ada: Person) -> None:
    finished(ground, "run-1", TWO)
    registry(ground).add_run("pilot", "run-1")
    (ground.hub.runs / "run-1" / "run.json").unlink()
    text = text_of(ada.sees("/models/pilot"))
    assert "There are no figures: the figures of its run cannot be read" in text
    assert "Not in the run" not in text
    assert "One seed:" in text  # from its file


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_model_is_downloaded_as_it_was_registered(ground: Ground, ada: Person) -> None:
    sha256 = finished(ground, "run-1", TWO)
    registry(ground).add_run("pilot", "run-1")
    for answer in (ada.browser.get("/models/pilot/file"), ada.calls("GET", "/models/pilot/file")):
        assert answer.status_code == 200
        assert answer.content == registry(ground).find("pilot")[1].read_bytes()
        assert answer.headers["content-disposition"] == 'attachment; filename="pilot.safetensors"'
        assert answer.headers["content-length"] == str(len(answer.content))
    assert told(ground, "model downloaded") == 2 * [{"model": "pilot", "sha256": sha256, "by": "ada"}]


@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_a_file_that_was_changed_is_not_given(ground: Ground, ada: Person, harm: str) -> None:
    finished(ground, "run-1", TWO)
    registry(ground).add_run("pilot", "run-1")
    path = registry(ground).find("pilot")[1]
    if harm == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.unlink()
    answer = ada.browser.get("/models/pilot/file")
    assert answer.status_code == 409
    assert "the registered model pilot was changed: remove it, and add it again" in unescape(answer.text)
    answer = ada.calls("GET", "/models/pilot/file")
    assert (answer.status_code, list(answer.json())) == (409, ["error"])
    assert str(ground.folder) not in answer.text
    assert told(ground, "model downloaded") == []
    page = ada.sees("/models/pilot")
    assert str(ground.folder) not in page
    assert "is registered no more" in ada.sends("/models/pilot/remove", typed="pilot")[1]


def test_an_entry_that_cannot_be_read_is_told(ground: Ground, ada: Person) -> None:
    finished(ground, "run-1", TWO)
    registry(ground).add_run("pilot", "run-1")
    (ground.hub.folder / "models" / "pilot.json").write_text("{}")
    page = ada.sees("/models")
    assert "models/pilot.json cannot be read" in page
    assert str(ground.folder) not in page
    answer = ada.browser.get("/models/pilot")
    assert answer.status_code == 500
    assert "models/pilot.json cannot be read" in answer.text
    assert ada.calls("GET", "/models").status_code == 409


def test_the_form_stands_on_the_run_that_was_asked_for(
    ground: Ground, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_access, "RUNS", 1)
    for run in ("run-1", "run-2"):
        finished(ground, run, TWO)
    ground.started("run-3", "north")

    def form(page: str) -> list[tuple[str, str, str]]:
        return re.findall(r'<option value="([^"]*)"( selected)?>([^<]*?)(?: \(|<)', page)

    assert form(ada.sees("/models?run=run-1")) == [("run-2", "", "run-2"), ("run-1", " selected", "run-1")]
    for run in ("run-3", "nonsense"):
        told = ("", " selected", f"{run} has no model here: choose a run")
        assert form(ada.sees(f"/models?run={run}")) == [told, ("run-2", "", "run-2")]
    assert form(ada.sees("/models")) == [("run-2", "", "run-2")]
    _, page = ada.sends("/models/add", run="run-1", name="-", note="")
    assert form(page)[1] == ("run-1", " selected", "run-1")


# Stewards -------------------------------------------------------------------------------------------------------------


def everything(person: Person, name: str) -> str:
    """All that a person can get of a model, and of the list."""
    answers = [person.browser.get(path) for path in ("/models", f"/models/{name}", f"/models/{name}/card")]
    answers += [person.calls("GET", path) for path in ("/models", f"/models/{name}", f"/models/{name}/card")]
    assert {answer.status_code for answer in answers} == {200}
    return "\n".join(answer.text for answer in answers)


def test_a_steward_finds_nothing_of_other_hospitals_models(ground: Ground) -> None:
    finished(ground, "run-1", TWO)
    mine = finished(ground, "run-2", {"north": 60}, "south")
    theirs = finished(ground, "run-3", {"south": 90}, "north")  # north was asked, and took no part
    registry(ground).add_run("of-south", "run-3", note="secret")
    registry(ground).add_run("of-north", "run-2")
    sten = ground.person("sten", "steward", "north")
    page = sten.sees("/models")
    assert re.findall(r'href="/models/([\w-]+)"', page) == ["of-north"]
    assert [each["name"] for each in sten.calls("GET", "/models").json()] == ["of-north"]
    for path in ("/models/of-south", "/models/of-south/card", "/models/of-south/file", "/models/no-such-model"):
        answer = sten.browser.get(path)
        assert answer.status_code == 404, path
        assert theirs[:12] not in answer.text
        assert sten.calls("GET", path).json() == {"error": f"there is no model '{path.split('/')[2]}' that you may see"}
    assert mine[:12] in sten.sees("/models/of-north")
    assert told(ground, "model downloaded") == []


def test_a_steward_finds_nothing_of_the_one_other_hospital(ground: Ground, ada: Person) -> None:
    ground.enrolled("east")
    sha256 = finished(ground, "run-1", TWO, "east")
    registry(ground).add_run("pilot", "run-1", note="a model of north and south")
    sten = ground.person("sten", "steward", "north")
    text = everything(sten, "pilot")
    assert "2, north among them" in text_of(sten.sees("/models/pilot"))
    assert "a model of north and another hospital" in text
    assert "not shown to a steward" in text
    for other in ("south", "east", "150", "90"):
        assert not re.search(rf"(?<![\w.]){other}(?![\w.])", re.sub(r"[0-9a-f]{12,}", "", text)), other
    assert {"south", "east", "150"} <= set(re.findall(r"\w+", everything(ada, "pilot")))
    answer = sten.browser.get("/models/pilot/file")
    assert answer.headers["content-length"] == str(len(answer.content))
    taken = ground.folder / "taken.safetensors"
    taken.write_bytes(answer.content)
    assert model_sha256(weights_file.read(taken)) == sha256
    about, original = trained.about(taken), trained.about(registry(ground).find("pilot")[1])
    assert about is not None
    assert original is not None
    assert about.model_copy(update={"limits": original.limits}) == original  # the study is what he approved
    assert not any(word in sentence for sentence in about.limits for word in ("south", "east", "150"))
    assert any("150" in sentence for sentence in original.limits)


def test_a_steward_sees_figures_of_several_others_together(ground: Ground) -> None:
    ground.enrolled("east")
    ground.enrolled("valley")
    finished(ground, "run-1", FOUR)
    registry(ground).add_run("pilot", "run-1")
    sten = ground.person("sten", "steward", "north")
    text = text_of(sten.sees("/models/pilot"))
    assert "On test patients of all hospitals together" in text  # not of how many: another run's would tell one's
    assert "345" not in everything(sten, "pilot")
    assert "4, north among them Fedward" in text
    assert not re.search(r"\b(south|east|valley)\b", everything(sten, "pilot"))
    assert "4 hospitals, north among them." in sten.browser.get("/models/pilot/card").text


# Lineages -------------------------------------------------------------------------------------------------------------


def family(ground: Ground) -> dict[str, str]:
    """A file, a run that began with it, runs that began with that one's model, and so on; models by what made them."""
    save_file(models.initial_state(STUDY, 1), ground.folder / "old.safetensors")
    made = {"file": registry(ground).add_file("root", ground.folder / "old.safetensors").sha256}
    made["run-1"] = goes_on(ground, "run-1", TWO, "root")
    registry(ground).add_run("first", "run-1")
    made["run-2"] = goes_on(ground, "run-2", TWO, "first")
    registry(ground).add_run("second", "run-2")
    made["run-3"] = goes_on(ground, "run-3", {"south": 90}, "second")
    ground.started("run-4", "north", "south", study=begins(made["run-2"], model="second"))
    ground.store.finish_run("run-4", "failed", None, "too few")
    registry(ground).add_run("third", "run-3")
    made["run-5"] = goes_on(ground, "run-5", TWO, "third")
    registry(ground).remove("third")
    registry(ground).add_run("fifth", "run-5")
    return made


def tree(weights: dict[str, Any]) -> Any:
    """A lineage, as names or runs with what began with them."""
    said = ",".join(weights["names"]) or f"({weights['run'] or weights['called']})"
    return (f"{said}!" if weights["this"] else said, *(tree(heir) for heir in weights["heirs"]))


def test_a_lineage_is_told_up_to_its_root_and_down_to_what_began_with_it(ground: Ground, ada: Person) -> None:
    made = family(ground)

    def of(name: str) -> Any:
        return tree(ada.calls("GET", f"/models/{name}").json()["lineage"])

    below = ("(run-3)", ("fifth",)), ("(run-4)",)
    assert of("second") == ("root", ("first", ("second!", *below)))
    assert of("root") == ("root!", ("first", ("second", *below)))
    assert of("fifth") == ("root", ("first", ("second", ("(run-3)", ("fifth!",)))))
    text = text_of(ada.sees("/models/second"))
    chain = (
        f"root {made['file'][:12]}… came as a file first {made['run-1'][:12]}… run run-1 (finished) "
        f"second this model {made['run-2'][:12]}… run run-2 (finished) "
        f"Weights that are not registered {made['run-3'][:12]}… run run-3 (finished) "
        f"fifth {made['run-5'][:12]}… run run-5 (finished) "
        "No model run run-4 (failed)"
    )
    assert chain in text
    registry(ground).remove("first")
    registry(ground).remove("root")
    text = text_of(ada.sees("/models/second"))
    assert f"The model root, which is not registered here {made['file'][:12]}…" in text
    assert f"The model first, which is not registered here {made['run-1'][:12]}… run run-1" in text
    assert "the model root, which is not registered here, SHA-256" in ada.browser.get("/models/second/card").text


def test_a_steward_sees_of_a_lineage_what_is_his(ground: Ground) -> None:
    made = family(ground)
    sten = ground.person("sten", "steward", "north")
    assert tree(sten.calls("GET", "/models/second").json()["lineage"]) == (
        "(root)",  # as the study says that he approved
        ("first", ("second!", ("(run-4)",))),
    )
    page = sten.sees("/models/second")
    assert "run-3" not in page
    assert made["run-3"][:12] not in page
    assert 'href="/models/root"' not in page


def test_weights_that_a_run_did_not_change_make_no_circle(ground: Ground, ada: Person) -> None:
    sha256 = finished(ground, "run-1", TWO)
    registry(ground).add_run("pilot", "run-1")
    ground.started("run-2", "north", study=begins(sha256, model="pilot"))
    ground.store.finish_run("run-2", "finished", sha256)
    found = tree(ada.calls("GET", "/models/pilot").json()["lineage"])
    assert found == ("pilot!", ("pilot",))
    assert "run run-2" in text_of(ada.sees("/models/pilot"))


def test_a_long_lineage_is_cut_and_says_so(ground: Ground, ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "GENERATIONS", 2)
    family(ground)
    found = ada.calls("GET", "/models/fifth").json()["lineage"]
    assert (tree(found), found["before"]) == (("second", ("(run-3)", ("fifth!",))), True)
    assert "It goes further back than is shown here." in ada.sees("/models/fifth")
    found = ada.calls("GET", "/models/first").json()["lineage"]
    assert tree(found) == ("root", ("first!", ("second", ("(run-3)",), ("(run-4)",))))
    assert found["heirs"][0]["heirs"][0]["heirs"][0]["after"] is True
    assert "More began with it" in ada.sees("/models/first")


def test_a_model_of_a_run_that_the_hub_forgot(ground: Ground, ada: Person) -> None:
    finished(ground, "run-1", TWO)
    registry(ground).add_run("pilot", "run-1")
    forgets(ground, "run-1")
    assert "run run-1 (of which this hub has no record)" in text_of(ada.sees("/models/pilot"))


def forgets(ground: Ground, run: str) -> None:
    """A database that was restored from before a run."""
    row: RunRow = ground.store.run(run)
    with ground.store.writing() as connection:
        for table in ("run_sites", "runs"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE run = ?", (row.run,))


# Programs and languages -----------------------------------------------------------------------------------------------


def test_programs_register_and_remove(ground: Ground, ada: Person) -> None:
    sha256 = finished(ground, "run-1", TWO)
    answer = ada.calls("POST", "/models", json={"name": "pilot", "run": "run-1", "note": "x"})
    assert answer.status_code == 201
    assert answer.json().items() >= {"name": "pilot", "run": "run-1", "note": "x", "sha256": sha256}.items()
    assert answer.json()["sites"] == ["north", "south"]
    assert ada.calls("GET", "/models").json() == [answer.json()]
    again = ada.calls("POST", "/models", json={"name": "pilot", "run": "run-1"})
    assert again.status_code == 409
    assert "the name 'pilot' is taken" in again.json()["error"]
    assert ada.calls("POST", "/models", json={"name": "pilot"}).status_code == 422
    assert ada.calls("DELETE", "/models/pilot").status_code == 204
    assert ada.calls("DELETE", "/models/pilot").status_code == 404
    assert ada.calls("GET", "/models").json() == []


def test_in_chinese(ground: Ground, ada: Person) -> None:
    finished(ground, "run-1", TWO)
    registry(ground).add_run("pilot", "run-1")
    for path, words in (("/models", "登记一次运行的模型"), ("/models/pilot", "它从何而来")):
        answer = ada.browser.get(path, headers={"accept-language": "zh"})
        assert words in answer.text
        assert "Register" not in answer.text


def test_another_header_leaves_the_arrays_as_they_are(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"a": np.arange(7, dtype=np.float32), "b": np.ones((2, 3), np.int64)}
    save_file(arrays, tmp_path / "one", metadata={"x": "y"})
    for header in ({}, {"x": "ü" * 1000}, {"x": "yy"}):
        size, parts = weights_file.with_header(tmp_path / "one", header)
        (tmp_path / "two").write_bytes(b"".join(parts))
        assert (tmp_path / "two").stat().st_size == size
        assert weights_file.header(tmp_path / "two") == header
        assert model_sha256(weights_file.read(tmp_path / "two")) == model_sha256(arrays)
        assert int.from_bytes((tmp_path / "two").read_bytes()[:8], "little") % 8 == 0
    assert weights_file.parameters(tmp_path / "one") == 7
