"""Python's own containers: what a model may hold at several places, and what is put back after it ran."""

from __future__ import annotations

import types
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

_KINDS: tuple[Any, ...] = (
    list, dict, set, OrderedDict, defaultdict, Counter, deque, types.SimpleNamespace, bytearray
)  # fmt: skip
CONTAINERS: dict[str, Any] = {kind.__name__: kind for kind in _KINDS}


def is_container(value: Any) -> bool:
    """Tell whether a value is one of Python's own containers, whose content can change."""
    return type(value) in _KINDS


def items_of(container: Any) -> list[Any]:
    """Return what a container holds: the values of a dict or a namespace, the items of the others."""
    if isinstance(container, types.SimpleNamespace):
        return list(vars(container).values())
    if isinstance(container, bytearray):
        return []
    return list(container.values()) if isinstance(container, dict) else list(container)


def refill(container: Any, content: Any) -> None:
    """Let a container hold what another of its type holds."""
    if isinstance(container, types.SimpleNamespace):
        vars(container).clear()
        vars(container).update(vars(content))
        return
    container.clear()
    if isinstance(container, defaultdict):
        container.default_factory = content.default_factory
    if isinstance(container, dict | set):
        container.update(content)
    else:
        container.extend(content)


def holds_the_same(one: Any, other: Any) -> bool:
    """Tell whether two containers of one type hold the very same things in the same order."""
    if isinstance(one, types.SimpleNamespace):
        one, other = vars(one), vars(other)
    if isinstance(one, bytearray):
        return one == other
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(a is b and c is d for (a, c), (b, d) in zip(one.items(), other.items(), strict=True))
    return all(a is b for a, b in zip(one, other, strict=True))
