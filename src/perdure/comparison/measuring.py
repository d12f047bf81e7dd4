"""How far two tensors are apart, from blocks of their elements: bounded memory, float64 throughout."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch

from perdure.comparison.sides import Side, bytes_of
from perdure.records.differences import TensorChange
from perdure.weights.dtypes import by_name
from perdure.weights.storing import composition

BLOCK_ELEMENTS = 2**18
"""Elements that are compared at a time: some MiB in float64, with all that is computed from them."""


def measure(name: str, other_name: str, one: Side, other: Side) -> TensorChange | None:
    """Compare a tensor of each side, of equal shape; None where they are equal, type included.

    Raises:
        DigestError, CorruptError: a file's bytes are not those that were saved.
    """
    a, b = one.specs[name], other.specs[other_name]
    kinds, shapes = (a.dtype, b.dtype), (a.shape, b.shape)
    if not (one.is_dense(name) and other.is_dense(other_name)):
        return _measure_composed(one.tensors[name], other.tensors[other_name], kinds, shapes)
    n_elements = math.prod(a.shape)
    if not (_is_computable(a.dtype) and _is_computable(b.dtype)):
        same = kinds[0] == kinds[1] and _same_bits(_pairs(name, other_name, one, other))
        return None if same else TensorChange(kinds, shapes, n_elements)
    if kinds[0] == kinds[1] and _same_bits(_pairs(name, other_name, one, other)):
        return None
    found = _Distance()
    for block, other_block in _pairs(name, other_name, one, other):
        found.add(block, other_block)
    if not found.n_different and kinds[0] == kinds[1]:
        return None
    return found.change(kinds, shapes, n_elements)


def _pairs(name: str, other_name: str, one: Side, other: Side) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    blocks = one.blocks(name, BLOCK_ELEMENTS), other.blocks(other_name, BLOCK_ELEMENTS)
    return zip(*blocks, strict=True)


@functools.cache
def _is_computable(dtype: str) -> bool:
    """Tell whether PyTorch can turn numbers of that type into float64."""
    try:
        _numbers(torch.zeros(16, dtype=torch.uint8).view(by_name(dtype, "the file")))
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _same_bits(pairs: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    """Tell whether all elements have the same bits; ends at the first that has not."""
    return all(bytes_of(a) == bytes_of(b) for a, b in pairs)


def _measure_composed(
    a: torch.Tensor, b: torch.Tensor, kinds: tuple[str, str], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> TensorChange | None:
    """Compare sparse or quantized tensors: whether all their parts are equal; of quantized ones, also the values."""
    if kinds[0] == kinds[1] and a.layout == b.layout and _same_parts(a, b):
        return None
    if a.layout is torch.strided and b.layout is torch.strided:
        found = _Distance()
        found.add(_plain(a).reshape(-1), _plain(b).reshape(-1))
        return found.change(kinds, shapes, a.numel())
    return TensorChange(kinds, shapes, a.numel())


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.dequantize() if tensor.is_quantized else tensor


def _same_parts(a: torch.Tensor, b: torch.Tensor) -> bool:
    one, other = composition(a), composition(b)
    if one.fields != other.fields or one.parts.keys() != other.parts.keys():
        return False
    return all(_same_part(part, other.parts[name]) for name, part in one.parts.items())


def _same_part(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.is_quantized and b.is_quantized:
        a, b = a.int_repr(), b.int_repr()
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return not a.numel() or _same_bits(iter([(a.contiguous().view(-1), b.contiguous().view(-1))]))


class _Distance:
    """What is summed up over the blocks of two tensors."""

    def __init__(self) -> None:
        self.n_different = 0
        self._max_abs = self._max_rel = 0.0
        self._n_nan, self._n_infinite = [0, 0], [0, 0]
        self._dot = self._norm_a = self._norm_b = self._norm_of_difference = 0.0

    def add(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Take a block of each, flat and of the same number of elements."""
        exact = _exact_difference(a, b)
        a, b = _numbers(a), _numbers(b)
        nan_a, nan_b = torch.isnan(a), torch.isnan(b)
        unequal = (a.view(torch.int64) != b.view(torch.int64)) & ~(nan_a & nan_b)
        if exact is not None:
            unequal = exact != 0
        count = unequal.view(-1, 2).any(1) if a.dim() > 1 else unequal
        self.n_different += int(count.sum())
        for number, values in enumerate((a, b)):
            self._n_nan[number] += int(torch.isnan(values).sum())
            self._n_infinite[number] += int(torch.isinf(values).sum())
        finite = torch.isfinite(a) & torch.isfinite(b)
        if not bool(finite.all()):
            if bool((unequal & ~finite).any()):
                self._max_abs = self._max_rel = math.inf
            zero = torch.zeros((), dtype=torch.float64)
            a, b = torch.where(finite, a, zero), torch.where(finite, b, zero)
        difference = (a - b).abs_() if exact is None else exact
        if difference.numel():
            self._max_abs = max(self._max_abs, float(difference.max()))
            scale = torch.maximum(a.abs(), b.abs())
            relative = torch.where(scale > 0, difference / scale, difference)
            self._max_rel = max(self._max_rel, float(relative.max()))
        a, b, difference = a.reshape(-1), b.reshape(-1), difference.reshape(-1)
        self._dot += float(a @ b)
        self._norm_a += float(a @ a)
        self._norm_b += float(b @ b)
        self._norm_of_difference += float(difference @ difference)

    def change(
        self, kinds: tuple[str, str], shapes: tuple[tuple[int, ...], tuple[int, ...]], n_elements: int
    ) -> TensorChange:
        larger = math.sqrt(max(self._norm_a, self._norm_b))
        change = math.sqrt(self._norm_of_difference) / larger if larger else 0.0
        return TensorChange(
            kinds,
            shapes,
            n_elements,
            self.n_different,
            self._max_abs,
            self._max_rel,
            self._cosine(),
            math.inf if self._max_abs == math.inf else change,
            (self._n_nan[0], self._n_nan[1]),
            (self._n_infinite[0], self._n_infinite[1]),
        )

    def _cosine(self) -> float | None:
        """Return the cosine: 1 where both are nought, 0 where just one is; None beyond what float64 holds."""
        if not self._norm_a or not self._norm_b:
            return 1.0 if self._norm_a == self._norm_b else 0.0
        cosine = self._dot / math.sqrt(self._norm_a) / math.sqrt(self._norm_b)
        return max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else None


def _numbers(values: torch.Tensor) -> torch.Tensor:
    """Return elements as float64; complex ones as rows of two."""
    if values.is_complex():
        return torch.view_as_real(values.to(torch.complex128))
    if values.itemsize == 1 and values.is_floating_point():
        values = values.to(torch.float32)
    return values.to(torch.float64)


def _exact_difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    """Return |a − b| of whole numbers that float64 might not tell apart; None where it does."""
    if a.dtype != b.dtype or a.itemsize != 8 or a.is_floating_point() or a.is_complex():
        return None
    a_bits, b_bits = a.view(torch.int64), b.view(torch.int64)
    rough = (a.to(torch.float64) - b.to(torch.float64)).abs_()
    return torch.where(rough < 2.0**62, (a_bits - b_bits).abs().to(torch.float64), rough)
