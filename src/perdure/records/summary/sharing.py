"""How many bytes tensors take that lie in the memory of one another, in whole or in part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """Where a tensor lies.

    Attributes:
        memory: what its bytes are counted in: a file, a device.
        start: the first of its bytes.
        stop: the one behind its last.
        n_bytes: how many between them are its elements'.
    """

    memory: str
    start: int
    stop: int
    n_bytes: int


def own_bytes(places: Sequence[Sequence[Place]]) -> list[int]:
    """Return the bytes that each tensor takes beyond those before it.

    Tensors whose memory overlaps, directly or through others, take no more together than the stretch that they lie in;
    those that come first have their whole size.

    Args:
        places: of each tensor, where its parts lie; of most that is one place.
    """
    left = _Stretches(place for parts in places for place in parts)
    return [sum(left.take(place) for place in parts) for parts in places]


class _Stretches:
    """Stretches of memory that tensors cover without a gap between them, and how much of each is not yet counted."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._of: dict[Place, int] = {}
        self._left: list[int] = []
        memory, stop = "", 0
        found = sorted(set(places))
        for place in found:
            if place.memory != memory or place.start >= stop or not self._left:
                self._left.append(0)
                memory, stop = place.memory, place.start
            self._left[-1] += max(0, place.stop - stop)
            stop = max(stop, place.stop)
            self._of[place] = len(self._left) - 1

    def take(self, place: Place) -> int:
        number = self._of[place]
        taken = min(place.n_bytes, self._left[number])
        self._left[number] -= taken
        return taken
