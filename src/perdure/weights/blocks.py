"""Tensors whose elements come in blocks of bounded size, however large they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from perdure.disk.streaming import BlockReader
from perdure.errors import CorruptError
from perdure.foreign.gguf.types import BLOCK_TYPES
from perdure.weights.dequantizing import dequantized
from perdure.weights.opening import Weights
from perdure.weights.storing import as_integers


class Blocks:
    """Gives the elements of dense tensors in logical order. Of a file it reads but these, and maps nothing.

    What is no plain stored tensor there, such as a view of another, is taken from the opened file as a whole, except for
    the blocks of GGUF.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], where: str) -> None:
        """Take the tensors of a file or of memory.

        Args:
            tensors: by name.
            where: what they are called in messages.
        """
        self._tensors = tensors
        self._weights = tensors if isinstance(tensors, Weights) else None
        self._reader = BlockReader(where) if self._weights else None

    def of(self, name: str, n_elements: int) -> Iterator[torch.Tensor]:
        """Give a tensor's elements, `n_elements` at a time, flat; each block only until the next.

        Raises:
            DigestError: the bytes are not those that were saved; known when the last block was taken.
        """
        stored = self._stored(name)
        if stored is None or self._weights is None or self._reader is None:
            yield from self._of_memory(self._tensors[name].detach(), n_elements)
            return
        old, layout = stored
        dtype, _ = self._weights.restorer.stored_type(old)
        unit_elements, unit_bytes = _unit(layout, dtype)
        n_bytes = max(n_elements // unit_elements, 1) * unit_bytes
        for piece in self._reader.blocks(self._weights.restorer.stored.file_of(old), old, n_bytes):
            yield _decoded(torch.frombuffer(piece.view(writable=True), dtype=dtype), layout)

    def stretch(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the elements `[start, stop)` of a tensor, flat. What is read from a file is not verified."""
        stored = self._stored(name)
        if stored is None or self._weights is None:
            return next(self._of_memory(self._tensors[name].detach(), stop - start, start, stop))
        old, layout = stored
        file, (dtype, _) = self._weights.restorer.stored.file_of(old), self._weights.restorer.stored_type(old)
        unit_elements, unit_bytes = _unit(layout, dtype)
        first, last = start // unit_elements, -(-stop // unit_elements)
        content = bytearray((last - first) * unit_bytes)
        file.source.read_into(file.offset(old) + first * unit_bytes, [memoryview(content)])
        values = _decoded(torch.frombuffer(content, dtype=dtype), layout)
        return values[start - first * unit_elements :][: stop - start]

    def _stored(self, name: str) -> tuple[str, str] | None:
        """Return the stored tensor that a tensor's elements are, and its block format; None where there is none."""
        if self._weights is None:
            return None
        stored, old = self._weights.restorer.stored, self._weights.stored_name(name)
        if old in stored:
            return old, ""
        composed = stored.composed.get(old)
        if composed is None or composed.layout not in BLOCK_TYPES or "blocks" not in composed.parts:
            return None
        blocks, kind = composed.parts["blocks"], BLOCK_TYPES[composed.layout]
        n_bytes = math.prod(composed.shape) // kind.n_elements * kind.n_bytes
        if blocks in stored and stored.entry(blocks).n_bytes != n_bytes:
            raise CorruptError(f"reading {stored.where}: tensor {name!r} does not have the bytes of its blocks.")
        return (blocks, composed.layout) if blocks in stored else None

    def _of_memory(
        self, tensor: torch.Tensor, n_elements: int, start: int = 0, stop: int | None = None
    ) -> Iterator[torch.Tensor]:
        plain = tensor if tensor.is_conj() or tensor.is_neg() else as_integers(tensor)
        end = tensor.numel() if stop is None else stop
        for first in range(start, end, n_elements):
            block = _part(plain, first, min(first + n_elements, end))
            yield block.resolve_conj().resolve_neg().cpu().contiguous().view(tensor.dtype)


def _unit(layout: str, dtype: torch.dtype) -> tuple[int, int]:
    """Return how many elements stand together in the file, and in how many bytes."""
    return (BLOCK_TYPES[layout].n_elements, BLOCK_TYPES[layout].n_bytes) if layout else (1, dtype.itemsize)


def _decoded(values: torch.Tensor, layout: str) -> torch.Tensor:
    if not layout:
        return values
    n_elements, n_bytes = _unit(layout, values.dtype)
    blocks = values.view(-1, n_bytes)
    return dequantized(layout, blocks, (len(blocks), n_elements)).view(-1)


def _part(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Return the elements `[start, stop)` of a tensor in logical order, flat, without a copy of much more than these."""
    if tensor.dim() <= 1 or tensor.is_contiguous():
        return tensor.reshape(-1)[start:stop]
    row = math.prod(tensor.shape[1:])
    first, last = start // row, (stop - 1) // row
    if first == last:
        return _part(tensor[first], start - first * row, stop - first * row)
    head = _part(tensor[first], start - first * row, row)
    tail = _part(tensor[last], 0, stop - last * row)
    return torch.cat([head, tensor[first + 1 : last].reshape(-1), tail])
