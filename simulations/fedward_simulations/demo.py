"""The README's main job: three phantom hospitals, one study, one report.

The images are real (BUSI breast ultrasound); the hospitals, their scanners and everybody's names are planted.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from fedward_client.site import site_folders
from fedward_common.errors import UsageError
from fedward_common.study import find, load
from fedward_simulations.compare import open_hospitals
from fedward_simulations.hospitals import plant
from fedward_simulations.progress import Bars
from fedward_simulations.results import Results
from fedward_simulations.simulate import LOCK, Simulation, claimed

STUDY = "breast-ultrasound"
MARK = ".fedward-demo"
FIRST_SEED = 42

PLANTED = (
    "The images are those of the public BUSI set (Al-Dhabyani et al. 2020), from one hospital, at 128 x 128 pixels; "
    "the three hospitals, their scanners, patients and label tables are planted."
)
NEAR_DUPLICATES = (
    "BUSI has no patient ids. Images that are near-duplicates of one another got one planted patient, so that no copy "
    "of a training image is tested on; other images of one real patient may still be on both sides of the split, "
    "which makes every figure look better than it would be."
)
BURNED_IN = "Callipers and text are burned into many images; a network can learn from them what a radiologist marked."


def demo(out: Path, *, seeds: int, workers: int, resume: bool, bars: Bars) -> Results:
    """Plant the hospitals and run the study with `seeds` seeds; `out` then holds it all, instead of an earlier demo."""
    _clear(out, resume=resume)
    hospitals = out / "hospitals"
    if not hospitals.exists():
        _plant(hospitals, bars)
    return Simulation(
        study=load(find(STUDY)),
        folders=open_hospitals(hospitals, site_folders(hospitals)),
        out=out,
        engine="deployment",
        seeds=demo_seeds(seeds),
        workers=workers,
        resume=resume,
        planted=True,
        data_notes=(PLANTED, NEAR_DUPLICATES, BURNED_IN),
    )(bars)


def _plant(hospitals: Path, bars: Bars) -> None:
    """Write the phantom hospitals under another name first, so that an interrupted demo leaves none half-written."""
    unfinished = hospitals.with_name(".hospitals")
    shutil.rmtree(unfinished, ignore_errors=True)
    plant(unfinished, progress=lambda done, total: bars.step("phantom hospitals", done, total))
    unfinished.replace(hospitals)


def demo_seeds(count: int) -> Sequence[int]:
    """The first `count` seeds."""
    return range(FIRST_SEED, FIRST_SEED + count)


def _clear(out: Path, *, resume: bool) -> None:
    """Make room, but never where something else than a demo stands, nor where one runs."""
    if out.is_dir() and any(path.name != LOCK for path in out.iterdir()) and not (out / MARK).exists():
        raise UsageError(f"{out} holds something that is no demo of Fedward: choose another --out")
    with claimed(out):
        if not resume:
            for path in out.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()
        (out / MARK).touch()
