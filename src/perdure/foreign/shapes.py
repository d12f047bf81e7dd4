"""Sizes and strides as files give them, and whether they lie within a storage."""

from __future__ import annotations

import math
from typing import Any

from perdure.disk.header import MAX_DIMENSIONS
from perdure.errors import LimitError

MAX_ELEMENTS = 2**62
MAX_EXPANDED = 2**32
MAX_EXPANSION = 1000
"""A view that shows more elements than both of these is refused: more of them, and more than so many times its storage's."""


def sizes_of(value: Any, whose: str) -> tuple[int, ...]:
    """Return sizes or steps as a tuple of integers.

    Raises:
        ValueError: it is none, or its sizes are impossible.
    """
    if type(value) not in (tuple, list) or len(value) > MAX_DIMENSIONS:
        raise ValueError(f"the sizes of {whose} are not a list of at most {MAX_DIMENSIONS}")
    for size in value:
        if type(size) is not int or not 0 <= size < MAX_ELEMENTS:
            raise ValueError(f"a size of {whose} is {str(size)[:40]}")
    return tuple(value)


def shape_of(value: Any, whose: str) -> tuple[int, ...]:
    """Return a shape as a tuple of integers; the number of elements is possible too.

    Raises:
        ValueError: it is none.
    """
    shape = sizes_of(value, whose)
    if math.prod(filter(None, shape)) >= MAX_ELEMENTS:
        raise ValueError(f"the shape of {whose} is impossible")
    return shape


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the steps, in elements, of a tensor whose elements lie one after another, the last axis first."""
    stride: list[int] = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))


def check_reach(shape: tuple[int, ...], stride: tuple[int, ...], offset: int, n_elements: int) -> None:
    """Check that a view lies within a storage of so many elements.

    Raises:
        ValueError: it does not.
        LimitError: by steps of nought it shows the same elements so often that whoever copied it would run out of memory.
    """
    n_shown = math.prod(shape)
    if n_shown > MAX_EXPANDED and n_shown > MAX_EXPANSION * n_elements:
        raise LimitError(
            f"reading a tensor: it would show {n_elements} elements as {n_shown}, more than {MAX_EXPANSION} times as many; "
            f"what is over {MAX_EXPANDED} may not. Save it without expanding it."
        )
    last = offset - 1
    if 0 not in shape:
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if last >= n_elements:
        raise ValueError(f"it would reach element {last} of a storage that has {n_elements}")
