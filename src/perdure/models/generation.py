"""Inputs for proofs, generated in exact integer arithmetic, so that they are the same everywhere and nobody's data."""

from __future__ import annotations

import math

import numpy as np
import torch

from perdure.records.proof import InputLeaf
from perdure.weights.dtypes import by_name, short_name

_LEAF_STEP = 2**40
_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)


def describe(tensor: torch.Tensor) -> InputLeaf:
    """Describe what is to be generated in a tensor's place: its type, its shape and the range of its finite values.

    A mask, whose values are all 0 or 1, becomes ones; a floating tensor of one value the range of ±1 around it.
    """
    dtype, shape = short_name(tensor.dtype), tuple(tensor.shape)
    values = tensor.detach().cpu()
    if tensor.dtype is torch.bool or tensor.numel() == 0:
        return InputLeaf(dtype, shape, 1, 1)
    if tensor.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if tensor.is_floating_point() or tensor.is_complex():
        values = values.double()
        finite = values[values.isfinite()]
        low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
        if bool(((values == 0) | (values == 1)).all()) and high == 1:
            return InputLeaf(dtype, shape, 1.0, 1.0)
        return InputLeaf(dtype, shape, low, high) if low < high else InputLeaf(dtype, shape, low - 1, high + 1)
    low, high = int(values.min()), int(values.max())
    return InputLeaf(dtype, shape, 1, 1) if low >= 0 and high == 1 else InputLeaf(dtype, shape, low, high)


def generate(leaf: InputLeaf, number: int, seed: int, where: str) -> torch.Tensor:
    """Return the generated tensor for a leaf.

    Value i of leaf n comes from z = mix(seed + n·2⁴⁰ + i), with the finaliser of SplitMix64 (Steele, Lea & Flood 2014) on
    unsigned integers of 64 bits. An integer is low + z mod (high − low + 1); a floating value low + u·(high − low) in
    double precision with u = (z >> 40) / 2²⁴, then rounded to the type; a complex one takes two.

    Args:
        leaf: what to generate.
        number: which leaf of the input it is.
        seed: of the proof.
        where: names the file in messages.
    """
    dtype = by_name(leaf.dtype, where)
    count = math.prod(leaf.shape)
    if dtype.is_complex:
        pairs = torch.from_numpy(_floats(leaf, number, seed, 2 * count)).view(-1, 2)
        return torch.view_as_complex(pairs).to(dtype).view(leaf.shape)
    if dtype.is_floating_point:
        return torch.from_numpy(_floats(leaf, number, seed, count)).to(dtype).view(leaf.shape)
    low, span = int(leaf.low), max(1, int(leaf.high) - int(leaf.low) + 1)
    values = (_numbers(seed, number, count) % np.uint64(min(span, 2**63))).astype(np.int64) + np.int64(low)
    return torch.from_numpy(values).to(dtype).view(leaf.shape)


def _floats(leaf: InputLeaf, number: int, seed: int, count: int) -> np.ndarray:
    fractions = (_numbers(seed, number, count) >> np.uint64(40)).astype(np.float64) / 2.0**24
    return float(leaf.low) + fractions * (float(leaf.high) - float(leaf.low))


def _numbers(seed: int, leaf: int, count: int) -> np.ndarray:
    """Return SplitMix64 of so many counters."""
    start = np.uint64((seed + leaf * _LEAF_STEP) % 2**64)
    with np.errstate(over="ignore"):
        z = (start + np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15) & _MASK
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9) & _MASK
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB) & _MASK
        return z ^ (z >> np.uint64(31))
