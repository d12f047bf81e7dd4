"""The block formats of GGUF in which four or eight weights together are a point of a grid, times a scale.

Functions as in `gguf_plain_blocks`, after the same definitions.
"""

from __future__ import annotations

import numpy as np

from perdure.foreign.gguf.bits import Bytes, Floats, fields, halves, scaled, signs, words
from perdure.foreign.gguf.grids import grid

_SHIFT = np.float32(0.125)
"""What is added to or taken from the points of IQ1_S and IQ1_M, all along a run."""

_SIGNS_OF_SEVEN_BITS = np.array([bits | bits.bit_count() % 2 << 7 for bits in range(128)], np.uint8)
"""Eight signs from seven bits: the number of those that are negative is even."""


def _signed(points: Floats, eight_signs: Bytes, scales: Floats) -> Floats:
    """Return points with a bit of sign for each coordinate, in equal runs with a scale each."""
    return scaled(points.reshape(len(scales), -1) * signs(eight_signs), scales)


def _packed_signs(packed: np.ndarray) -> Bytes:
    """Return four bytes of signs from each 32-bit number, which has seven bits for each."""
    sevens = packed[:, :, None] >> np.array([0, 7, 14, 21], np.uint32) & np.uint32(127)
    return _SIGNS_OF_SEVEN_BITS[sevens.reshape(len(packed), -1)]


def _fraction(scale: Floats, numbers: np.ndarray, of: float) -> Floats:
    """Return scales halfway between the multiples of a fraction of one scale."""
    return scale * (np.float32(0.5) + numbers.astype(np.float32)) * np.float32(of)


def iq2_xxs(blocks: Bytes) -> Floats:
    """8 runs of 4 points; for each run four bytes that name them, then their signs and four bits of scale."""
    runs = blocks[:, 2:].reshape(len(blocks), 8, 8)
    rest = words(runs[:, :, 4:].reshape(len(blocks), 32), 0, 32, "<u4")
    points = grid("IQ2_XXS")[runs[:, :, :4]]
    return _signed(points, _packed_signs(rest), _fraction(halves(blocks, 0), rest >> np.uint32(28), 0.25))


def iq2_xs(blocks: Bytes) -> Floats:
    """16 runs of 2 points, each of nine bits and seven of signs, each run with four bits of scale."""
    named = words(blocks, 2, 66, "<u2")
    points = grid("IQ2_XS")[named & np.uint16(511)]
    scales = _fraction(halves(blocks, 0), fields(blocks[:, 66:], 4), 0.25)
    return _signed(points, _SIGNS_OF_SEVEN_BITS[named >> np.uint16(9)], scales)


def iq2_s(blocks: Bytes) -> Floats:
    """16 runs of 2 points of ten bits, of which two stand apart, with a byte of signs each."""
    named = blocks[:, 2:34] | fields(blocks[:, 66:74], 2).astype(np.uint16) << np.uint16(8)
    scales = _fraction(halves(blocks, 0), fields(blocks[:, 74:], 4), 0.25)
    return _signed(grid("IQ2_S")[named], blocks[:, 34:66], scales)


def iq3_xxs(blocks: Bytes) -> Floats:
    """8 runs of 8 points of four weights; then for each run their signs and four bits of scale."""
    rest = words(blocks, 66, 98, "<u4")
    points = grid("IQ3_XXS")[blocks[:, 2:66]]
    return _signed(points, _packed_signs(rest), _fraction(halves(blocks, 0), rest >> np.uint32(28), 0.5))


def iq3_s(blocks: Bytes) -> Floats:
    """8 runs of 8 points of four weights, of nine bits, of which one stands apart; a bit of sign for each weight."""
    named = blocks[:, 2:66] | fields(blocks[:, 66:74], 1).astype(np.uint16) << np.uint16(8)
    scales = halves(blocks, 0) * (np.uint8(1) + np.uint8(2) * fields(blocks[:, 106:], 4))
    return _signed(grid("IQ3_S")[named], blocks[:, 74:106], scales)


def _shifted(points: Floats, down: np.ndarray, scales: Floats) -> Floats:
    """Return points moved up or down, equal runs together, in equal runs with a scale each."""
    return scaled(points.reshape(*down.shape, -1) + np.where(down, -_SHIFT, _SHIFT)[:, :, None], scales)


def _odd(scale: Floats, numbers: np.ndarray) -> Floats:
    """Return odd multiples of one scale."""
    return scale * (2 * numbers + 1).astype(np.float32)


def iq1_s(blocks: Bytes) -> Floats:
    """8 runs of 4 points of eleven bits, of which three stand apart with three bits of scale and one of direction."""
    high = words(blocks, 34, 50, "<u2")
    above = high[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & np.uint16(7)
    named = blocks[:, 2:34] | above.reshape(len(blocks), 32) << np.uint16(8)
    return _shifted(
        grid("IQ1_S")[named], high >> np.uint16(15), _odd(halves(blocks, 0), high >> np.uint16(12) & np.uint16(7))
    )


def iq1_m(blocks: Bytes) -> Floats:
    """32 points of eleven bits, of which three stand apart with one of direction; 16 runs with three bits of scale.

    The scale of the block is in the highest four bits of the four numbers that hold the runs' scales.
    """
    high = fields(blocks[:, 32:48], 4)
    named = blocks[:, :32] | (high & np.uint8(7)).astype(np.uint16) << np.uint16(8)
    packed = words(blocks, 48, 56, "<u2")
    quarters = (packed >> np.uint16(12)) << np.array([0, 4, 8, 12], np.uint16)
    scale = np.bitwise_or.reduce(quarters, axis=1, keepdims=True).astype(np.uint16).view(np.float16).astype(np.float32)
    thirds = packed[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & np.uint16(7)
    return _shifted(grid("IQ1_M")[named], high >> np.uint8(3), _odd(scale, thirds.reshape(len(blocks), 16)))
