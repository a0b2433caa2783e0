"""PhysioNet's Gait in Parkinson's Disease (Hausdorff, doi:10.13026/C24H3N): each of its studies is a site."""

import shutil
from collections import defaultdict
from pathlib import Path

from fedward_simulations.studies import Trial, hospital_folder

_WORDS = '[labels]\nwords = { Co = "control", Pt = "parkinson" }\n'


def write(source: Path, hospitals: Path) -> None:
    """The recordings as they are, a hospital for each study: GaPt03_01.txt.xz goes to "ga"."""
    by_study: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((source / "walk01").iterdir()):
        by_study[path.name[:2].lower()].append(path)
    for name, paths in by_study.items():
        folder = hospital_folder(hospitals, name, _WORDS)
        for path in paths:
            shutil.copy(path, folder)


TRIALS = (
    Trial(
        name="parkinson-gait",
        template="parkinson-gait",
        source="gaitpdb_3sites",
        write=write,
        data="PhysioNet gaitpdb, one walk of each subject, studies Ju and Si (doi:10.13026/C24H3N)",
    ),
)
