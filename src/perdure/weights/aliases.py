"""Which tensors lie in the memory of others: ties, views, and overlaps in part."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

MAX_OVERLAPS = 1000
"""Pairs of overlapping tensors that are listed at most; many more than any model has."""


class Extent(NamedTuple):
    """A tensor's memory: its bytes `[start, stop)` on a device, in runs of `size` bytes, a multiple of `divisor` apart."""

    name: str
    device: str
    start: int
    stop: int
    size: int
    divisor: int
    tensor: torch.Tensor

    @property
    def geometry(self) -> tuple[object, ...]:
        tensor = self.tensor
        return (self.start, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.is_conj(), tensor.is_neg())


class Sharing(NamedTuple):
    """A tensor in the memory of another: offset and stride in elements of the owner laid out contiguously."""

    of: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Relations(NamedTuple):
    """How tensors share memory: those that need not be stored, and pairs that overlap in part and are stored twice."""

    aliases: dict[str, Sharing]
    overlaps: list[tuple[str, str]]

    @property
    def related(self) -> set[str]:
        """The names of all that share memory with another."""
        pairs = [*self.overlaps, *((name, sharing.of) for name, sharing in self.aliases.items())]
        return {name for pair in pairs for name in pair}


def relate(tensors: dict[str, torch.Tensor]) -> Relations:
    """Find the tensors that lie in the memory of others.

    A tensor with the same memory, shape and strides as an earlier one is its alias. One that lies within a tensor whose
    elements fill their memory without gaps is an alias of that. All other overlaps are reported as pairs.
    """
    if not may_share(tensor.untyped_storage() for tensor in tensors.values() if tensor.layout is torch.strided):
        return Relations({}, [])
    order = {name: number for number, name in enumerate(tensors)}
    extents = [extent for name, tensor in tensors.items() if (extent := _extent(name, tensor))]
    aliases: dict[str, Sharing] = {}
    overlaps: list[tuple[str, str]] = []
    for group in _touching(extents):
        group.sort(key=lambda extent: order[extent.name])
        _relate_group(group, aliases, overlaps)
    return Relations({name: aliases[name] for name in tensors if name in aliases}, overlaps)


def may_share(storages: Iterable[torch.UntypedStorage]) -> bool:
    """Tell whether storages overlap or occur twice: a quick look that spares most models the exact one."""
    end = -1
    for start, n_bytes in sorted([(storage.data_ptr(), storage.nbytes()) for storage in storages]):
        if n_bytes and start < end:
            return True
        end = max(end, start + n_bytes)
    return False


def _extent(name: str, tensor: torch.Tensor) -> Extent | None:
    if tensor.layout is not torch.strided or tensor.numel() == 0 or tensor.is_quantized:
        return None
    start = tensor.data_ptr()
    span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    stop = start + span * tensor.element_size()
    return Extent(name, str(tensor.device), start, stop, *_runs(tensor), tensor)


def _runs(tensor: torch.Tensor) -> tuple[int, int]:
    """Return the bytes of the runs that a tensor's memory consists of, and a divisor of the steps between them."""
    run = 1
    steps: list[int] = []
    for size, stride in _axes(tensor):
        if stride == run and not steps:
            run *= size
        else:
            steps.append(stride)
    return run * tensor.element_size(), math.gcd(*steps) * tensor.element_size()


def _touching(extents: list[Extent]) -> list[list[Extent]]:
    """Group extents that overlap, directly or through others; groups of one are left out."""
    groups: list[list[Extent]] = []
    end = -1
    device = ""
    for extent in sorted(extents, key=lambda extent: (extent.device, extent.start, -extent.stop)):
        if extent.device == device and extent.start < end:
            groups[-1].append(extent)
        else:
            groups.append([extent])
            end = -1
        end, device = max(end, extent.stop), extent.device
    return [group for group in groups if len(group) > 1]


def _relate_group(group: list[Extent], aliases: dict[str, Sharing], overlaps: list[tuple[str, str]]) -> None:
    firsts: dict[tuple[object, ...], Extent] = {}
    for extent in group:
        firsts.setdefault(extent.geometry, extent)
    owners, stored = _Stretches(), _Neighbours()
    for extent in sorted(firsts.values(), key=_largest_first):
        around = sorted(owners.near(extent.start, extent.start + 1), key=_largest_first)
        sharing = next((found for owner in around if (found := _within(extent, owner))), None)
        if sharing:
            aliases[extent.name] = sharing
            continue
        if len(overlaps) < MAX_OVERLAPS:
            overlaps += [(other.name, extent.name) for other in stored.near(extent) if _overlap(other, extent)]
        stored.add(extent)
        if is_dense(extent.tensor):
            owners.add(extent)
    for extent in group:
        first = firsts[extent.geometry]
        if first is not extent:
            aliases[extent.name] = aliases.get(first.name) or _same(first)


def _largest_first(extent: Extent) -> tuple[int, bool]:
    """Order extents so that a tensor comes after all that it may lie in."""
    return extent.start - extent.stop, not is_dense(extent.tensor)


class _Stretches:
    """Extents in the order of memory, so that those near a place are found without a look at all others."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._extents: list[Extent] = []
        self._longest = 0

    def add(self, extent: Extent) -> None:
        at = bisect.bisect_right(self._starts, extent.start)
        self._starts.insert(at, extent.start)
        self._extents.insert(at, extent)
        self._longest = max(self._longest, extent.stop - extent.start)

    def near(self, start: int, stop: int) -> list[Extent]:
        """Return all extents that reach into `[start, stop)`, and perhaps more."""
        first = bisect.bisect_right(self._starts, start - self._longest)
        return self._extents[first : bisect.bisect_left(self._starts, stop)]


class _Neighbours:
    """Extents by their runs' distance and what remains of their start: those of other remainders never meet."""

    def __init__(self) -> None:
        self._by_step: dict[tuple[int, int, int], dict[int, _Stretches]] = {}

    def add(self, extent: Extent) -> None:
        self._by_step.setdefault(_step(extent), {}).setdefault(_remainder(extent), _Stretches()).add(extent)

    def near(self, extent: Extent) -> Iterator[Extent]:
        """Give the extents that may share a byte with this one."""
        for step, by_remainder in self._by_step.items():
            own = by_remainder.get(_remainder(extent))
            rows = by_remainder.values() if step != _step(extent) else [own] if own else []
            for row in rows:
                yield from row.near(extent.start, extent.stop)


def _step(extent: Extent) -> tuple[int, int, int]:
    return extent.divisor, extent.size, extent.start % extent.size


def _remainder(extent: Extent) -> int:
    return extent.start % extent.divisor if extent.divisor and extent.divisor % extent.size == 0 else 0


def _overlap(one: Extent, other: Extent) -> bool:
    """Tell whether two tensors share a byte; where that would take long to find out, say that they do."""
    if one.start >= other.stop or other.start >= one.stop:
        return False
    try:
        # NumPy's stubs know only the two named amounts of work, its documentation any number.
        return np.shares_memory(
            np.asarray(_Memory(one)),
            np.asarray(_Memory(other)),
            max_work=_MAX_WORK,  # type: ignore[arg-type]
        )
    except np.exceptions.TooHardError:
        return True


_MAX_WORK = 10_000
"""Steps that NumPy's exact search may take, a few nanoseconds each."""


class _Memory:
    """Describes a tensor's memory to NumPy, which does not look into it; it may be that of another device."""

    def __init__(self, extent: Extent) -> None:
        n_bytes = extent.tensor.element_size()
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(extent.tensor.shape),
            "typestr": f"|V{n_bytes}",
            "data": (extent.start, True),
            "strides": tuple(step * n_bytes for step in extent.tensor.stride()),
        }


def _same(first: Extent) -> Sharing:
    shape = tuple(first.tensor.shape)
    return Sharing(first.name, 0, shape, contiguous_stride(shape))


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor, in elements."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_dense(tensor: torch.Tensor) -> bool:
    """Tell whether the elements fill their memory exactly: a contiguous tensor with its axes in some order."""
    step = 1
    for size, stride in _axes(tensor):
        if stride != step:
            return False
        step *= size
    return not (tensor.is_conj() or tensor.is_neg())


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Tell whether elements may lie in the same memory, as those of an expanded tensor do."""
    span = 0
    for size, stride in _axes(tensor):
        if stride <= span:
            return True
        span += (size - 1) * stride
    return False


def _axes(tensor: torch.Tensor) -> list[tuple[int, int]]:
    """Return (size, stride) of the axes longer than one, from the smallest stride."""
    pairs = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
    return sorted(pairs, key=lambda pair: pair[1])


def _within(extent: Extent, owner: Extent) -> Sharing | None:
    """Express a tensor by offset and strides in a dense owner laid out contiguously, where that is possible."""
    tensor, base = extent.tensor, owner.tensor
    if tensor.dtype != base.dtype or tensor.is_conj() or tensor.is_neg():
        return None
    if extent.start < owner.start or extent.stop > owner.stop or (extent.start - owner.start) % base.element_size():
        return None
    offset = (extent.start - owner.start) // base.element_size()
    shape, strides = tuple(tensor.shape), tensor.stride()
    if base.is_contiguous():
        return Sharing(owner.name, offset, shape, strides)
    return _within_permuted(base, owner.name, offset, shape, strides)


def _within_permuted(
    base: torch.Tensor, name: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> Sharing | None:
    """Do the same for an owner whose axes are permuted.

    Offset and strides are written as digits along the owner's axes. A step keeps its digits wherever it is taken if no
    axis ever carries over; then they can be weighed with the contiguous strides instead.
    """
    axes = _axes(base)
    weights = {
        stride: weight
        for size, stride, weight in zip(base.shape, base.stride(), contiguous_stride(tuple(base.shape)), strict=True)
        if size > 1
    }
    reach = digits = _digits(offset, axes)
    steps = [_digits(step, axes) for step in strides]
    for size, step in zip(shape, steps, strict=True):
        reach = [a + (size - 1) * b for a, b in zip(reach, step, strict=True)]
    if any(total >= size for total, (size, _) in zip(reach, axes, strict=True)):
        return None

    def weigh(parts: list[int]) -> int:
        return sum(part * weights[stride] for part, (_, stride) in zip(parts, axes, strict=True))

    return Sharing(name, weigh(digits), shape, tuple(weigh(step) for step in steps))


def _digits(number: int, axes: list[tuple[int, int]]) -> list[int]:
    """Write an offset in elements as positions along axes, given from the smallest stride."""
    digits: list[int] = []
    for position, (_, stride) in enumerate(axes):
        following = axes[position + 1][1] if position + 1 < len(axes) else None
        digits.append((number if following is None else number % following) // stride)
    return digits
