"""A whole simulation: scan the hospitals, run every seed three ways, write results, report, model and card."""

import fcntl
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedward_client.catalog import scan
from fedward_client.site import Site
from fedward_common.errors import UsageError
from fedward_common.study import StudySpec
from fedward_simulations.compare import Comparison, Engine, openers, save_model, simulate_seed
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.progress import Bars
from fedward_simulations.report import write_report
from fedward_simulations.results import Results, StudyInfo, combine
from fedward_simulations.site_reports import site_report
from fedward_simulations.summary import summarize

LOCK = ".lock"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


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

    def __call__(self, bars: Bars) -> Results:
        """Run it; results.json, report.html, model.safetensors and model-card.md stand in `out` when it returns."""
        started = time.perf_counter()
        if self.study.ended(datetime.now(UTC).date()):
            raise UsageError(f"the study ended on {self.study.study.ends}; a later [study] ends makes it another study")
        logs = self.out / "logs"
        with claimed(self.out), log_to(logs / "fedward.log"):
            for _, folder in sorted(self.folders.items()):
                scan(Site.open(folder), bars.on_site)
            hospitals = openers(self.study, self.folders, pooled=self.pooled)
            with EmbeddedGrid(
                hospitals, workers=self.workers, listener=bars.on_site, log_file=logs / "workers.log"
            ) as grid:
                comparisons = [self._compare(seed, grid, bars, logs) for seed in self.seeds]
            return self._write(comparisons, started)

    def _compare(self, seed: int, grid: EmbeddedGrid, bars: Bars, logs: Path) -> Comparison:
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
            data_notes=[*self.data_notes, *(f"Not in the run: {reason}." for reason in first.left_out)],
            site_reports=[site_report(Site.open(folder), first) for _, folder in sorted(self.folders.items())],
        )
        save_model(first, comparisons[0].folder, self.out / "model.safetensors")
        write_report(results, self.out)
        results.write(self.out / "results.json")  # last: where it stands, everything else does
        return results


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


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send the log records of Fedward's packages to a file, and Flower's warnings; nothing to the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    loggers = [logging.getLogger(name) for name in ("fedward_common", "fedward_client", "fedward_server")]
    loggers += [logging.getLogger("fedward_simulations"), logging.getLogger("flwr")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.handlers = [handler]
        logger.setLevel(logging.WARNING if logger.name == "flwr" else logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
            logger.handlers = handlers
            logger.setLevel(level)
            logger.propagate = propagate
        handler.close()
