"""Statistics of the values of tensors: read one after the other, block by block, computed in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch

from perdure.records.manifest import PARTS
from perdure.records.summary.summary import ValueStatistics
from perdure.summaries.spectral_norms import spectral_norm
from perdure.weights.blocks import Blocks
from perdure.weights.dtypes import can_cast, short_name
from perdure.weights.opening import Weights

BINS = 64
"""The bins of a histogram."""

_BLOCK_ELEMENTS = 2**18

Progress = Callable[[int, int], None]
"""Told how many bytes are done anew and how many there are in all."""


def statistics_of(tensors: Mapping[str, torch.Tensor], progress: Progress | None = None) -> dict[str, ValueStatistics]:
    """Compute statistics of the values of each tensor, in bounded memory.

    A tensor is read two times: first verified, where its file has checksums, for the moments, then for the histogram; and
    for the spectral norm of a large matrix some times more. It is never held in memory as a whole, unless it is sparse,
    quantized by PyTorch, or small.

    Of complex numbers, the statistics are those of their absolute values (the spectral norm is the matrix's own); of
    sparse tensors, what is not stored counts as zeros; quantized ones are dequantized. Whole numbers beyond 2**53 are
    rounded to float64.

    Args:
        tensors: by name: an opened file, or those of a module.
        progress: called as `progress(n_bytes, total_bytes)` whenever a tensor of that many bytes is done.

    Returns:
        The statistics by name. Tensors without values (on `meta`), and those of types with which PyTorch cannot compute,
        are left out.

    Raises:
        DigestError, CorruptError: the bytes of a file are not those that were saved.
    """
    where = tensors.path if isinstance(tensors, Weights) else "the tensors"
    blocks = Blocks(tensors, where)
    sizes = _sizes(tensors)
    total_bytes = sum(sizes.values())
    found: dict[str, ValueStatistics] = {}
    for name, n_bytes in sizes.items():
        values = _values(tensors, name, blocks)
        if values is not None:
            found[name] = _statistics(values)
        if progress is not None:
            progress(n_bytes, total_bytes)
    return found


def _sizes(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Return the bytes of each tensor; in a file, 0 for one that lies in the memory of another."""
    if isinstance(tensors, Weights):
        return {name: spec.n_bytes for name, spec in tensors.specs.items()}
    return {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}


class _Values:
    """The values of one dense tensor, as they are read."""

    n_implicit = 0
    """How many zeros there are beside those that `numbers` yields."""

    def __init__(self, blocks: Blocks, name: str, shape: tuple[int, ...]) -> None:
        self._blocks, self._name = blocks, name
        self.shape = shape

    def numbers(self) -> Iterator[torch.Tensor]:
        """Yield them as float64, block by block."""
        return map(_as_float64, self._blocks.of(self._name, _BLOCK_ELEMENTS))

    def stretch(self, start: int, stop: int) -> torch.Tensor:
        """Return some of them, as they are, flat."""
        return self._blocks.stretch(self._name, start, stop)


class _SparseValues(_Values):
    """The values of a sparse tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        stored = tensor.to_sparse_coo().coalesce()
        values = stored.values()
        super().__init__(Blocks({"values": values}, "a sparse tensor"), "values", tuple(tensor.shape))
        self.n_implicit = tensor.numel() - values.numel()
        inner = values[:1].numel() if len(values) else 1
        steps = [math.prod(tensor.shape[axis + 1 :]) for axis in range(stored.sparse_dim())]
        first = sum(index * step for index, step in zip(stored.indices(), steps, strict=True))
        self._places = (torch.as_tensor(first).view(-1, 1) + torch.arange(inner)).view(-1)
        self._flat = values.reshape(-1)

    def stretch(self, start: int, stop: int) -> torch.Tensor:
        low, high = torch.searchsorted(self._places, torch.tensor([start, stop])).tolist()
        found = torch.zeros(stop - start, dtype=self._flat.dtype)
        found[self._places[low:high] - start] = self._flat[low:high]
        return found


def _values(tensors: Mapping[str, torch.Tensor], name: str, blocks: Blocks) -> _Values | None:
    """Return what is to be read of a tensor; None where it has no values that can be computed with."""
    if isinstance(tensors, Weights):
        dtype, shape = tensors.specs[name].dtype, tensors.specs[name].shape
        composed = tensors.restorer.stored.composed.get(tensors.stored_name(name))
        if composed is None or composed.layout not in PARTS:
            return _Values(blocks, name, shape) if _is_computable(dtype) else None
    tensor = tensors[name].detach()
    if tensor.is_meta:
        return None
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    if not _is_computable(short_name(tensor.dtype)):
        return None
    if tensor.layout is torch.strided:
        return _Values(Blocks({name: tensor}, name), name, tuple(tensor.shape))
    return _SparseValues(tensor.cpu())


def _is_computable(dtype: str) -> bool:
    return dtype.startswith("complex") or can_cast(dtype, "float32")


def _as_float64(block: torch.Tensor) -> torch.Tensor:
    if block.is_complex():
        return block.to(torch.complex128).abs()
    small = block.itemsize <= 2  # exact in float32, by way of which it is faster, and possible for the smallest types
    return (block.to(torch.float32) if small else block).to(torch.float64)


def _statistics(values: _Values) -> ValueStatistics:
    moments = _Moments()
    for block in values.numbers():
        moments.add(block)
    moments.add_zeros(values.n_implicit)
    if not moments.n:
        return ValueStatistics(None, None, None, None, 0, moments.n_nan, moments.n_infinite, None, ())
    return ValueStatistics(
        mean=moments.mean,
        std=_deviation(values, moments),
        min=moments.min,
        max=moments.max,
        n_zeros=moments.n_zeros,
        n_nan=moments.n_nan,
        n_infinite=moments.n_infinite,
        spectral_norm=_spectral_norm(values, moments),
        histogram=_histogram(values, moments),
    )


class _Moments:
    """What is summed up over blocks.

    Attributes:
        n: how many finite numbers there were.
        squares: the sum of their squared differences from their mean.
    """

    def __init__(self) -> None:
        self.n = self.n_zeros = self.n_nan = self.n_infinite = 0
        self.mean = self.squares = 0.0
        self.min, self.max = math.inf, -math.inf

    def add(self, block: torch.Tensor) -> None:
        """Take a block of float64."""
        finite = _finite(block)
        if finite.numel() < block.numel():
            n_nan = int(block.isnan().sum())
            self.n_nan += n_nan
            self.n_infinite += block.numel() - finite.numel() - n_nan
        n = finite.numel()
        if n:
            mean = float(finite.sum()) / n
            mean = mean if math.isfinite(mean) else float((finite / n).sum())
            low, high = (float(value) for value in finite.aminmax())
            self.n_zeros += n - int(finite.count_nonzero())
            self._merge(n, mean, float((finite - mean).square_().sum()), low, high)

    def add_zeros(self, n: int) -> None:
        """Take zeros that are not stored."""
        if n:
            self.n_zeros += n
            self._merge(n, 0.0, 0.0, 0.0, 0.0)

    def _merge(self, n: int, mean: float, squares: float, low: float, high: float) -> None:
        """Take what was summed up elsewhere (Chan, Golub and LeVeque, 1979)."""
        total, difference = self.n + n, mean - self.mean
        self.squares += squares + difference * difference * (self.n * n / total)
        self.mean += difference * (n / total)
        self.n = total
        self.min, self.max = min(self.min, low), max(self.max, high)


def _finite(block: torch.Tensor) -> torch.Tensor:
    """Return the finite numbers of a block."""
    if math.isfinite(float(block.sum())):
        return block
    return block[block.isfinite()]


def _deviation(values: _Values, moments: _Moments) -> float:
    if math.isfinite(moments.squares):
        return math.sqrt(moments.squares / moments.n)
    scale = max(abs(moments.min), abs(moments.max))
    squares = moments.mean / scale * (moments.mean / scale) * values.n_implicit
    for block in values.numbers():
        squares += float((_finite(block) / scale - moments.mean / scale).square_().sum())
    return scale * math.sqrt(squares / moments.n)


def _histogram(values: _Values, moments: _Moments) -> tuple[int, ...]:
    low, high = moments.min, moments.max
    if low == high:
        return (moments.n,)
    counts = torch.zeros(BINS, dtype=torch.int64, device="cpu")
    for block in values.numbers():
        counts += _binned(_finite(block), low, high)
    if values.n_implicit:
        counts += values.n_implicit * _binned(torch.zeros(1, dtype=torch.float64, device="cpu"), low, high)
    return tuple(counts.tolist())


def _binned(block: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Count in equal bins; of numbers whose range is beyond float64, a quarter of each is taken."""
    factor = 1.0 if math.isfinite((high - low) * BINS) else 1 / (4 * BINS)
    low, high = low * factor, high * factor
    places = (block * factor).sub_(low).mul_(BINS).div_(high - low).clamp_(max=BINS - 1)
    return torch.bincount(places.to(torch.uint8), minlength=BINS)


def _spectral_norm(values: _Values, moments: _Moments) -> float | None:
    shape = values.shape
    if len(shape) < 2 or moments.n_nan or moments.n_infinite:
        return None
    matrix = shape[0], math.prod(shape[1:])
    return spectral_norm(values.stretch, matrix, max(abs(moments.min), abs(moments.max)))
