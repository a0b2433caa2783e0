"""A hub's registered models, with which studies may begin, and the weights that a study names, found and checked.

    models/NAME.safetensors   the arrays; of a run's model also what is needed to use it elsewhere (`models.trained`)
    models/NAME.json          what they are (`Registered`); written last, removed first: without it there is no model

A name is never given anew while it is taken. What is registered is checked against its SHA-256 whenever it is used.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors.numpy import save_file

from fedward_common.disk import sync
from fedward_common.errors import ModelError, UsageError
from fedward_common.models import begin, bound, trained, weights_file
from fedward_common.study import Slug, StudySpec
from fedward_common.study_faults import near
from fedward_server.checkpoints import final_places, latest
from fedward_server.hub import Hub
from fedward_server.locks import turn
from fedward_server.result import RunResult

FOLDER, LOCK = "models", ".lock"

State = dict[str, npt.NDArray[Any]]


class Registered(BaseModel):
    """What is known of a registered model. Where it came as a file, only `name`, `sha256`, `added` and `note` are."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1  # of this layout
    name: Slug
    sha256: str  # `records.model_sha256`, as a study's [model] start has it
    added: str  # UTC, ISO 8601
    network: str | None = None
    study: str | None = None
    study_digest: str | None = None
    run: str | None = None
    sites: tuple[str, ...] = ()  # that took part in the run
    note: str = ""


class Registry:
    """The registered models of one hub. `by` is the person who acts, None at the hub's own terminal."""

    def __init__(self, hub: Hub, *, by: str | None = None) -> None:
        self._hub = hub
        self._by = by
        self._folder = hub.folder / FOLDER

    def entries(self) -> list[Registered]:
        """Every model, in the order of the names."""
        return [self._read(path) for path in sorted(self._folder.glob("*.json"))]

    def find(self, name: str) -> tuple[Registered, Path]:
        """One model, and the file of its arrays. Raises UsageError for a name that none has."""
        path = self._file(name, "json")
        if not path.exists():
            names = [each.stem for each in sorted(self._folder.glob("*.json"))]
            raise UsageError(
                f"no model '{name}' is registered at hub {self._hub.name}{near(name, names)}; "
                f"registered are: {', '.join(names) or 'none yet'}"
            )
        return self._read(path), self._file(name, "safetensors")

    def checked(self, name: str) -> tuple[Registered, Path]:
        """One model, and the file of its arrays, which are those that were registered: else ModelError."""
        entry, path = self.find(name)
        try:
            intact = weights_file.sha256(weights_file.read(path)) == entry.sha256
        except ModelError:
            intact = False
        if not intact:
            raise changed(name)
        return entry, path

    def add_file(self, name: str, path: Path, *, note: str = "") -> Registered:
        """Register the arrays of a safetensors file. Raises UsageError for a name that is taken or is none."""
        about = None
        with suppress(ModelError):  # of a network that is not installed here; its arrays serve all the same
            about = trained.about(path)
        return self._add(name, weights_file.read(path), {"note": note}, about)

    def add_run(self, name: str, run: str, *, note: str = "") -> Registered:
        """Register the model of a run of this hub that has finished.

        Raises RunError for a run that is not known, UsageError as `add_file` does and for a run that has not finished.
        """
        with self._hub.store() as store:
            row = store.run(run)
        if row.status != "finished":
            raise UsageError(f"run {run} has not finished ({row.status}): only a finished run has a model to register")
        last = [latest(place, study_digest=row.study_digest) for place in final_places(self._hub.runs / run)]
        held = [each for each in last if each and weights_file.sha256(dict(each.arrays)) == row.model_sha256]
        if not held:
            raise ModelError(f"no checkpoint of run {run} is its final model: restore its folder from a backup")
        checkpoint = held[0]
        result = RunResult.read(self._hub.runs / run)
        known = {
            "network": row.study_json["model"]["name"],
            "study": row.study_id,
            "study_digest": row.study_digest,
            "run": run,
            "sites": tuple(sorted(result.sites)),
            "note": note,
        }
        return self._add(name, dict(checkpoint.arrays), known, result.trained())

    def remove(self, name: str) -> Registered:
        """Forget a model; what it was. Runs keep the weights with which they began. Raises UsageError as `find`."""
        with self._turn():
            entry, arrays = self.find(name)
            self._hub.audit().append("model removed", {"model": name, "sha256": entry.sha256, "by": self._by})
            self._file(name, "json").unlink()
            arrays.unlink(missing_ok=True)
        return entry

    def _add(self, name: str, arrays: State, known: dict[str, Any], about: trained.Trained | None) -> Registered:
        try:
            TypeAdapter(Slug).validate_python(name)
        except ValidationError:
            raise UsageError(
                f"'{name}' is no name of a model: 1 to 63 lower-case letters, digits and hyphens, the first no hyphen"
            ) from None
        added = datetime.now(UTC).isoformat(timespec="seconds")
        entry = Registered(name=name, sha256=weights_file.sha256(arrays), added=added, **known)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with self._turn():
            if self._file(name, "json").exists():
                raise UsageError(
                    f"the name '{name}' is taken (SHA-256 {self.find(name)[0].sha256[:16]}…): choose another, or "
                    f"remove that model first, with `fedward model remove {name}`"
                )
            with _written(self._file(name, "safetensors")) as temporary:
                whole = {each: np.asarray(array, order="C") for each, array in arrays.items()}
                save_file(whole, temporary, metadata=about.header if about else None)
            self._hub.audit().append("model registered", {"model": name, "sha256": entry.sha256, "by": self._by})
            with _written(self._file(name, "json")) as temporary:
                temporary.write_text(entry.model_dump_json(indent=1), encoding="utf-8")
        return entry

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with turn(self._folder / LOCK):
            yield

    def _file(self, name: str, kind: str) -> Path:
        return self._folder / f"{name}.{kind}"

    def _read(self, path: Path) -> Registered:
        try:
            return Registered.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            raise ModelError(f"{path} cannot be read: restore it from a backup, or remove it") from None


def listed(folder: Path) -> list[dict[str, Any]]:
    """The registered models of a hub's folder as rows, for `fedward model list --hub`."""
    return [entry.model_dump(exclude={"version"}) for entry in Registry(Hub.open(folder)).entries()]


def file_of(folder: Path, name: str) -> Path:
    """The file of a registered model of a hub's folder, for `fedward model predict` and `export`.

    Raises UsageError for a name that none has, ModelError where its arrays are not those that were registered.
    """
    return Registry(Hub.open(folder)).checked(name)[1]


def changed(name: str) -> ModelError:
    """What is told where the arrays of a model are not those that were registered."""
    return ModelError(f"the registered model {name} was changed: remove it, and add it again")


# What a study begins with --------------------------------------------------------------------------------------------


class Started(NamedTuple):
    """A study whose digest covers its first weights, the file that holds them, and what is taken of them, in words."""

    study: StudySpec
    weights: Path | None = None
    told: str = ""


def resolve_start(study: StudySpec, *, base: Path, registry: Registry | None) -> Started:
    """Find the weights that a study begins with, try whether they fit its network, and fill in their SHA-256.

    `base` is the study file's folder. Raises ModelError where they do not fit, are others than the study says, or a
    pattern of the study matches nothing, and UsageError where no registered model has that name.
    """
    start = study.model.start
    if start is None:
        if study.model.frozen or study.model.learning_rates:
            begin(study, None)
        return Started(study)
    if start.file is not None:
        spec, taken = bound(study, base / start.file)
        return Started(spec, base / start.file, f"Weights of {start.file}: {taken}")
    assert start.model is not None
    if registry is None:
        raise UsageError(f"the study begins with the registered model '{start.model}': say at which hub, with --hub")
    entry, path = registry.find(start.model)
    spec, taken = bound(study, path)
    if spec.model.start is None or spec.model.start.sha256 != entry.sha256:
        raise changed(start.model)
    return Started(spec, path, f"Weights of the registered model {start.model}: {taken}")


def keep_start(weights: Path | None, folder: Path) -> None:
    """Copy the weights that a run begins with into its folder, where the engine looks for them, also when resumed."""
    if weights is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _written(folder / weights_file.NAME) as temporary, weights.open("rb") as source, temporary.open("wb") as copy:
        shutil.copyfileobj(source, copy)


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A temporary file to be filled, which then has `path`'s name: whole or not there, whatever happens."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(temporary)
        sync(Path(temporary))
        Path(temporary).replace(path)
        sync(path.parent)
    finally:
        Path(temporary).unlink(missing_ok=True)
