"""How much memory this process had at most."""

import re
from pathlib import Path


def peak_mib() -> float:
    """MiB that were resident at most, since the program began.

    By VmHWM of proc(5), which begins anew with a program; what getrusage(2) tells is that of the process that started
    it, where that had more.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
