"""One seed of a study three ways: federated, each hospital alone, and on pooled data, with the same budget and splits.

The federated run may use any engine; the baselines always use the embedded one. All runs go through the same round
engine and the same handlers: a hospital alone is a roster of one, pooled data are one more hospital, beside which the
real ones only evaluate.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from safetensors.numpy import save_file

from fedward_client.site import Site
from fedward_common.errors import RunError, SettingsError, UsageError
from fedward_common.study import Scale, SiteEntry, Strategy, StudySpec, TableInput, Update, Work, resolved
from fedward_server.app import serve
from fedward_server.checkpoints import latest, of_round
from fedward_server.events import RunEvent
from fedward_server.models import keep_start
from fedward_server.result import FILE, RunResult
from fedward_server.runs import new_run_id
from fedward_server.store import Store
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.grid_view import GridView
from fedward_simulations.ray_engine import run_on_ray
from fedward_simulations.sources import POOLED, OpenPooled, OpenSite

log = logging.getLogger(__name__)

RunListener = Callable[[str, RunEvent], None]  # which run ("federated", "local north", …), what happened
Engine = Literal["embedded", "ray", "deployment"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The finished runs of one seed."""

    seed: int
    folder: Path  # of the federated run
    wall_s: float
    federated: RunResult
    local: Mapping[str, RunResult]
    pooled: RunResult | None
    failed: Mapping[str, str]  # baselines that could not be run, and why: by hospital, or `POOLED`


@dataclass(frozen=True, slots=True)
class Deployed:
    """A federated run that a real federation did, and the folder of its checkpoints."""

    result: RunResult
    folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run to do: the study as that run resolves it, and the hospitals it may ask."""

    title: str
    hospital: str  # whose data train: one hospital's, `POOLED`, or "" for the federation
    folder: Path
    study: StudySpec
    hospitals: tuple[str, ...]


def simulate_seed(
    study: StudySpec,
    folders: Mapping[str, Path],
    *,
    out: Path,
    seed: int,
    engine: Engine,
    pooled: bool,
    workers: int,
    resume: bool,
    grid: EmbeddedGrid,
    listener: RunListener,
    log_file: Path,
    weights: Path | None = None,
    deployed: Deployed | None = None,
) -> Comparison:
    """Run `study` with `seed` over the hospitals of `folders` (by name), and its baselines; files go below `out`.

    `weights` are those that a study which names some begins with, the baselines too: see `models.resolve_start`.
    `deployed` is the federated run where a real federation has done it already.
    """
    started = time.perf_counter()
    names = sorted(folders)
    store = out / "store.sqlite"

    def run(job: Job) -> RunResult:
        keep_start(weights, job.folder)
        return _embedded(job, GridView(grid, job.hospitals), store, resume=resume, listener=listener)

    federated = federated_job(study, names, out, seed)
    if deployed is not None:
        result = deployed.result
    elif engine == "ray":
        keep_start(weights, federated.folder)
        result = _ray(federated, folders, store, workers=workers, resume=resume, log_file=log_file, listener=listener)
    else:
        result = run(federated)
    took_part = sorted(result.sites)
    training = {name: result.sites[name].prepared for name in took_part if not study.only_evaluates(name)}
    jobs = [local_job(study, name, took_part, out, seed) for name, site in training.items() if site.learn_from()]
    if pooled:
        trained = [
            sum(site.learn_from(unlabelled=study.takes_unlabelled(number)) > 0 for site in training.values())
            for number in range(1, study.rounds + 1)
        ]
        jobs = [pooled_job(study, took_part, trained, out, seed, scale=result.scale), *jobs]  # the longest first
    local, pooled_result, failed = {}, None, {}
    for job, outcome in zip(jobs, _side_by_side(run, jobs, grid), strict=True):
        if isinstance(outcome, RunError):
            failed[job.hospital] = str(outcome)
        elif job.hospital == POOLED:
            pooled_result = outcome
        else:
            local[job.hospital] = outcome
    return Comparison(
        seed=seed,
        folder=federated.folder if deployed is None else deployed.folder,
        federated=result,
        local=local,
        pooled=pooled_result,
        failed=failed,
        wall_s=time.perf_counter() - started + (0.0 if deployed is None else deployed.result.wall_s),
    )


def _side_by_side(run: Callable[[Job], RunResult], jobs: list[Job], grid: EmbeddedGrid) -> list[RunResult | RunError]:
    """The jobs' results in their order; a job that could not be run gives its error, anything else ends them all."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(_caught, run, job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            grid.close()  # so that the other threads' engines end too, and this one need not wait for their runs
            raise


def _caught(run: Callable[[Job], RunResult], job: Job) -> RunResult | RunError:
    try:
        return run(job)
    except RunError as error:
        return error


def open_hospitals(root: Path, folders: list[Path]) -> dict[str, Path]:
    """Hospitals by their names; two that share a name, a data folder or a state folder are refused."""
    hospitals: dict[str, Path] = {}
    taken: dict[str | Path, str] = {}
    for folder in folders:
        try:
            site = Site.open(folder)
        except SettingsError as error:
            raise SettingsError(f"{folder.name}: {error}") from None
        for thing in (site.name, site.data, site.state.resolve()):
            if thing in taken:
                what = f"the name '{site.name}'" if thing == site.name else "a data or state folder"
                raise UsageError(
                    f"{taken[thing]} and {folder.name} in {root} share {what}: give each its own in its site.toml"
                )
            taken[thing] = folder.name
        hospitals[site.name] = folder
    return hospitals


def openers(study: StudySpec, folders: Mapping[str, Path], *, pooled: bool) -> dict[str, OpenSite | OpenPooled]:
    """What the workers of an `EmbeddedGrid` open. Pooled data are those of the hospitals that train."""
    if POOLED in folders:
        raise UsageError(f"a hospital may not be named '{POOLED}'")
    found: dict[str, OpenSite | OpenPooled] = {name: OpenSite(folder) for name, folder in folders.items()}
    if pooled:
        found[POOLED] = OpenPooled(tuple(folders[name] for name in sorted(folders) if not study.only_evaluates(name)))
    return found


# The three kinds of run ----------------------------------------------------------------------------------------------


def federated_job(study: StudySpec, names: list[str], out: Path, seed: int) -> Job:
    """Every hospital takes part; a roster in the study says in which role."""
    if not study.sites and len(names) < study.strategy.min_sites:
        raise UsageError(
            f"{len(names)} hospital folders were found, the study asks for at least {study.strategy.min_sites}: "
            "add hospitals, or lower [strategy] min_sites"
        )
    roster = study.sites or tuple(SiteEntry(name=name) for name in names)
    if absent := sorted({site.name for site in roster} - set(names)):
        raise UsageError(f"the study's roster names {', '.join(absent)}, whose folder is not there or cannot be used")
    return Job(
        title="federated",
        hospital="",
        folder=out / f"seed-{seed}" / "federated",
        study=resolved(study, sites=roster, seed=seed),
        hospitals=tuple(site.name for site in roster),
    )


def local_job(study: StudySpec, name: str, names: list[str], out: Path, seed: int) -> Job:
    """One hospital alone, for as many rounds: plain training, cut into the same pieces.

    Hospitals of `names` that only evaluate score this model too.
    """
    others = [other for other in names if study.only_evaluates(other)]
    roster = (SiteEntry(name=name), *(SiteEntry(name=other, role="evaluate") for other in others))
    return Job(
        title=f"local {name}",
        hospital=name,
        folder=out / f"seed-{seed}" / f"local-{name}",
        study=resolved(_alone(_plain(study)), sites=roster, seed=seed),
        hospitals=(name, *others),
    )


def pooled_job(
    study: StudySpec, names: list[str], trained: Sequence[int], out: Path, seed: int, *, scale: Scale | None = None
) -> Job:
    """Training patients of the hospitals in one place; as many batches as they saw together.

    `trained` says how many hospitals train in each round. On the `scale` that the hospitals of the federated run
    measured: pooled, the same sums give the same one.
    """
    roster = (SiteEntry(name=POOLED), *(SiteEntry(name=name, role="evaluate") for name in names))
    plain = _plain(study.model_copy(update={"input": study.input.on_scale(scale)}))
    phases = tuple(
        phase.model_copy(update=_batches(phase, study, layer, trained)) for layer, phase in enumerate(plain.phases)
    )
    training = plain.training.model_copy(update=_batches(plain.training, study, None, trained))
    plain = plain.model_copy(update={"training": training, "phases": phases})
    return Job(
        title="pooled data",
        hospital=POOLED,
        folder=out / f"seed-{seed}" / "pooled",
        study=resolved(plain, sites=roster, seed=seed),
        hospitals=(POOLED, *names),
    )


def _batches(work: Work, study: StudySpec, layer: int | None, trained: Sequence[int]) -> dict[str, int | None]:
    """A round's batches at all hospitals together, the mean over the rounds of a phase, or of [training] (None)."""
    hospitals = fmean(many for number, many in enumerate(trained, start=1) if study.layer(number) == layer)
    return {"local_steps": None if work.local_steps is None else round(work.local_steps * hospitals)}


def _alone(study: StudySpec) -> StudySpec:
    """The study as one hospital can do it: there is no other whose devices ComBat could compare with its own."""
    if not isinstance(study.input, TableInput) or not study.input.combat:
        return study
    section = study.input.model_copy(update={"combat": (), "covariates": (), "scale": None})
    return study.model_copy(update={"input": section})


def _plain(study: StudySpec) -> StudySpec:
    """The study as plain training. Who only scores it has no BatchNorm layers of its own, so these come along."""
    strategy = Strategy(name="fedavg", min_sites=1, round_deadline_s=study.strategy.round_deadline_s)
    policy = "share" if study.training.batch_norm == "local" else study.training.batch_norm
    training = study.training.model_copy(update={"batch_norm": policy})
    return study.model_copy(update={"strategy": strategy, "training": training, "update": Update()})


# Running one ---------------------------------------------------------------------------------------------------------


def _run_config(job: Job, store: Path, engine: Engine, *, resume: bool) -> dict[str, bool | float | int | str]:
    """The run config of server and client app; the study's file is written here."""
    job.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = latest(job.folder, study_digest=job.study.digest) if resume else None
    study_file = job.folder / "study.json"
    study_file.write_bytes(job.study.canonical_json())
    return {
        "study": str(study_file.absolute()),
        "folder": str(job.folder.absolute()),
        "store": str(store.absolute()),
        "run": checkpoint.run if checkpoint is not None else new_run_id(job.study),
        "engine": engine,
        "resume": resume,
        "threads": 1,
    }


def _finished(job: Job, store: Path) -> RunResult | None:
    """The result of a run that ended before, for `--resume`."""
    if not (job.folder / FILE).exists():
        return None
    result = RunResult.read(job.folder)
    if result.study.digest != job.study.digest:
        raise UsageError(f"{job.folder} holds a run of another study: choose another --out")
    with Store.open(store) as opened:  # in case the run was killed between its last file and this line
        opened.finish_run(result.run, "finished", result.model_sha256)
    return result


def _embedded(job: Job, grid: GridView, store: Path, *, resume: bool, listener: RunListener) -> RunResult:
    if resume and (result := _finished(job, store)):
        return result
    config = _run_config(job, store, "embedded", resume=resume)
    return serve(grid, config, lambda event: listener(job.title, event))


def _ray(
    job: Job,
    folders: Mapping[str, Path],
    store: Path,
    *,
    workers: int,
    resume: bool,
    log_file: Path,
    listener: RunListener,
) -> RunResult:
    def waiting() -> None:
        done = latest_round(job)
        listener(job.title, RunEvent(kind="aggregated", run=job.title, round=done, rounds=job.study.rounds))

    if resume and (result := _finished(job, store)):
        return result
    parents = {folder.parent for folder in folders.values()}
    if len(parents) != 1:
        raise RunError("the Ray engine needs all hospitals' folders in one folder")
    config = {**_run_config(job, store, "ray", resume=resume), "sites": str(parents.pop().absolute())}
    return run_on_ray(config, sites=len(folders), workers=workers, log_file=log_file, on_wait=waiting)


def latest_round(job: Job) -> int:
    """The last round whose checkpoint is on disk; 0 before the first."""
    return max((int(path.stem.removeprefix("round-")) for path in job.folder.glob("round-*.json")), default=0)


def save_model(result: RunResult, folder: Path, path: Path, *, limits: Sequence[str]) -> None:
    """Write a finished run's model as safetensors, with what it is and its card's `limits` in the file's header."""
    checkpoint = of_round(folder, result.kept_round, study_digest=result.study.digest)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(dict(checkpoint.arrays), temporary, metadata=result.trained(limits).header)
    temporary.chmod(0o644)
    temporary.replace(path)
