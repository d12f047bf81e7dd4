"""Nested arguments and results as plain data, and back.

Tuples, lists and dicts are taken apart; named tuples as tuples with the names of their fields; dataclasses and the
outputs of transformers as dicts of their fields. All else is a leaf. What comes back is plain: no class of a library
is needed to build it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from perdure.errors import InputError, UnsupportedModelError
from perdure.records.graph import MAX_DEPTH

Tree = Any
_KEYS = (str, int, bool, type(None))


def flatten(value: Any, place: str) -> tuple[list[Any], Tree]:
    """Take a nested value apart.

    Args:
        value: any nesting of tuples, lists, dicts, named tuples and dataclasses.
        place: how messages name it, e.g. `the output`.

    Returns:
        Its leaves in order, and the tree in which they hang, as JSON data.

    Raises:
        UnsupportedModelError: nested too deeply, or a dict whose keys are no text or numbers.
    """
    leaves: list[Any] = []
    return leaves, _flatten(value, place, leaves, 0)


def _flatten(value: Any, place: str, leaves: list[Any], depth: int) -> Tree:
    if depth > MAX_DEPTH:
        raise UnsupportedModelError(f"tracing: {place[:100]}… is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, tuple):
        items = [_flatten(item, f"{place}[{number}]", leaves, depth + 1) for number, item in enumerate(value)]
        names = _field_names(value)
        return {"tuple": items, "fields": names} if names else {"tuple": items}
    if type(value) is list:
        return [_flatten(item, f"{place}[{number}]", leaves, depth + 1) for number, item in enumerate(value)]
    pairs = as_pairs(value)
    if pairs is not None:
        _check_keys(pairs, place)
        return {"dict": [[key, _flatten(item, f"{place}[{key!r}]", leaves, depth + 1)] for key, item in pairs]}
    leaves.append(value)
    return {"at": len(leaves) - 1}


def _field_names(value: tuple[Any, ...]) -> list[str]:
    names = getattr(type(value), "_fields", ())
    return list(names) if len(names) == len(value) else []


def as_pairs(value: Any) -> list[tuple[Any, Any]] | None:
    """Return the keys and items of a mapping or a dataclass; None for anything else."""
    if isinstance(value, dict) or (isinstance(value, Mapping) and not dataclasses.is_dataclass(value)):
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def _check_keys(pairs: list[tuple[Any, Any]], place: str) -> None:
    for key, _ in pairs:
        if type(key) not in _KEYS:
            raise UnsupportedModelError(
                f"tracing: {place} has the key {str(key)[:60]!r} of type {type(key).__name__}. Use text or numbers."
            )


def unflatten(tree: Tree, leaves: list[Any]) -> Any:
    """Hang leaves into a tree: tuples, lists and dicts."""
    if type(tree) is list:
        return [unflatten(item, leaves) for item in tree]
    if "at" in tree:
        return leaves[tree["at"]]
    if "tuple" in tree:
        return tuple([unflatten(item, leaves) for item in tree["tuple"]])
    return {key: unflatten(item, leaves) for key, item in tree["dict"]}


def less_names(tree: Tree) -> Tree:
    """Return a tree, or any other JSON data, without the names of fields, as what a graph gives has it."""
    if type(tree) is list:
        return [less_names(item) for item in tree]
    if type(tree) is dict:
        return {key: less_names(item) for key, item in tree.items() if key != "fields"}
    return tree


def leaf_places(tree: Tree, place: str) -> list[str]:
    """Return how messages name each leaf of a tree."""
    if type(tree) is list:
        return [name for n, item in enumerate(tree) for name in leaf_places(item, f"{place}[{n}]")]
    if "at" in tree:
        return [place]
    if "tuple" in tree:
        return leaf_places(tree["tuple"], place)
    return [name for key, item in tree["dict"] for name in leaf_places(item, f"{place}[{key!r}]")]


def with_leaves(value: Any, leaves: Iterator[Any]) -> Any:
    """Return a nested value of the same classes with other leaves, in order."""
    if isinstance(value, tuple):
        items = [with_leaves(item, leaves) for item in value]
        return type(value)(*items) if _field_names(value) else tuple(items)
    if type(value) is list:
        return [with_leaves(item, leaves) for item in value]
    pairs = as_pairs(value)
    if pairs is None:
        return next(leaves)
    fresh = {key: with_leaves(item, leaves) for key, item in pairs}
    if type(value) is dict:
        return fresh
    made = copy.copy(value)
    for key, item in fresh.items():
        if dataclasses.is_dataclass(made) and not isinstance(made, Mapping):
            object.__setattr__(made, key, item)
        else:
            made[key] = item  # pyright: ignore[reportIndexIssue] - a mapping that is a dict of some kind
    return made


def collect(value: Any, tree: Tree, place: str, leaves: list[Any]) -> None:
    """Append the leaves of a value that must hang in a given tree; lists and tuples are taken for each other.

    Raises:
        InputError: it is nested in another way; the message says where.
    """
    if type(tree) is list:
        _collect_items(value, tree, place, leaves)
    elif "at" in tree:
        leaves.append(value)
    elif "tuple" in tree:
        _collect_items(value, tree["tuple"], place, leaves)
    else:
        _collect_pairs(value, tree["dict"], place, leaves)


def _collect_items(value: Any, trees: list[Tree], place: str, leaves: list[Any]) -> None:
    if not isinstance(value, tuple | list) or len(value) != len(trees):
        raise _misfit(place, f"a tuple or list of {len(trees)} items", value)
    for number, item in enumerate(trees):
        collect(value[number], item, f"{place}[{number}]", leaves)


def _collect_pairs(value: Any, trees: list[Any], place: str, leaves: list[Any]) -> None:
    pairs = as_pairs(value)
    items = dict(pairs) if pairs is not None else {}
    keys = [key for key, _ in trees]
    if pairs is None or set(items) != set(keys):
        raise _misfit(place, f"a dict with the keys {', '.join(map(repr, keys))}", value)
    for key, item in trees:
        collect(items[key], item, f"{place}[{key!r}]", leaves)


def _misfit(place: str, expected: str, found: Any) -> InputError:
    pairs = as_pairs(found)
    if pairs is not None:
        shown = f"one with the keys {', '.join(repr(key) for key, _ in pairs)}"
    elif isinstance(found, tuple | list):
        shown = f"one of {len(found)} items"
    else:
        shown = type(found).__name__
    return InputError(f"running the graph: {place} was {expected} in the trace; found {shown}. Pass it as it was.")
