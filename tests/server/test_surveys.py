"""Statistics at the hub: asked of sites on a grid in memory, pooled, kept, shown; and the scale that a run measures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Error, Message

from fedward_common.cohort_statistics import Statistics, pooled
from fedward_common.errors import CheckpointError, RunError
from fedward_common.feature_statistics import feature_cells
from fedward_common.records import answer_record, read_answer, read_question
from fedward_common.study import FeatureScale, SiteEntry, StudySpec
from fedward_common.testing import Answerer, FakeGrid, FakeSite, tiny_study
from fedward_server import scale, surveys
from fedward_server.app import serve_survey
from fedward_server.events import RunEvent
from fedward_server.exchange import Node
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine
from fedward_server.store import Store
from fedward_server.survey_tables import bars, show_statistics
from fedward_server.surveys import Survey, SurveyResult, survey

MEASURING = tiny_study(input={"intensity": "landmarks"})
DECILES = tuple(n / 10 for n in range(1, 10))


def refuses(reason: str) -> Answerer:
    return lambda message: Message(Error(code=1000, reason=reason), reply_to=message)


def study(*names: str) -> StudySpec:
    return tiny_study().model_copy(update={"sites": tuple(SiteEntry(name=name) for name in names)})


def asked(sites: dict[int, Answerer], spec: StudySpec, wait_s: float = 0.0) -> tuple[SurveyResult, list[RunEvent]]:
    events: list[RunEvent] = []
    names = {1: "north", 2: "valley"}
    result = survey(
        FakeGrid(sites),
        spec,
        "run-1",
        "catalog",
        events.append,
        connected=lambda: {names[node]: Node(node) for node in sites},
        wait_s=wait_s,
    )
    return result, events


# Statistics ----------------------------------------------------------------------------------------------------------


def test_what_sites_send_is_added_up_and_who_sends_nothing_is_told_with_the_reason() -> None:
    reason = "north's policy does not let 'statistics' leave ([policy] outputs in site.toml)"
    sites: dict[int, Answerer] = {1: refuses(reason), 2: FakeSite(name="valley", patients=30)}
    result, events = asked(sites, study("north", "valley", "west"))
    assert set(result.sites) == {"valley"}
    assert result.left_out == (f"north: {reason}", "west: is not connected to the hub")
    assert result.pooled.patients == 30
    assert result.pooled.tables["label"].cells == {"benign": 15, "malignant": 15, "(missing)": 0}
    told = [(event.kind, event.site) for event in events]
    assert {("surveyed", "valley"), ("unsurveyed", "north"), ("unsurveyed", "west")} <= set(told)
    assert told[-1] == ("finished", "")


def test_a_site_that_waits_for_approval_is_asked_again() -> None:
    left, honest = 1, FakeSite(name="north")

    def unapproved(message: Message) -> Message | None:
        nonlocal left
        left -= 1
        return refuses("waits for approval by its steward")(message) if left >= 0 else honest(message)

    result, events = asked({1: unapproved}, study("north"), wait_s=30.0)
    assert set(result.sites) == {"north"}
    assert [event.note for event in events if event.kind == "waiting"] == ["waits for approval by its steward"]


def test_nothing_from_anybody_ends_the_run_and_says_why() -> None:
    with pytest.raises(RunError, match="no site sent statistics: north: too few"):
        asked({1: refuses("too few")}, study("north"))


def changed(site: FakeSite, /, **values: object) -> Answerer:
    """A site that lies about some of its answer."""

    def answer(message: Message) -> Message | None:
        reply = site(message)
        assert reply is not None
        said = read_answer(reply.content, Statistics)
        return Message(answer_record(said.model_copy(update=values)), reply_to=message)

    return answer


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"site": "valley"}, "its node answered as valley"),
        ({"patients": 2}, "do not add up"),
        ({"wanted": "pixels"}, "sent other statistics than it was asked for"),
        ({"fedward": "99.0.0"}, "install the same major version"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(values: dict[str, object], reason: str) -> None:
    sites: dict[int, Answerer] = {1: changed(FakeSite(name="north"), **values), 2: FakeSite(name="valley")}
    result, _ = asked(sites, study("north", "valley"))
    assert set(result.sites) == {"valley"}
    assert reason in result.left_out[0]


def test_a_survey_is_a_run_of_the_store_and_stands_in_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, spec = tmp_path / "run", study("north", "valley")
    folder.mkdir()
    (folder / "study.json").write_bytes(spec.canonical_json())
    Survey(wanted="catalog").write(folder / surveys.ASKED)
    config = {"study": str(folder / "study.json"), "folder": str(folder), "run": "run-1", "engine": "embedded"}
    grid = FakeGrid({1: FakeSite(name="north", patients=9), 2: FakeSite(name="valley")})
    found = serve_survey(grid, {**config, "store": str(tmp_path / "store.sqlite")}, lambda _event: None)
    assert SurveyResult.read(folder) == found
    assert json.loads((folder / surveys.FILE).read_text())["pooled"]["patients"] == 49
    with Store.open(tmp_path / "store.sqlite") as store:
        assert store.run("run-1").status == "finished"
    show_statistics(found)
    shown = capsys.readouterr().out
    assert "kept home" in shown  # north has 9 patients: 5 and 4
    assert "20 or more" in shown


def test_features_are_shown_as_bars_and_as_the_ranges_of_quantiles(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hospitals whose devices differ: a reader sees it at once, and how many lack a value."""
    ages = {"north": [40.0] * 9 + [50.0] * 11, "valley": [0.0] * 9 + [60.0] * 21 + [float("nan")] * 2}
    result, _ = asked({1: FakeSite(name="north", patients=20), 2: FakeSite(name="valley", patients=32)}, study(*ages))
    sites = {
        name: said.model_copy(update={"feature_tables": {"age": feature_cells(ages[name], min_cell=5)}})
        for name, said in result.sites.items()
    }
    found = result.model_copy(update={"sites": sites, "pooled": pooled(sites.values())})
    monkeypatch.setenv("COLUMNS", "140")
    show_statistics(found)
    lines = [line for line in capsys.readouterr().out.splitlines() if "age" in line]
    assert ["█" in line for line in lines[-3:]] == [True, True, False]
    assert "kept home" in lines[-2]
    assert "0 or less" in lines[-2]
    assert "below 41.5" in lines[-3]
    assert "49.35 or more" in lines[-3]
    assert "0 or more" in lines[-1]
    assert bars(feature_cells([1] * 5 + [2] * 10, min_cell=1), 1, 2 ** (17 / 16)) == "▄          █"
    assert bars(feature_cells([1] * 3, min_cell=5), 0, 1).strip() == "", "what is kept home is not drawn"


# The scale of a run --------------------------------------------------------------------------------------------------


def engine(sites: dict[int, Answerer], folder: Path, spec: StudySpec = MEASURING) -> Callable[..., RunResult]:
    folder.mkdir(exist_ok=True)
    return RoundEngine(
        grid=FakeGrid(sites),
        study=spec,
        run="run-1",
        engine="embedded",
        folder=folder,
        on_round=lambda _row: None,
        listener=lambda _event: None,
    )


def noting(site: FakeSite, questions: list[tuple[str, object]]) -> Answerer:
    """A site that notes what it was asked, and on which scale."""

    def answer(message: Message) -> Message | None:
        question, _ = read_question(message.content)
        questions.append((question.kind, question.scale))
        return site(message)

    return answer


def test_a_scale_that_is_not_given_is_measured_first_and_goes_with_every_question(tmp_path: Path) -> None:
    questions: list[tuple[str, object]] = []
    result = engine({1: noting(FakeSite(name="north"), questions), 2: FakeSite(name="valley")}, tmp_path)()
    assert questions[0] == ("stats", None)
    assert questions[1] == ("prepare", DECILES)
    assert {landmarks for _, landmarks in questions[1:]} == {DECILES}
    assert {kind for kind, _ in questions} == {"stats", "prepare", "train", "evaluate"}
    assert result.scale == DECILES
    assert json.loads((tmp_path / scale.FILE).read_text())["patients"] == {"north": 40, "valley": 40}
    assert RunResult.read(tmp_path) == result


def test_a_study_with_its_scale_measures_none(tmp_path: Path) -> None:
    questions: list[tuple[str, object]] = []
    given = tiny_study(input={"intensity": "landmarks", "landmarks": list(DECILES)})
    result = engine({1: noting(FakeSite(name="north"), questions)}, tmp_path, given)()
    assert {landmarks for _, landmarks in questions} == {None}
    assert "stats" not in {kind for kind, _ in questions}
    assert result.scale is None


def test_a_resumed_run_keeps_its_scale_whoever_could_measure_it_now(tmp_path: Path) -> None:
    site = FakeSite(name="north")

    def dies(message: Message) -> Message | None:
        question, numbers = read_question(message.content)
        if question.kind == "train" and numbers["server-round"] == 2:
            raise KeyboardInterrupt
        return site(message)

    undisturbed = engine({1: site}, tmp_path / "whole")()
    with pytest.raises(KeyboardInterrupt):
        engine({1: dies}, tmp_path / "broken")()
    questions: list[tuple[str, object]] = []
    resumed = engine({1: noting(site, questions)}, tmp_path / "broken")(resume=True)
    assert "stats" not in {kind for kind, _ in questions}
    assert (resumed.scale, resumed.model_sha256) == (undisturbed.scale, undisturbed.model_sha256)
    (tmp_path / "broken" / scale.FILE).unlink()
    with pytest.raises(CheckpointError, match=r"scale\.json is gone"):
        engine({1: site}, tmp_path / "broken")(resume=True)
    (tmp_path / "broken" / scale.FILE).write_text("{}")
    with pytest.raises(CheckpointError, match=r"scale\.json is damaged"):
        engine({1: site}, tmp_path / "broken")(resume=True)


def measures_not(site: FakeSite, reason: str) -> Answerer:
    return lambda m: refuses(reason)(m) if read_question(m.content)[0].kind == "stats" else site(m)


def test_a_site_that_measures_nothing_takes_part_all_the_same(tmp_path: Path) -> None:
    sites: dict[int, Answerer] = {1: FakeSite(name="north"), 2: measures_not(FakeSite(name="valley"), "too few")}
    result = engine(sites, tmp_path)()
    assert set(result.sites) == {"north", "valley"}
    assert json.loads((tmp_path / scale.FILE).read_text())["patients"] == {"north": 40}


def test_a_run_whose_scale_nobody_measures_ends_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no site measured the scale \(too few\): let a policy name 'stat"):
        engine({1: measures_not(FakeSite(name="north"), "too few")}, tmp_path)()


def test_a_site_that_only_evaluates_has_no_part_in_the_scale(tmp_path: Path) -> None:
    roster = (SiteEntry(name="trains"), SiteEntry(name="watches", role="evaluate"))
    sites: dict[int, Answerer] = {1: FakeSite(name="trains"), 2: FakeSite(name="watches")}
    engine(sites, tmp_path, MEASURING.model_copy(update={"sites": roster}))()
    assert json.loads((tmp_path / scale.FILE).read_text())["patients"] == {"trains": 40}


# The scale of tables -------------------------------------------------------------------------------------------------

TABLE = {"kind": "table", "features": ["age", "volume", "thickness"]}
COMPARING = {**TABLE, "combat": ["volume", "thickness"], "covariates": ["age"]}


def of_tables(**section: object) -> StudySpec:
    return tiny_study(input=section, model={"name": "mlp"})


def test_a_study_of_tables_has_its_sites_measure_its_features(tmp_path: Path) -> None:
    questions: list[tuple[str, object]] = []
    sites: dict[int, Answerer] = {1: noting(FakeSite(name="north"), questions), 2: FakeSite(name="valley")}
    result = engine(sites, tmp_path, of_tables(**TABLE))()
    assert isinstance(result.scale, FeatureScale)
    assert result.scale.combat is None
    assert questions[0] == ("stats", None)
    assert all(scale == result.scale for _, scale in questions[1:])
    assert RunResult.read(tmp_path) == result
    resumed = engine(sites, tmp_path, of_tables(**TABLE))(resume=True)
    assert resumed.scale == result.scale


def test_where_devices_are_compared_every_site_is_measured(tmp_path: Path) -> None:
    roster = (SiteEntry(name="north"), SiteEntry(name="valley"), SiteEntry(name="watches", role="evaluate"))
    sites: dict[int, Answerer] = {index: FakeSite(name=each.name) for index, each in enumerate(roster, 1)}
    result = engine(sites, tmp_path, of_tables(**COMPARING).model_copy(update={"sites": roster}))()
    assert isinstance(result.scale, FeatureScale)
    assert result.scale.combat is not None
    assert set(result.scale.combat.sites) == {"north", "valley", "watches"}


def test_one_site_has_no_device_to_compare_its_own_with(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="ComBat compares sites and needs at least two"):
        engine({1: FakeSite(name="north")}, tmp_path, of_tables(**COMPARING))()
    nobody: dict[int, Answerer] = {1: measures_not(FakeSite(name="north"), "too few")}
    with pytest.raises(RunError, match=r"no site measured the scale .* or give \[input\] scale of an earlier run"):
        engine(nobody, tmp_path, of_tables(**TABLE))()
