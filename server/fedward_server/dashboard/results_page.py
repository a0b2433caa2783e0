"""Results: what a finished run found, for a clinician to read, and its pictures as files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedward_server.dashboard.frame import Frame
from fedward_server.dashboard.texts import texts
from fedward_server.figures.at_hub import FORMS, HubFigures
from fedward_server.figures.blocks import Block, Figure
from fedward_server.figures.pictures import MEAN, main_figures, operating_points, pictures
from fedward_server.figures.run_figures import EVERYBODY, RunFigures
from fedward_server.figures.tables import Cell, Table
from fedward_server.people import Session

WIDE = ("gains", "dice", "subgroups")  # pictures that fill the page; others do where they have several panels
MANY = 6  # hospitals whose matrix fills it
DIGITS = {"threshold": 3, "patients": 0}  # of numbers that have another number of them than two


class Shown(NamedTuple):
    """A table as text: its columns' names, and rows of which the first cell is a heading."""

    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, slots=True)
class ResultsPage:
    """The page of a run's results."""

    frame: Frame

    def routes(self) -> list[Route]:
        """Its pages, and its pictures."""
        return [
            Route("/runs/{run}/results", self.frame.page(self.results)),
            Route("/runs/{run}/figures/{name}.{form}", self.frame.page(self.figure)),
        ]

    def results(self, request: Request, session: Session) -> Response:
        """What a run found."""
        row = self.frame.run(session.person, request.path_params["run"])
        run = None if row is None else HubFigures(self.frame.hub).of(session.person, row)
        if row is None or run is None:
            return self.frame.told(request, session, "not_found" if row is None else "results_none_yet", 404)
        words = Words(texts(self.frame.language(request)), run)
        shown = pictures(run)
        values: dict[str, Any] = {
            "run": run,
            "row": row,
            "says": words.headline(),
            "unseen": words.unseen(),
            "gains_say": words.gains(),
            "main": words.table(main_figures(run)),
            "remarks": words.remarks(),
            "points": words.table(operating_points(run)),
            "pictures": [
                (picture.name, words.key(picture.name), words.table(picture.table), words.is_wide(picture.name))
                for picture in shown
            ],
            "forms": tuple(FORMS),
        }
        return self.frame.render(request, session, "results.html", **values)

    def figure(self, request: Request, session: Session) -> Response:
        """A picture, or its numbers."""
        asked, figures = request.path_params, HubFigures(self.frame.hub)
        row = self.frame.run(session.person, asked["run"])
        file = None if row is None else figures.file(session.person, row, asked["name"], asked["form"])
        if row is None or file is None:
            return self.frame.told(request, session, "not_found", 404)
        name = f"{row.run}-{asked['name']}.{asked['form']}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(file, media_type=FORMS[asked["form"]], headers=headers)


@dataclass(frozen=True, slots=True)
class Words:
    """Figures in a language's words."""

    t: Mapping[str, str]
    run: RunFigures

    def headline(self) -> str:
        """The result in one sentence."""
        for who in self.run.who:
            block = self.run.of(who)
            figure = None if block is None else block.figure(self.run.metric)
            if block is not None and figure is not None:
                said = self.t["result_all" if who == EVERYBODY else "result_own"]
                values = {"value": f"{figure.value:.2f}", "low": f"{figure.low:.2f}", "high": f"{figure.high:.2f}"}
                return said.format(measure=self._measure(block), site=who, **values)
        return self.t["result_none"]

    def unseen(self) -> str:
        """What the words are called that say whether a model has learned from the patients whom it is tested on."""
        study = self.run.study
        if study.split.folds is not None:
            return "results_unseen_by_fold"
        return "results_unseen" if study.model.start is None else "results_perhaps_seen"

    def _measure(self, block: Block) -> str:
        """What the figure of a block is, and of which labels: some may stay at their hospitals."""
        measure, asked = self.t[f"col_{self.run.metric}"], self.run.study.asked_labels
        if len(asked) < 2:
            return measure
        shown = [label for label, own in block.labels.items() if own.figure(self.run.metric) is not None]
        if len(shown) == 1:
            return self.t["results_of_label"].format(measure=measure, label=shown[0])
        said = self.t["results_mean_of" if len(shown) == len(asked) else "results_mean_of_some"]
        return said.format(measure=measure, shown=len(shown), labels=len(asked))

    def gains(self) -> list[str]:
        """Who gains, in sentences; none where no hospital is known both ways."""
        found = self.run.gains
        if "local" not in self.run.models:
            return [self.t["gains_unknown"]]
        if not found.hospitals:
            return []
        if self.run.scope.site is not None:
            return [
                self.t["gain_yes" if found.better else "gain_no"],
                self.t["gain_overlap" if found.overlapping else "gain_apart"],
            ]
        told = self.t["gains_overlap" if found.overlapping else "gains_apart"]
        return [self.t["gains_better"].format(**found._asdict()), told.format(**found._asdict())]

    def remarks(self) -> list[tuple[str, str]]:
        """Why figures are missing: of whom, and the reason that is recorded."""
        return [
            (self._word("hospital", who), block.withheld)
            for who in self.run.who
            if (block := self.run.of(who)) is not None and block.withheld
        ]

    def key(self, name: str) -> str:
        """What the words of a picture are called; where nobody trained alone, nobody gains."""
        return "hospitals" if name == "gains" and "local" not in self.run.models else name.replace("-", "_")

    def is_wide(self, name: str) -> bool:
        """Whether a picture fills the page."""
        panels = name in {"roc", "precision-recall", "calibration", "froc"} and len(self.run.study.asked_labels) > 1
        return name in WIDE or panels or (name == "across" and len(self.run.sites) > MANY)

    def table(self, table: Table) -> Shown:
        """A table; a label that is the only one need not be said."""
        left_out = {"label"} if len(self.run.study.asked_labels) < 2 else set()
        kept = [column for column in table.columns if column not in left_out]
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        return Shown(
            [self.t[f"col_{column}"] for column in kept],
            [[self._cell(column, row) for column in kept] for row in rows],
        )

    def _cell(self, column: str, row: Mapping[str, Cell]) -> str:
        cell = row[column]
        if cell is None:
            return "–"
        if isinstance(cell, Figure):
            return cell.text
        if isinstance(cell, float):
            return f"{cell:.{DIGITS.get(column, 2)}f}"
        return self._stage(row["round"]) if column == "stage" else self._word(column, str(cell))

    def _word(self, column: str, word: str) -> str:
        match column, word:
            case "hospital", _ if word == EVERYBODY:
                return self.t["results_everybody"]
            case "label", _ if word == MEAN:
                return self.t["mean_over_labels"]
            case (("by" | "group"), _):
                return self.t.get(f"{column}_{word}", word)
        return word

    def _stage(self, number: Cell) -> str:
        assert isinstance(number, int)
        study = self.run.study
        layer, fold = study.layer(number), study.fold(number)
        if layer is not None:
            return self.t["stage_layer"].format(layer=layer + 1)
        return self.t["stage_all"] if fold is None else self.t["stage_fold"].format(fold=fold + 1, of=study.split.folds)
