"""`make hub-demo`: what `fedward hub up --demo` shows, made anew from real runs at the demo's planted hospitals.

One run to its end, each hospital alone included, and a second that no steward approves and that is stopped: as a real
hub recorded them.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from fedward_client.site import site_folders
from fedward_common import __version__, pki
from fedward_common.study import find, load
from fedward_server import demo as hub_demo
from fedward_server import runs
from fedward_server.progress import RunBar
from fedward_simulations.demo import FIRST_SEED, STUDY
from fedward_simulations.federation import federation
from fedward_simulations.hospitals import plant

WAITING_S = 20.0  # for approvals that never come


def main(scratch: Path, target: Path = hub_demo.SHIPPED) -> None:
    """Run both, and write what the hub has to show."""
    study, console = load(find(STUDY)), Console(stderr=True)
    plant(scratch / "hospitals")
    hospitals = {folder.name: folder for folder in site_folders(scratch / "hospitals")}
    with federation(scratch / "hub", hospitals, logs=scratch / "logs") as held:
        with RunBar(console, STUDY) as bar:
            held.run(study, bar, seed=FIRST_SEED)
        stopped = runs.start(held.hub, study, names=sorted(held.sites), seed=FIRST_SEED + 1, wait_s=3600.0)
        time.sleep(WAITING_S)
        runs.stop(held.hub, stopped.run)
        bundle = hub_demo.collect(held.hub, __version__)
    pki.write_public(target, bundle.model_dump_json(indent=1).encode())


if __name__ == "__main__":
    with TemporaryDirectory(prefix="fedward-hub-demo-") as folder:
        main(Path(folder))
