"""How deep values are nested, found without recursion."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from perdure.errors import LimitError
from perdure.foreign.inert import Made, Ordered
from perdure.foreign.pickles.calls import Unfinished

MAX_NESTING = 1000

_RECORDS = (Made, Unfinished)
_MAPPINGS = (dict, Ordered, Counter)
_CONTAINERS = frozenset((*_RECORDS, *_MAPPINGS, list, tuple, deque))  # sets hold keys, which have few parts


def check_nesting(value: Any, where: str) -> None:
    """Refuse a value that is nested too deeply for whoever walks through it; it may contain itself.

    Raises:
        LimitError: it is nested deeper than `MAX_NESTING`.
    """
    heights: dict[int, int] = {}  # of what has been walked through; 0 on the way through it
    path: list[tuple[int, Iterator[Any]]] = [(0, iter((value,)))]
    highest = [0]  # of the parts of each container on the path, as far as it is walked through
    while path:
        owner, parts = path[-1]
        for part in parts:
            if type(part) in _CONTAINERS and (part or type(part) is Ordered):  # which may have attributes
                height = heights.get(id(part))
                if height is None:
                    heights[id(part)] = 0
                    path.append((id(part), iter(_parts_of(part))))
                    highest.append(0)
                    break
                if height > highest[-1]:
                    highest[-1] = height
        else:
            path.pop()
            heights[owner] = height = highest.pop() + 1
            if path and height > highest[-1]:
                highest[-1] = height
        if path and len(path) + highest[-1] > MAX_NESTING:
            raise LimitError(f"reading {where}: its values are nested deeper than {MAX_NESTING} levels.")


def _parts_of(container: Any) -> Iterable[Any]:
    kind = type(container)
    if kind in _RECORDS:
        made = container
        return made.what, made.args, made.kwargs, made.state, made.items, made.appended
    if kind is Ordered:
        return chain(container, container.values(), container.attributes.values())
    return chain(container, container.values()) if kind in _MAPPINGS else container
