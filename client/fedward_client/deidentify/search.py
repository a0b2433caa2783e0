"""Many short byte strings, looked for in many files at once.

Upper and lower case of ASCII count as one. What is all digits and dots must not go on before or behind as a number or a
UID; other strings of less than `WHOLE` bytes must stand as words: within longer ones they would be found by chance.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

LEAST = 4  # bytes of a string that can be looked for
WHOLE = 8  # bytes from which on a string counts wherever it stands
HEAD = 4  # bytes of each string that are compared with every place at once


class Needles:
    """Strings to be looked for, each with the name of what it is. Shorter ones than `LEAST` are left out."""

    def __init__(self, names: Mapping[bytes, str]) -> None:
        self.names = {needle: name for needle, name in names.items() if len(needle) >= LEAST}
        self._by_head: dict[int, list[bytes]] = {}
        for needle in self.names:
            self._by_head.setdefault(int(_heads(needle)[0]), []).append(needle)
        self._heads = np.array(sorted(self._by_head), np.uint32)
        self._starts = np.zeros(2**16, bool)  # of two bytes: most places fall at once
        self._starts[self._heads & 0xFFFF] = True

    def found_in(self, data: bytes) -> set[bytes]:
        """The strings that are in `data`."""
        data = data.lower()
        found: set[bytes] = set()
        for place in self._places(data):
            head = int(_heads(data[place : place + HEAD])[0])
            found.update(needle for needle in self._by_head[head] if _stands(data, place, needle))
        return found

    def _places(self, data: bytes) -> Iterator[int]:
        """Where one of the strings may begin."""
        if len(data) < HEAD or not len(self._heads):
            return
        array = np.frombuffer(data, np.uint8)
        pairs = array[:-1].astype(np.uint16) | array[1:].astype(np.uint16) << 8
        places = np.flatnonzero(self._starts[pairs[: len(array) - HEAD + 1]])
        heads = pairs[places].astype(np.uint32) | pairs[places + 2].astype(np.uint32) << 16
        yield from places[np.isin(heads, self._heads)].tolist()


def _heads(needle: bytes) -> npt.NDArray[np.uint32]:
    return np.frombuffer(needle[:HEAD], "<u4")


def _stands(data: bytes, place: int, needle: bytes) -> bool:
    """Whether a string is at a place, and is not a part of something longer that it must not be a part of."""
    end = place + len(needle)
    if data[place:end] != needle:
        return False
    before, after = data[max(0, place - 2) : place], data[end : end + 2]
    if all(byte in b"0123456789." for byte in needle):
        return not (_goes_on(before[::-1]) or _goes_on(after))
    return len(needle) >= WHOLE or not (before[-1:].isalnum() or after[:1].isalnum())


def _goes_on(beside: bytes) -> bool:
    """Whether a number or a UID continues with the bytes beside it, the nearest first."""
    return beside[:1].isdigit() or (beside[:1] == b"." and beside[1:2].isdigit())
