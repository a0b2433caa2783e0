"""The API as a process: `python -m fedward_server.api FOLDER`, started by `fedward hub up` in the hub's folder.

It answers on a socket in the hub's folder.
"""

import os
import sys
from pathlib import Path

import uvicorn

from fedward_common.logs import process_to, to_terminal
from fedward_server.api.app import make_app
from fedward_server.gateway import API_SOCKET
from fedward_server.hub import Hub

CACHE = "cache"  # in the hub's folder: which fonts there are, so that not each start has to look for them


def main(folder: Path) -> None:
    """Serve until told to end."""
    hub = Hub.open(folder)
    process_to(to_terminal(hub.settings.log.format))  # the entrance has it written into api.log
    os.environ.setdefault("MPLCONFIGDIR", str(hub.folder / CACHE))
    uvicorn.run(
        make_app(hub),
        uds=API_SOCKET,
        access_log=False,  # the gateway has one
        log_config=None,  # as set above
        server_header=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
