"""Nesting that was flattened to names, made anew from the path that leads to each."""

from __future__ import annotations

from typing import Any

from perdure.disk.faults import broken
from perdure.errors import LimitError

MAX_DEPTH = 100
_SPARE_PLACES = 10_000


def nest(flat: dict[str, Any], paths: Any, where: str) -> dict[str, Any]:
    """Return the nesting whose leaves are values, with dicts where a path has text and lists where it has numbers.

    Args:
        flat: the values by name.
        paths: the path of each name, as a tuple; None where nothing was nested. What has no path stays under its name.
        where: names the file in messages.

    Raises:
        CorruptError: paths contradict each other, or are none.
        LimitError: they are longer, or their numbers larger, than in any nesting.
    """
    paths = {} if paths is None else paths
    if not isinstance(paths, dict):
        raise broken(where, "its metadata have paths of names that are no dict.")
    top = _Node()
    for name, value in flat.items():
        path = paths.get(name, (name,))
        if type(path) is not tuple or not path or type(path[0]) is not str:
            raise broken(where, f"its metadata have {str(path)[:80]!r} as the path of {name[:200]!r}.")
        if len(path) > MAX_DEPTH:
            raise LimitError(f"reading {where}: {name[:200]!r} is nested deeper than {MAX_DEPTH} levels.")
        node = top
        for part in path[:-1]:
            node = node.setdefault(_checked(part, name, where), _Node())
            if type(node) is not _Node:
                raise broken(where, f"the path of {name[:200]!r} leads through another value.")
        if _checked(path[-1], name, where) in node:
            raise broken(where, f"the path of {name[:200]!r} leads to another value as well.")
        node[path[-1]] = value
    return _finished(top, where, [_SPARE_PLACES + 10 * len(flat)])


class _Node(dict[Any, Any]):
    """A part of the nesting that is not finished."""


def _checked(part: Any, name: str, where: str) -> Any:
    if type(part) is not str and not (type(part) is int and part >= 0):
        raise broken(where, f"the path of {name[:200]!r} has the part {str(part)[:80]!r}.")
    return part


def _finished(node: _Node, where: str, room: list[int]) -> Any:
    inner = {key: _finished(value, where, room) if type(value) is _Node else value for key, value in node.items()}
    kinds = {type(key) for key in inner}
    if kinds != {int}:
        if int in kinds:
            raise broken(where, "its metadata have numbers and text in one part of its nesting.")
        return inner
    n_places = max(inner) + 1
    room[0] -= n_places
    if room[0] < 0:
        raise LimitError(f"reading {where}: its metadata have lists with more places than values.")
    return [inner.get(place) for place in range(n_places)]  # what was empty there was not written
