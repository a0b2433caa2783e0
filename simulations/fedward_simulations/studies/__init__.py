"""Fedward's own studies: `make studies DATA=folder` writes docs/results.json, results.md and limits.md.

They are on public real data, and on synthetic patients where none is at hand. A `Trial` is a template on one
collection: which folder of the data it needs, how that becomes hospitals, and what it changes in the template. Nothing
of the data is in the repository; the page says where each collection comes from.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedward_client.site import KEY, STATE
from fedward_common.study import StudySpec, load, template_path

SEEDS = range(42, 45)
ALEXNET: Mapping[str, Any] = {  # as trials train it: with fewer hidden units than in 2012, for they have few patients
    "model": {"name": "alexnet", "options": {"width": 512}},
    "training": {"optimizer": {"lr": 1e-4}},
}

_SETTINGS = '[policy]\noutputs = ["counts", "statistics", "update", "evaluation"]\n[privacy]\nmin_cell = 1\n'


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A template on some data. `write(source, hospitals)` makes the folders of the hospitals."""

    name: str  # of its row of the page, and of its folder
    template: str
    source: str  # the folder of the data that it needs
    write: Callable[[Path, Path], None]
    data: str  # what the data are, and where they come from
    caveat: str = ""  # what a reader must know of the figures
    published: str = "-"  # what the field has published of its like, on other data
    seeds: range = SEEDS
    pooled: bool = True  # whether a model of pooled data is trained too
    shown: Literal["real", "synthetic"] | None = "real"  # in which table of the page; None: others begin with its model
    windows: bool = False  # whether figures by window stand on the page, beside those of other detectors
    accuracies: bool = False  # whether the page also compares accuracies, with those of classical learners
    changes: Mapping[str, Any] = field(
        default_factory=dict
    )  # of the template, by section and key; another kind of input takes the place of the template's, as phases do

    def study(self) -> StudySpec:
        """The template as this trial runs it."""
        spec = load(template_path(self.template)).model_dump(mode="json")
        for section, changes in self.changes.items():
            whole = section == "phases" or "kind" in changes
            spec[section] = changes if whole else spec[section] | changes
        return StudySpec.model_validate_json(json.dumps(spec))


def hospital_folder(hospitals: Path, name: str, settings: str = "") -> Path:
    """A new hospital's folder, with its settings and a key that hangs on its name, so that every run splits alike.

    These patients are public: the key protects nothing, and no count of few is kept home.
    """
    folder = hospitals / name
    state = folder / STATE
    state.mkdir(parents=True, mode=0o700)
    (state / KEY).write_bytes(hashlib.sha256(f"key of the public hospital {name}".encode()).digest())
    (state / KEY).chmod(0o600)
    (folder / "site.toml").write_text(settings + _SETTINGS)
    return folder
