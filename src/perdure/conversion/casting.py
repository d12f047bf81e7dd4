"""Tensors of floating-point types are cast to another while they are written, block by block."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Iterator
from functools import partial

import torch

from perdure.conversion.holding import dtype_of, shape_of
from perdure.disk.memory import Piece
from perdure.disk.writing import Item
from perdure.errors import InputError, UnsupportedTensorError
from perdure.records.dtypes import STORED_NAMES
from perdure.weights.dtypes import by_name, can_cast, short_name
from perdure.weights.storing import Holdings


class Losses:
    """Counts the finite values of each tensor that are beyond the range of the type that they were cast to."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def set(self, name: str, count: int) -> None:
        if count:
            self._counts[name] = count

    def warnings(self, dtype: torch.dtype) -> tuple[str, ...]:
        """Return a sentence for each such tensor."""
        kind, largest = short_name(dtype), torch.finfo(dtype).max
        return tuple(
            f"{count} finite values of {name!r} are beyond ±{largest:.5g}, what {kind} holds: they became infinite, NaN or "
            f"that."
            for name, count in self._counts.items()
        )


def target_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return the floating-point type of PyTorch that was asked for.

    Raises:
        InputError: there is none of that name, or it cannot be stored.
    """
    if dtype is None:
        return None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    name = short_name(found) if isinstance(found, torch.dtype) else ""
    if not isinstance(found, torch.dtype) or not found.is_floating_point or not can_cast("float32", name):
        raise InputError(
            f"converting: dtype must be a floating-point type such as 'bfloat16', 'float16' or 'float32', not {dtype!r}."
        )
    return found


def cast(holdings: Holdings, dtype: torch.dtype, losses: Losses, kept: Collection[str] = ()) -> Holdings:
    """Return the same with every tensor of a floating-point type in another; whole and complex numbers stay.

    What shares memory still does; the values of sparse tensors are cast, the scales of quantized ones are not.

    Args:
        holdings: what is cast.
        dtype: the type that it gets.
        losses: told which values that type could not hold.
        kept: names of tensors that stay as they are.

    Raises:
        UnsupportedTensorError: a tensor of a type that PyTorch does not convert.
    """
    quantized = [composed for composed in holdings.composed.values() if composed.layout == "quantized"]
    kept = {*kept, *(part for composed in quantized for part in composed.parts.values())}
    items = [item if item.name in kept else _cast_item(item, holdings, dtype, losses) for item in holdings.items]
    return dataclasses.replace(holdings, items=items)


def _cast_item(item: Item, holdings: Holdings, dtype: torch.dtype, losses: Losses) -> Item:
    kind, target = dtype_of(item, holdings), short_name(dtype)
    source = by_name(kind, item.name)
    if not source.is_floating_point or source == dtype:
        return item
    if not can_cast(kind, target):
        raise UnsupportedTensorError(f"saving tensor {item.name!r}: PyTorch does not convert {kind} to {target}.")
    shape = shape_of(item, holdings)
    n_bytes = item.n_bytes // source.itemsize * dtype.itemsize
    made = partial(_cast_pieces, item, source, dtype, losses)
    return Item(item.name, STORED_NAMES[target], shape, n_bytes, made)


def _cast_pieces(item: Item, source: torch.dtype, dtype: torch.dtype, losses: Losses) -> Iterator[Piece]:
    n_lost = 0
    for piece in item.pieces():
        values = torch.frombuffer(piece.view(writable=True), dtype=source)
        converted = values.to(dtype)
        n_lost += _count_lost(values, dtype)
        yield Piece(converted.data_ptr(), converted.nbytes, converted)
    losses.set(item.name, n_lost)


def _count_lost(values: torch.Tensor, dtype: torch.dtype) -> int:
    """Count the finite values that no rounding brings into the range of a type; none where it holds those of the other."""
    limit = _limit(dtype)
    if limit > torch.finfo(values.dtype).max:
        return 0
    sizes = (values if values.itemsize >= 4 else values.float()).abs()
    return int(((sizes >= limit) & (sizes < math.inf)).sum())


@functools.cache
def _limit(dtype: torch.dtype) -> float:
    """Return where the next number after a type's largest would begin, with rounding to the nearest."""
    largest, step = torch.finfo(dtype).max, torch.finfo(dtype).eps
    return largest + 2.0 ** math.floor(math.log2(largest)) * step / 2 if largest < 1e300 else math.inf
