"""The block formats of GGUF in which a weight is a small number times a scale, in blocks of one or of two levels.

Each function takes blocks as bytes, in shape (n, bytes per block), and returns the weights as float32, in shape (n,
weights per block). They follow the definitions of ggml (the structs of ggml-common.h, `dequantize_row_*` of
ggml-quants.c), operation for operation in float32, so that results are the same to the bit.
"""

from __future__ import annotations

import numpy as np

from perdure.foreign.gguf.bits import Bytes, Floats, fields, halves, scaled, words

FOUR_BIT_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
"""What the four bits of IQ4_NL and IQ4_XS stand for."""

_E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
"""Twice what the four bits of MXFP4 and NVFP4 stand for; ggml halves the scales instead, and has no negative zero."""

_E8M0_HALVED = np.ldexp(np.float32(1), np.arange(256) - 128)
"""Half of the power of two that the byte of an MXFP4 scale stands for."""


def _e4m3_halved() -> Floats:
    """Return half of what the byte of an NVFP4 scale stands for; its sign is not looked at, and 127 is none, so 0."""
    exponent, mantissa = np.arange(256) >> 3 & 15, np.arange(256) & 7
    found = np.where(exponent == 0, np.ldexp(mantissa / 8, -7), np.ldexp(1 + mantissa / 8, exponent - 8))
    found[127] = 0
    return found.astype(np.float32)


_E4M3_HALVED = _e4m3_halved()


def q1_0(blocks: Bytes) -> Floats:
    """128 signs, and one scale."""
    scale = halves(blocks, 0)
    return np.where(fields(blocks[:, 2:], 1), scale, -scale)


def q2_0(blocks: Bytes) -> Floats:
    """64 numbers from −1 to 2, and one scale."""
    return (fields(blocks[:, 2:], 2).astype(np.float32) - np.float32(1)) * halves(blocks, 0)


def q4_0(blocks: Bytes) -> Floats:
    """32 numbers from −8 to 7, and one scale."""
    return (fields(blocks[:, 2:], 4, 16).astype(np.float32) - np.float32(8)) * halves(blocks, 0)


def q4_1(blocks: Bytes) -> Floats:
    """32 numbers from 0 to 15, one scale, and a least value that is added."""
    return fields(blocks[:, 4:], 4, 16).astype(np.float32) * halves(blocks, 0) + halves(blocks, 2)


def _five_bits(high: Bytes, low: Bytes) -> Floats:
    return (fields(low, 4, 16) | fields(high, 1) << np.uint8(4)).astype(np.float32)


def q5_0(blocks: Bytes) -> Floats:
    """32 numbers from −16 to 15, and one scale; their fifth bits stand apart."""
    return (_five_bits(blocks[:, 2:6], blocks[:, 6:]) - np.float32(16)) * halves(blocks, 0)


def q5_1(blocks: Bytes) -> Floats:
    """32 numbers from 0 to 31, one scale, and a least value that is added."""
    return _five_bits(blocks[:, 4:8], blocks[:, 8:]) * halves(blocks, 0) + halves(blocks, 2)


def q8_0(blocks: Bytes) -> Floats:
    """32 signed bytes, and one scale."""
    return blocks[:, 2:].view(np.int8).astype(np.float32) * halves(blocks, 0)


def q8_1(blocks: Bytes) -> Floats:
    """32 signed bytes, and one scale; the weights' sum, which follows it, is not needed."""
    return blocks[:, 4:].view(np.int8).astype(np.float32) * halves(blocks, 0)


def q8_k(blocks: Bytes) -> Floats:
    """256 signed bytes, and one scale in 32 bits; sums of the weights follow, which are not needed."""
    scale = words(blocks, 0, 4, "<u4").view("<f4").astype(np.float32)
    return blocks[:, 4:260].view(np.int8).astype(np.float32) * scale


def q2_k(blocks: Bytes) -> Floats:
    """16 runs of 16 numbers from 0 to 3, each run with four bits of scale and four of a least value."""
    scales = blocks[:, :16]
    return scaled(
        fields(blocks[:, 16:80], 2, 32).astype(np.float32),
        halves(blocks, 80) * (scales & np.uint8(15)),
        halves(blocks, 82) * (scales >> np.uint8(4)),
    )


def q3_k(blocks: Bytes) -> Floats:
    """16 runs of 16 numbers from −4 to 3, each run with six bits of scale; their third bits stand apart."""
    scales = fields(blocks[:, 96:104], 4, 8) | fields(blocks[:, 104:108], 2, 4) << np.uint8(4)
    numbers = fields(blocks[:, 32:96], 2, 32) | fields(blocks[:, :32], 1, 32) << np.uint8(2)
    return scaled(numbers.astype(np.float32) - np.float32(4), halves(blocks, 108) * (scales.astype(np.float32) - 32))


def _scales_and_least(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Return the eight scales and eight least values, of six bits each, of Q4_K and Q5_K.

    The first four of each stand in the low bits of the first eight bytes. The other four have their low bits in the
    last four bytes, and their high bits above those of the first four.
    """
    low, high = packed[:, :8] & np.uint8(63), (packed[:, :8] >> np.uint8(6)) << np.uint8(4)
    last = packed[:, 8:]
    scales = np.concatenate([low[:, :4], last & np.uint8(15) | high[:, :4]], axis=1)
    return scales, np.concatenate([low[:, 4:], last >> np.uint8(4) | high[:, 4:]], axis=1)


def q4_k(blocks: Bytes) -> Floats:
    """8 runs of 32 numbers from 0 to 15, each run with six bits of scale and six of a least value."""
    scales, least = _scales_and_least(blocks[:, 4:16])
    numbers = fields(blocks[:, 16:], 4, 32).astype(np.float32)
    return scaled(numbers, halves(blocks, 0) * scales, halves(blocks, 2) * least)


def q5_k(blocks: Bytes) -> Floats:
    """8 runs of 32 numbers from 0 to 31, each run with six bits of scale and six of a least value."""
    scales, least = _scales_and_least(blocks[:, 4:16])
    numbers = fields(blocks[:, 48:], 4, 32) | fields(blocks[:, 16:48], 1, 32) << np.uint8(4)
    return scaled(numbers.astype(np.float32), halves(blocks, 0) * scales, halves(blocks, 2) * least)


def q6_k(blocks: Bytes) -> Floats:
    """16 runs of 16 numbers from −32 to 31, each run with a signed byte as its scale."""
    numbers = fields(blocks[:, :128], 4, 64) | fields(blocks[:, 128:192], 2, 32) << np.uint8(4)
    scales = halves(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return scaled(numbers.astype(np.float32) - np.float32(32), scales)


def tq1_0(blocks: Bytes) -> Floats:
    """256 numbers from −1 to 1, five in a byte and in the last four bytes four, and one scale.

    A byte is a fraction of 256 in base three: times three, what passes 256 is a digit.
    """
    powers = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]
    groups = (blocks[:, None, :32] * powers, blocks[:, None, 32:48] * powers, blocks[:, None, 48:52] * powers[:4])
    rest = np.concatenate([group.reshape(len(blocks), -1) for group in groups], axis=1)
    digits = rest.astype(np.uint16) * np.uint16(3) >> np.uint16(8)
    return (digits.astype(np.float32) - np.float32(1)) * halves(blocks, 52)


def tq2_0(blocks: Bytes) -> Floats:
    """256 numbers from −1 to 2, and one scale."""
    return (fields(blocks[:, :64], 2, 32).astype(np.float32) - np.float32(1)) * halves(blocks, 64)


def iq4_nl(blocks: Bytes) -> Floats:
    """32 of sixteen values that lie closer together around zero, and one scale."""
    return FOUR_BIT_VALUES[fields(blocks[:, 2:], 4, 16)] * halves(blocks, 0)


def iq4_xs(blocks: Bytes) -> Floats:
    """8 runs of 32 of the values of IQ4_NL, each run with six bits of scale."""
    scales = fields(blocks[:, 4:8], 4) | fields(blocks[:, 2:4], 2) << np.uint8(4)
    numbers = FOUR_BIT_VALUES[fields(blocks[:, 8:], 4, 16)]
    return scaled(numbers, halves(blocks, 0) * (scales.astype(np.float32) - np.float32(32)))


def mxfp4(blocks: Bytes) -> Floats:
    """32 floats of four bits, and a power of two as their scale (OCP Microscaling Formats 1.0)."""
    return _E2M1_DOUBLED[fields(blocks[:, 1:], 4, 16)] * _E8M0_HALVED[blocks[:, :1]]


def nvfp4(blocks: Bytes) -> Floats:
    """4 runs of 16 floats of four bits, each run with a float of eight bits as its scale."""
    return scaled(_E2M1_DOUBLED[fields(blocks[:, 4:], 4, 8)], _E4M3_HALVED[blocks[:, :4]])
