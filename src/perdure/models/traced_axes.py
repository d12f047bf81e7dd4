"""Which axes of the arguments are free: the batch, the length of token sequences, and those that were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.export import Dim

from perdure.errors import InputError
from perdure.models.structure import leaf_places
from perdure.models.traced_calls import Call

Axes = dict[int, Any]


def batch_axes(tensors: list[torch.Tensor]) -> list[int]:
    """Return the tensors whose first axis counts the examples of a batch: those that have the first one's size."""
    with_axes = [(number, tensor.shape[0]) for number, tensor in enumerate(tensors) if tensor.dim()]
    sizes = [size for _, size in with_axes]
    common = max(sizes, key=sizes.count, default=0)
    return [number for number, size in with_axes if size == common and size > 0]


def token_axes(tensors: list[torch.Tensor]) -> list[int]:
    """Return the tensors whose second axis runs along a sequence: integers of two axes, and masks of the same size."""
    sizes = {tensor.shape[1] for tensor in tensors if _is_integer(tensor) and tensor.dim() == 2}
    return [n for n, tensor in enumerate(tensors) if tensor.dim() == 2 and tensor.shape[1] in sizes]


def _is_integer(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def asked_axes(call: Call, dynamic: Any) -> dict[int, Axes]:
    """Return the axes that `dynamic` names, by the number of the tensor."""
    if dynamic is None:
        return {}
    if isinstance(dynamic, tuple | list):
        dynamic = dict(zip(call.given, dynamic, strict=False))
    if not isinstance(dynamic, Mapping) or set(dynamic) - set(call.given):
        named = ", ".join(map(repr, call.given))
        raise InputError(
            f"tracing: dynamic= names axes of the example's arguments ({named}), not {str(dynamic)[:100]}."
        )
    found: dict[int, Axes] = {}
    number = 0
    for name, tree in call.trees.items():
        places = leaf_places(tree, name)
        marks = _marks_of(dynamic.get(name), len(places), name)
        for place, mark in zip(places, marks, strict=True):
            leaf = call.leaves[call.places.index(place)]
            if isinstance(leaf, torch.Tensor):
                if mark:
                    found[number] = _checked_axes(mark, leaf, place)
                number += 1
    return found


def _marks_of(dynamic: Any, n_leaves: int, name: str) -> list[Any]:
    """Return what is asked for each leaf of an argument."""
    if dynamic is None:
        return [None] * n_leaves
    if n_leaves == 1 and isinstance(dynamic, Mapping) and all(type(key) is int for key in dynamic):
        return [dynamic]
    found: list[Any] = []
    _collect_marks(dynamic, found)
    if len(found) != n_leaves:
        raise InputError(f"tracing: dynamic={{{name!r}: …}} names {len(found)} tensors; the example has {n_leaves}.")
    return found


def _collect_marks(dynamic: Any, found: list[Any]) -> None:
    if isinstance(dynamic, Mapping) and not all(type(key) is int for key in dynamic):
        for item in dynamic.values():
            _collect_marks(item, found)
    elif isinstance(dynamic, list | tuple):
        for item in dynamic:
            _collect_marks(item, found)
    else:
        found.append(dynamic)


def _checked_axes(mark: Any, tensor: torch.Tensor, place: str) -> Axes:
    axes: Axes = {}
    for axis, name in mark.items():
        if name is None:
            continue
        at = axis + tensor.dim() if axis < 0 else axis
        if not 0 <= at < tensor.dim():
            raise InputError(f"tracing: dynamic= names axis {axis} of {place}, which has {tensor.dim()}.")
        if tensor.shape[at] < 2 and at != 0:
            raise InputError(
                f"tracing: axis {axis} of {place} is to be free, but has the size {tensor.shape[at]} in the example, which "
                f"a trace would fix. Pass an example that is larger there."
            )
        axes[at] = Dim.DYNAMIC if isinstance(name, str) else name
    return axes
