"""Settings of processes through which models pass, so that they keep no memory of what has passed.

A model travels in pieces of 5 MiB. One that refers to itself, as the requests and responses of web libraries do, lives
until Python's garbage collector comes by, which goes by the number of objects whatever their size: of 25 million
parameters there are too few for it. And what is freed glibc keeps for later.
"""

import ctypes
import gc
from contextlib import suppress

_OFTEN = (100, 10, 2)  # gc.set_threshold: by generations; Python's own numbers are 700, 10, 10
_PIECE_BYTES = 2**20
_M_MMAP_THRESHOLD = -3  # malloc.h


def collect_often() -> None:
    """Call when all is imported: what is there now is not looked at again, so that each visit is short."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_OFTEN)


def give_pieces_back() -> None:
    """Let glibc give the memory of a piece back when it is freed, at the cost of new pages for the next one.

    Its bound, 128 KiB at first, it raises by itself to the size of what is freed: mallopt(3), M_MMAP_THRESHOLD.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _PIECE_BYTES)
