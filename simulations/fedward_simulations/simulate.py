"""A whole simulation: scan the hospitals, run every seed three ways, write results, report, model and card."""

import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fedward_client.catalog import scan
from fedward_client.site import Site
from fedward_common.errors import DataError, SettingsError, UsageError
from fedward_common.logs import fedward_to, to_file
from fedward_common.study import FeatureScale, StudySpec
from fedward_server.result import RunResult
from fedward_simulations.compare import Comparison, Deployed, Engine, openers, save_model, simulate_seed
from fedward_simulations.federation import Federation, federation
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.method_wording import limits
from fedward_simulations.progress import Bars
from fedward_simulations.report import write_report
from fedward_simulations.results import Results, StudyInfo, combine
from fedward_simulations.site_effect import of_run
from fedward_simulations.site_reports import site_report
from fedward_simulations.summary import summarize

LOCK = ".lock"
UNISOLATED = (
    "NOT ISOLATED: this machine lets nobody make user namespaces, so the demo's hospitals run without walls between "
    "their two sides; `fedward doctor --site` says what to do"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """What to simulate, and where its files go."""

    study: StudySpec
    folders: Mapping[str, Path]  # hospitals by name
    out: Path
    seeds: Sequence[int]
    engine: Engine = "embedded"
    pooled: bool = True
    workers: int = 2
    resume: bool = False
    planted: bool = False
    data_notes: Sequence[str] = ()
    weights: Path | None = None  # that a study which names some begins with

    def __call__(self, bars: Bars) -> Results:
        """Run it; results.json, report.html, model.safetensors and model-card.md stand in `out` when it returns."""
        started = time.perf_counter()
        if self.study.ended(datetime.now(UTC).date()):
            raise UsageError(f"the study ended on {self.study.study.ends}; a later [study] ends makes it another study")
        logs = self.out / "logs"
        with claimed(self.out), self._logging_to(logs):
            self._check_room()
            ready = self._scanned(bars)
            deployed = ready._deployed(bars, logs) if self.engine == "deployment" else {}
            hospitals = openers(ready.study, ready.folders, pooled=ready.pooled)
            with EmbeddedGrid(
                hospitals, workers=self.workers, listener=bars.on_site, log_file=logs / "workers.log"
            ) as grid:
                comparisons = [ready._compare(seed, grid, bars, logs, deployed.get(seed)) for seed in self.seeds]
            return ready._write(comparisons, started)

    @contextmanager
    def _logging_to(self, logs: Path) -> Iterator[None]:
        """Into a file, and nothing to the terminal."""
        logs.mkdir(parents=True, exist_ok=True)
        with fedward_to(to_file(logs / "fedward.log", hidden=[path.resolve() for path in self.folders.values()])):
            yield

    def _check_room(self) -> None:
        """Refuse to mix runs: what stands in `out` may only be gone on with, and only by the same seeds."""
        there = {int(path.name.removeprefix("seed-")) for path in self.out.glob("seed-*")}
        if there and not self.resume:
            raise UsageError(f"{self.out} holds a run: give --resume to go on with it, or another --out")
        if there - set(self.seeds):
            seeds = ", ".join(map(str, sorted(there)))
            raise UsageError(f"{self.out} holds a run with seeds {seeds}: resume it with these, or give another --out")

    def _scanned(self, bars: Bars) -> "Simulation":
        """The simulation with the hospitals of its roster that can be scanned; the others' reasons become notes."""
        roster = {site.name for site in self.study.sites} or self.folders.keys()
        usable, notes = {}, list(self.data_notes)
        for name, folder in sorted(self.folders.items()):
            if name not in roster:
                continue
            try:
                scan(Site.open(folder), bars.on_site)
                usable[name] = folder
            except (DataError, SettingsError) as error:
                bars.say(f"{name} is left out: {error}")
                notes.append(f"Not in the run: {name}: {error}.")
        return replace(self, folders=usable, data_notes=notes)

    def _deployed(self, bars: Bars, logs: Path) -> dict[int, Deployed]:
        """The federated runs, by seed, done by a hub and a daemon for each hospital on this machine."""
        with federation(self.out / "hub", self.folders, logs=logs, step=bars.step) as running:
            if not running.isolated:
                bars.say(UNISOLATED)
            with running.watching(bars.on_site):
                return {seed: self._deploy(running, seed, bars) for seed in self.seeds}

    def _deploy(self, running: Federation, seed: int, bars: Bars) -> Deployed:
        rules = self.study.evaluation.model_copy(
            update={"local_baseline": False}
        )  # the baselines are runs of their own
        study = self.study.model_copy(update={"evaluation": rules})
        result = running.run(study, lambda event: bars.on_run("federated", event), seed=seed, resume=self.resume)
        return Deployed(result, running.hub.runs / result.run)

    def _compare(self, seed: int, grid: EmbeddedGrid, bars: Bars, logs: Path, deployed: Deployed | None) -> Comparison:
        return simulate_seed(
            self.study,
            self.folders,
            out=self.out,
            seed=seed,
            engine=self.engine,
            pooled=self.pooled,
            workers=self.workers,
            resume=self.resume,
            grid=grid,
            listener=bars.on_run,
            log_file=logs / "ray.log",
            weights=self.weights,
            deployed=deployed,
        )

    def _write(self, comparisons: Sequence[Comparison], started: float) -> Results:
        first = comparisons[0].federated
        results = combine(
            [summarize(one, workers=self.workers) for one in comparisons],
            study=StudyInfo.of(first.study),
            engine=self.engine,
            created=datetime.now(UTC),
            wall_s=time.perf_counter() - started,
            planted=self.planted,
            data_notes=[*self.data_notes, *_notes([one.federated for one in comparisons])],
            site_reports=[site_report(Site.open(folder), first) for _, folder in sorted(self.folders.items())],
            site_effect=of_run(self.folders, first) if self.pooled else None,
        )
        save_model(first, comparisons[0].folder, self.out / "model.safetensors", limits=limits(results))
        write_report(results, self.out)
        results.write(self.out / "results.json")  # last: where it stands, everything else does
        return results


def _notes(runs: Sequence[RunResult]) -> Iterator[str]:
    """Of the runs of all seeds, whose first one's model is kept."""
    run, *others = runs
    yield from run.notes(others)
    if isinstance(run.scale, FeatureScale):
        freed = ", freed of what each hospital adds (ComBat)" * (run.scale.combat is not None)
        yield f"The model takes features by mean and deviation over all hospitals{freed}: run.json has the numbers."
    elif run.scale is not None:
        numbers = ", ".join(f"{number:g}" for number in run.scale)
        yield f"The model takes grey values on the scale that the hospitals measured: landmarks = [{numbers}]."


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Make the folder `out` and hold it: raises UsageError where that cannot be, or another command works in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("w")
    except OSError as error:
        raise UsageError(f"{out} cannot be written to ({error.strerror}): choose another --out") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another command is at work in {out}: wait for it, or choose another --out") from None
        yield
