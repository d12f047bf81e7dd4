"""The tensors among the arguments and results of a call."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_MAX_DEPTH = 20


def tensors_in(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """Yield the tensors in a nesting of tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif value is None or isinstance(value, str | int | float) or depth > _MAX_DEPTH:
        return
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item, depth + 1)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item, depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name, None), depth + 1)


def shapes_in(*values: Any) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the tensors in nestings."""
    return tuple(shape_of(tensor) for value in values for tensor in tensors_in(value))


def shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the sizes of a tensor; of a nested one, whose sizes are not all one number, how many elements it has."""
    if tensor.is_nested:
        return (int(tensor.numel()) if tensor.layout is torch.strided else tensor.values().numel(),)
    return tuple(map(int, tensor.shape))


def leading_shape(value: Any) -> tuple[int, ...]:
    """Return the shape of the tensor that stands for a result: of tuples the first, of mappings the last; empty for none."""
    if isinstance(value, Mapping) and value:
        value = list(value.values())[-1]
    while isinstance(value, list | tuple | Mapping) and value:
        value = next(iter(value.values())) if isinstance(value, Mapping) else value[0]
    return shape_of(value) if isinstance(value, torch.Tensor) else ()
