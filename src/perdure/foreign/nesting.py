"""How deep values are nested, found without recursion."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from perdure.errors import LimitError
from perdure.foreign.calls import Unfinished
from perdure.foreign.inert import Made, Ordered

MAX_NESTING = 1000

_RECORDS = (Made, Unfinished)
_MAPPINGS = (dict, Ordered, Counter)
_CONTAINERS = frozenset((*_RECORDS, *_MAPPINGS, list, tuple, set, frozenset, deque))


def check_nesting(value: Any, where: str) -> None:
    """Refuse a value that is nested too deeply for whoever walks through it; it may contain itself.

    Raises:
        LimitError: it is nested deeper than `MAX_NESTING`.
    """
    heights: dict[int, int] = {}  # of what has been walked through; 0 on the way through it
    path: list[tuple[int, Iterator[Any]]] = [(0, iter((value,)))]
    highest = [0]
    while path:
        owner, parts = path[-1]
        inner = _next_container(parts)
        if inner is None:
            path.pop()
            heights[owner] = height = highest.pop() + 1
            if highest:
                highest[-1] = max(highest[-1], height)
            continue
        height = heights.get(id(inner))
        if height is None:
            heights[id(inner)] = height = 0
            path.append((id(inner), iter(_parts_of(inner))))
            highest.append(0)
        highest[-1] = max(highest[-1], height)
        if len(path) + height > MAX_NESTING:
            raise LimitError(f"reading {where}: its values are nested deeper than {MAX_NESTING} levels.")


def _next_container(parts: Iterator[Any]) -> Any:
    for part in parts:
        if type(part) in _CONTAINERS:
            return part
    return None


def _parts_of(container: Any) -> Iterable[Any]:
    if type(container) in _RECORDS:
        made = container
        return made.what, made.args, made.kwargs, made.state, made.items, made.appended
    if type(container) in _MAPPINGS:
        attributes = container.attributes.values() if type(container) is Ordered else ()
        return chain(container, container.values(), attributes)
    return container
