"""What a model is called with: examples as given, or tensors of given sizes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from perdure.errors import InputError
from perdure.models.examples import Example, examples_in

Sizes = Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]


def examples_for(model: nn.Module, example: Any, input_size: Sizes | None) -> list[Example]:
    """Return the calls to follow: those of the example, or one with tensors of these sizes.

    Raises:
        InputError: both are given, or the sizes are none.
    """
    if input_size is None:
        return examples_in(example, "summarizing")
    if example is not None:
        raise InputError("summarizing: example= and input_size= were both given. Give one of them.")
    dtype = _floating_type(model)
    if isinstance(input_size, Mapping):
        return [((), {name: _tensor(sizes, dtype) for name, sizes in input_size.items()})]
    return [(tuple(_tensor(sizes, dtype) for sizes in shapes_of(input_size)), {})]


def shapes_of(input_size: Any) -> list[Sequence[int]]:
    """Return the shapes of several tensors, or the one shape of a single one as a list."""
    if not isinstance(input_size, Sequence) or isinstance(input_size, str):
        raise InputError(f"summarizing: input_size is a shape or a list of shapes, not {input_size!r}.")
    single = not input_size or isinstance(input_size[0], int)
    return [input_size] if single else list(input_size)


def checked_shape(sizes: Any) -> tuple[int, ...]:
    """Return a shape.

    Raises:
        InputError: it is none.
    """
    if isinstance(sizes, Sequence) and all(type(size) is int and size >= 0 for size in sizes):
        return tuple(sizes)
    raise InputError(f"summarizing: {sizes!r} in input_size is no shape. Give sizes such as (1, 3, 224, 224).")


def _tensor(sizes: Any, dtype: torch.dtype) -> torch.Tensor:
    shape = checked_shape(sizes)
    try:
        return torch.empty(shape, dtype=dtype, device="meta")
    except (RuntimeError, TypeError):  # more than PyTorch can number
        raise InputError(f"summarizing: no tensor can be as large as {shape!r} in input_size.") from None


def _floating_type(model: nn.Module) -> torch.dtype:
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
