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
    return tuple(tuple(map(int, tensor.shape)) for value in values for tensor in tensors_in(value))
