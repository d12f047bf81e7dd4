"""Plain objects: those that can be taken apart, and made again, without any code of their class."""

from __future__ import annotations

import copyreg
from collections import OrderedDict
from typing import Any, cast

from perdure.records.values import check_alike

_HEAP_TYPE = 1 << 9
_BASES: tuple[Any, ...] = (OrderedDict, dict, list, set)
_ORDINARY = frozenset((object.__reduce__, OrderedDict.__reduce__, set.__reduce__))


def is_plain_object(value: Any) -> bool:
    """Tell whether a value is of a class of Python's own kind that pickles itself in the ordinary way."""
    kind = type(value)
    ordinary = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ in _ORDINARY
    named = bool(kind.__flags__ & _HEAP_TYPE) and "<" not in kind.__qualname__ and kind.__module__ != "builtins"
    return ordinary and named and makes_plain_objects(kind)


def makes_plain_objects(kind: type) -> bool:
    """Tell whether objects of a class can be made, empty, without any code of the class."""
    return kind.__new__ is (items_base(kind) or object).__new__


def items_base(kind: type) -> Any:
    """Return the container of Python's from which a class derives, or None."""
    return next((base for base in _BASES if issubclass(kind, base)), None)


def plain_state(value: Any) -> dict[str, Any]:
    """Return an object's attributes, those in slots too."""
    slots = {name: getattr(value, name) for name in copyreg._slotnames(type(value)) if hasattr(value, name)}  # type: ignore[attr-defined]
    return {**getattr(value, "__dict__", {}), **slots}


def pickled_state(value: Any) -> Any:
    """Return the state that pickling would keep of a plain object: what `__getstate__` gives, else its attributes.

    Raises:
        TypeError: it would be made anew from arguments.
    """
    made_by, arguments, state = (*value.__reduce_ex__(2), None)[:3]
    if made_by is not copyreg.__newobj__ and items_base(type(value)) is None:  # type: ignore[attr-defined]
        raise TypeError("it is made in its own way")
    if made_by is copyreg.__newobj__ and len(arguments) > 1:  # type: ignore[attr-defined]
        raise TypeError("it is made anew from arguments")
    return state


def plain_items(value: Any) -> list[Any] | None:
    """Return what an object holds that is a container itself: the pairs of a dict, the items of a list or a set."""
    if isinstance(value, dict):
        return [[key, item] for key, item in dict.items(value)]
    return list(value) if isinstance(value, list | set) else None


def put_items(value: Any, items: list[Any]) -> None:
    """Put items into an empty object of a class that is a container, without any code of the class."""
    base: Any = items_base(type(value))
    if base is list:
        list.extend(value, items)
        return
    check_alike(items if base is set else [key for key, _ in items])
    if base is set:
        set.update(value, items)
    else:
        for key, item in items:
            cast("Any", base).__setitem__(value, key, item)
