"""A process through which models pass keeps no memory of them: garbage is collected, freed pieces are given back."""

import subprocess
import sys

PASSING = """
import gc, os, sys
from pathlib import Path
from fedward_common.process_memory import collect_often, give_pieces_back

class Response:  # refers to itself, as those of web libraries do
    def __init__(self, body):
        self.body, self.request = body, [self]

def in_use():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

if "set" in sys.argv:
    give_pieces_back()
    collect_often()
before, most = in_use(), 0
for number in range(300):
    Response(b"x" * (2**20 + number))
    most = max(most, in_use() - before)
kept = [b"x" * (5 * 2**20) for _ in range(20)]
small = [b"x" * 1000 for _ in range(1000)]  # at the end of the heap, which cannot shrink then
del kept
print(most, in_use() - before)
"""


def passing(*words: str) -> tuple[float, float]:
    """Most MiB in use, and MiB at the end, of a process in which 400 MiB have passed."""
    done = subprocess.run([sys.executable, "-c", PASSING, *words], capture_output=True, text=True, check=True)
    most, end = map(float, done.stdout.split())
    return most, end


def test_pieces_that_refer_to_themselves_and_pieces_that_are_freed_take_little() -> None:
    most, end = passing("set")
    usual_most, usual_end = passing()
    assert most < 0.6 * usual_most
    assert end < 0.5 * usual_end
