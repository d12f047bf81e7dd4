"""The filters of a resize as tables: which pixels along a side make up each new one, and with what weights.

With antialias they are Pillow's, term for term (`precompute_coeffs` of its Resample.c), so that what is computed with them
in whole numbers has Pillow's bits. Without, they are those of PyTorch's `interpolate`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from perdure.records.preprocessing import Filter

Array = np.ndarray
_WEIGHT_BITS = 22
_BLOCK = 16
"""How many new pixels are computed together: fewer make small products, more multiply by more zeros."""


class Blocks(NamedTuple):
    """A side's new pixels in runs of the same length, each made of a run of old ones; what is too many is cut off after.

    Attributes:
        places: (B, L) int64: the old pixels of each run.
        weights: (B, M, L) float64: what each of its M new pixels takes of them.
    """

    places: Array
    weights: Array


class _Taps(NamedTuple):
    """The same pixel by pixel: (K, n) places and weights, those of a new pixel adding up to 1; 0 is there to fill up."""

    places: Array
    weights: Array


def nearest(n_old: int, n_new: int, *, adding_up: bool) -> Array:
    """Return which old pixel each new one is: (n,) int64.

    With `adding_up` the steps are added one by one, as Pillow does for 8-bit pixels: where a place falls on the border of
    two pixels, rounding decides.
    """
    step = n_old / n_new
    steps = np.full(n_new, step)
    steps[0] *= 0.5
    places = np.add.accumulate(steps) if adding_up else (np.arange(n_new) + 0.5) * step
    return np.minimum(places.astype(np.int64), n_old - 1)


@functools.lru_cache(maxsize=16)
def blocks(filter: Filter, n_old: int, n_new: int, antialias: bool, whole: bool) -> Blocks:
    """Return what `n_new` pixels are made of, out of `n_old` along the same side.

    `whole` rounds the weights as Pillow does for 8-bit pixels, to multiples of 2⁻²².
    """
    scale = n_old / n_new
    centres = (np.arange(n_new) + 0.5) * scale
    taps = _smoothing(filter, centres, scale, n_old) if antialias else _interpolating(filter, centres, n_old)
    weights = _rounded(taps.weights) if whole else taps.weights
    n_blocks = -(-n_new // _BLOCK)
    block, row = np.divmod(np.arange(n_new), _BLOCK)
    starts = np.minimum.reduceat(taps.places.min(axis=0), np.arange(0, n_new, _BLOCK))
    columns = taps.places - starts[block]
    length = int(columns.max()) + 1
    dense = np.zeros((n_blocks, min(_BLOCK, n_new), length))
    for column, weight in zip(columns, weights, strict=True):
        dense[block, row, column] += weight
    return Blocks(np.minimum(starts[:, None] + np.arange(length), n_old - 1), dense)


def _rounded(weights: Array) -> Array:
    scaled = weights * (1 << _WEIGHT_BITS)
    return np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)) / (1 << _WEIGHT_BITS)


def _smoothing(filter: Filter, centres: Array, scale: float, n_old: int) -> _Taps:
    """When shrinking, the filter is as wide as the old pixels that fall on a new one; beyond the edge nothing counts."""
    function, support = _FUNCTIONS[filter]
    widening = max(scale, 1.0)
    reach = support * widening
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + reach + 0.5).astype(np.int64), n_old)
    places = first + np.arange((end - first).max())[:, None]
    weights = function((places - centres + 0.5) * (1.0 / widening))
    weights[places >= end] = 0
    total = weights.sum(axis=0)
    return _Taps(np.minimum(places, n_old - 1), weights / np.where(total == 0, 1, total))


def _interpolating(filter: Filter, centres: Array, n_old: int) -> _Taps:
    """Only the nearest old pixels count; beyond the edge, the one at the edge is repeated."""
    function, support = _FUNCTIONS[filter] if filter != "bicubic" else (_steep_cubic, 2.0)
    reach = math.ceil(support)
    places = np.floor(centres - 0.5).astype(np.int64) + np.arange(1 - reach, reach + 1)[:, None]
    weights = function(places - centres + 0.5)
    return _Taps(places.clip(0, n_old - 1), weights / weights.sum(axis=0))


def _box(x: Array) -> Array:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: Array) -> Array:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _hamming(x: Array) -> Array:
    angle = np.abs(x) * math.pi
    return np.where(np.abs(x) < 1, _sinc(x) * (0.54 + 0.46 * np.cos(angle)), 0.0)


def _cubic(x: Array, a: float = -0.5) -> Array:
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _steep_cubic(x: Array) -> Array:
    """The cubic of OpenCV, and of PyTorch without antialias."""
    return _cubic(x, -0.75)


def _lanczos(x: Array) -> Array:
    return np.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / 3), 0.0)


def _sinc(x: Array) -> Array:
    angle = x * math.pi
    return np.where(x == 0, 1.0, np.sin(angle) / np.where(x == 0, 1.0, angle))


_FUNCTIONS: dict[Filter, tuple[Callable[[Array], Array], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""Each with how far it reaches to either side."""
