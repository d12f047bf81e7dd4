"""Tensors that lie in pieces, as one run of bytes each: a piece is read where it lies, and only when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

from perdure.disk.faults import broken, enough_memory
from perdure.disk.sources import ByteSource
from perdure.errors import LimitError
from perdure.foreign.inert import Storage, Tensor
from perdure.foreign.shapes import contiguous_stride
from perdure.records.dtypes import ENCODED_BYTES

MAX_AXES = 30
_MAX_COMPARED = 2000
_MAX_SEEN = 100


class Piece(NamedTuple):
    """A box within a tensor: where it begins in each axis, its sizes, and the tensor that fills it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    tensor: Tensor


def assemble(name: str, dtype: str, shape: tuple[int, ...], pieces: list[Piece], where: str) -> Tensor:
    """Make a tensor of pieces, which must fill it without overlap or hole; nothing is read.

    Args:
        name: the tensor's.
        dtype: its type, which is that of all pieces.
        shape: its sizes.
        pieces: in any order; each tensor has the sizes of its box.
        where: names the file in messages.

    Raises:
        CorruptError: the pieces do not fill the shape.
        LimitError: more axes than are read, or pieces that no writer would cut so.
    """
    if len(shape) > MAX_AXES:
        raise LimitError(f"reading {where}: {name[:200]!r} has {len(shape)} axes; at most {MAX_AXES} are put together.")
    _check_filled(name, shape, pieces, where)
    whole = next((piece for piece in pieces if piece.sizes == shape), None)
    if whole:
        return whole.tensor
    pieces = [piece for piece in pieces if 0 not in piece.sizes]
    source = AssembledSource(name, shape, ENCODED_BYTES[dtype], pieces, where)
    return Tensor(Storage(source, 0, source.n_bytes), dtype, shape, contiguous_stride(shape))


class AssembledSource(ByteSource):
    """The bytes of a tensor, in order, which lie in pieces of other sources.

    Args:
        name: the tensor's, for messages.
        shape: its sizes.
        item_bytes: the size of an element.
        pieces: that fill it.
        where: names the file in messages.
    """

    def __init__(self, name: str, shape: tuple[int, ...], item_bytes: int, pieces: list[Piece], where: str) -> None:
        self.where = f"{where}, tensor {name[:200]!r}"
        self.n_bytes = math.prod(shape) * item_bytes
        self._shape = (*shape, item_bytes)
        self._distances = contiguous_stride(self._shape)
        self._boxes = [_Box(piece, item_bytes, self.where) for piece in pieces]
        self.parallel = all(box.source.parallel for box in self._boxes)

    def read_some(self, offset: int, views: list[memoryview]) -> int:
        import numpy as np

        n_bytes = min(len(views[0]), self.n_bytes - offset)
        if n_bytes <= 0:
            return 0
        self._fill((), offset, np.frombuffer(views[0], np.uint8)[:n_bytes])
        return n_bytes

    def _fill(self, fixed: tuple[int, ...], start: int, out: Any) -> None:
        """Fill `out` with bytes from `start` on of the slice in which the first axes are at `fixed`.

        What are whole slices along the next axis is copied at once, the rest at both ends slice by slice.
        """
        distance = self._distances[len(fixed)]
        first, last = -(-start // distance), (start + len(out)) // distance
        if first > last:
            self._fill((*fixed, last), start % distance, out)
            return
        head, body = first * distance - start, (last - first) * distance
        if head:
            self._fill((*fixed, first - 1), distance - head, out[:head])
        if body:
            self._copy(fixed, first, last, out[head : head + body])
        if head + body < len(out):
            self._fill((*fixed, last), 0, out[head + body :])

    def _copy(self, fixed: tuple[int, ...], first: int, last: int, out: Any) -> None:
        """Fill `out` with the slices from `first` to `last` along the axis behind `fixed`."""
        axis = len(fixed)
        whole = out.reshape(last - first, *self._shape[axis + 1 :])
        for box in self._boxes:
            if not box.holds(fixed):
                continue
            low = max(first, box.offsets[axis])
            high = min(last, box.offsets[axis] + box.sizes[axis])
            if low < high:
                inner = [slice(begin, begin + n) for begin, n in zip(box.offsets, box.sizes, strict=True)][axis + 1 :]
                box.read(fixed, low, high, whole[(slice(low - first, high - first), *inner)])


class _Box:
    """A piece whose bytes lie in order, with the bytes of an element as its last axis."""

    def __init__(self, piece: Piece, item_bytes: int, where: str) -> None:
        tensor = piece.tensor
        self.offsets = (*piece.offsets, 0)
        self.sizes = (*piece.sizes, item_bytes)
        self._distances = contiguous_stride(self.sizes)
        self.source, self._position = tensor.storage.source, tensor.storage.position + tensor.offset * item_bytes
        if not _in_order(tensor):
            self.source, self._position = _StraightenedSource(tensor, item_bytes, where), 0

    def holds(self, fixed: tuple[int, ...]) -> bool:
        """Tell whether the first axes pass through it at these places."""
        return all(begin <= at < begin + n for at, begin, n in zip(fixed, self.offsets, self.sizes, strict=False))

    def read(self, fixed: tuple[int, ...], low: int, high: int, place: Any) -> None:
        """Read the slices from `low` to `high` of the whole tensor's next axis into an array."""
        import numpy as np

        begins = [at - begin for at, begin in zip((*fixed, low), self.offsets, strict=False)]
        position = self._position + sum(n * step for n, step in zip(begins, self._distances, strict=False))
        into = place if place.flags.c_contiguous else np.empty(place.shape, np.uint8)
        self.source.read_into(position, [into.reshape(-1).data])
        if into is not place:
            place[...] = into


def _in_order(tensor: Tensor) -> bool:
    pairs = zip(tensor.shape, tensor.stride, contiguous_stride(tensor.shape), strict=True)
    return all(size == 1 or stride == step for size, stride, step in pairs)


class _StraightenedSource(ByteSource):
    """The bytes, in order, of a tensor whose axes lie in memory in another order; kept once they were read.

    Args:
        tensor: it.
        item_bytes: the size of an element.
        where: names the file in messages.

    Raises:
        CorruptError: it has more elements than its storage; a piece is no expanded view.
    """

    def __init__(self, tensor: Tensor, item_bytes: int, where: str) -> None:
        self.where = where
        self.n_bytes = math.prod(tensor.shape) * item_bytes
        self._tensor, self._item_bytes = tensor, item_bytes
        if self.n_bytes > tensor.storage.n_bytes:
            raise broken(where, "a piece of it has more elements than were stored.")

    @cached_property
    def _content(self) -> memoryview:
        import numpy as np

        tensor, item = self._tensor, self._item_bytes
        with enough_memory(self.where, 2 * self.n_bytes):
            stored = tensor.storage.source.read(tensor.storage.position, tensor.storage.n_bytes)
            flat = np.frombuffer(stored, np.uint8)[tensor.offset * item :]
            strides = (*(stride * item for stride in tensor.stride), 1)
            seen = np.lib.stride_tricks.as_strided(flat, (*tensor.shape, item), strides, writeable=False)
            return np.ascontiguousarray(seen).reshape(-1).data

    def read_some(self, offset: int, views: list[memoryview]) -> int:
        part = self._content[offset : offset + len(views[0])]
        views[0][: len(part)] = part
        return len(part)


def _check_filled(name: str, shape: tuple[int, ...], pieces: Iterable[Piece], where: str) -> None:
    """See that boxes fill a shape: they lie in it, have its volume together, and do not overlap."""
    boxes: list[Piece] = []
    for piece in pieces:
        box = f"a piece at {list(piece.offsets)[:8]} of the sizes {list(piece.sizes)[:8]}"
        if len(piece.offsets) != len(shape) or len(piece.sizes) != len(shape):
            raise broken(where, f"{name[:200]!r} has {box}, which has not its {len(shape)} axes.")
        if any(not 0 <= a <= a + n <= size for a, n, size in zip(piece.offsets, piece.sizes, shape, strict=True)):
            raise broken(where, f"{name[:200]!r} has {box}, which reaches beyond its shape {list(shape)[:8]}.")
        if 0 not in piece.sizes:
            boxes.append(piece)
    volume, found = math.prod(shape), sum([math.prod(box.sizes) for box in boxes])
    if found != volume:
        fault = "leave a hole" if found < volume else "overlap"
        raise broken(where, f"the pieces of {name[:200]!r} {fault}: they have {found} elements, and it has {volume}.")
    waiting, n_seen = [boxes], 0
    while waiting:
        group = waiting.pop()
        n_seen += len(group)
        if n_seen > _MAX_SEEN * len(boxes):
            raise _odd(name, where)
        parts = _cut(group, len(shape))
        if len(parts) > 1:
            waiting += [part for part in parts if len(part) > 1]
        elif len(group) > 1:
            _compare(name, group, where)


def _cut(boxes: list[Piece], n_axes: int) -> list[list[Piece]]:
    """Divide boxes by planes that pass through none of them, along the first axis that has any."""
    for axis in range(n_axes):
        parts: list[list[Piece]] = []
        end = -1
        for box in sorted(boxes, key=lambda box: box.offsets[axis]):
            if box.offsets[axis] >= end:
                parts.append([])
            parts[-1].append(box)
            end = max(end, box.offsets[axis] + box.sizes[axis])
        if len(parts) > 1:
            return parts
    return [boxes]


def _compare(name: str, boxes: list[Piece], where: str) -> None:
    """Compare boxes that no plane divides, each with each."""
    if len(boxes) > _MAX_COMPARED:
        raise _odd(name, where)
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            if all(
                max(a, b) < min(a + n, b + m)
                for a, n, b, m in zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
            ):
                places = f"{list(one.offsets)[:8]} and {list(other.offsets)[:8]}"
                raise broken(where, f"pieces of {name[:200]!r} overlap: those at {places}.")


def _odd(name: str, where: str) -> LimitError:
    return LimitError(f"reading {where}: {name[:200]!r} is cut into pieces in a way that no writer would.")
