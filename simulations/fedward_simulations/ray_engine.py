"""The Ray engine: the same study through Flower's own simulation runtime, on this machine or a Ray cluster.

A private `flower-superlink --simulation` is started on a free loopback port; everything is ended with the run.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fedward_common.errors import RunError
from fedward_server.result import FILE, RunResult
from fedward_server.superlink import CONNECTION, POLL_S, RunConfig, SuperLink, free_port, write_bundle

ASK_S = 5.0  # how often Flower is asked whether the run has failed: a process of a second or two each time


def run_on_ray(
    config: RunConfig, *, sites: int, workers: int, log_file: Path, on_wait: Callable[[], None]
) -> RunResult:
    """Run a study on Flower's simulation runtime with `sites` virtual nodes, `workers` of them at a time.

    `config` is the run config of server and client app; `on_wait` is called a few times a second.
    """
    folder = Path(str(config["folder"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="fedward-ray-") as scratch:
        link = SuperLink(home=Path(scratch), port=free_port(), log_file=log_file, options=("--simulation",))
        with link.running():
            bundle = write_bundle(Path(scratch) / "bundle", config)
            federation = f"num-supernodes={sites} client-resources-num-cpus=1"
            if "RAY_ADDRESS" not in os.environ:  # a cluster that is there already knows its size
                federation += f" init-args-num-cpus={workers}"
            run_id = link.flwr("run", str(bundle), CONNECTION, "--federation-config", federation)["run-id"]
            asked = time.monotonic()
            while not (folder / FILE).exists():
                if time.monotonic() - asked > ASK_S:
                    status = link.flwr("list", CONNECTION, "--run-id", run_id)["runs"][0]["status"]
                    if status.startswith("finished") and not (folder / FILE).exists():
                        raise RunError(f"the run on Ray ended as {status} without a result; its log is {log_file}")
                    asked = time.monotonic()
                on_wait()
                time.sleep(POLL_S)
    return RunResult.read(folder)
