"""Small numbers packed into bytes, and runs of them under one scale, as the block formats of GGUF have them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def halves(blocks: Bytes, start: int) -> Floats:
    """Return one 16-bit float of each block as float32, in shape (n, 1)."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def words(blocks: Bytes, start: int, stop: int, type: str) -> npt.NDArray[np.unsignedinteger]:
    """Return the bytes `[start, stop)` of each block as unsigned integers of a type such as `"<u2"`."""
    return np.ascontiguousarray(blocks[:, start:stop]).view(type)


def fields(packed: Bytes, width: int, together: int = 1) -> Bytes:
    """Return numbers of `width` bits, the lowest bits first.

    Args:
        packed: bytes, in shape (n, m).
        width: 1, 2 or 4.
        together: how many bytes form a group, of which the lowest bits of all come before the next bits of any.

    Returns:
        The numbers, in shape (n, m · 8 / width).
    """
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    groups = packed.reshape(len(packed), -1, 1, together)
    return ((groups >> shifts) & np.uint8(2**width - 1)).reshape(len(packed), -1)


def signs(packed: Bytes) -> Floats:
    """Return −1 for each bit that is set, the lowest first, and 1 for the others, in shape (n, m · 8)."""
    return np.float32(1) - np.float32(2) * fields(packed, 1)


def scaled(numbers: Floats, scales: Floats, least: Floats | None = None) -> Floats:
    """Multiply equal runs of the numbers in place with a scale each, and take a least value each from them.

    Args:
        numbers: in shape (n, m), or any other of as many.
        scales: in shape (n, runs).
        least: in shape (n, runs).

    Returns:
        The numbers, in shape (n, m).
    """
    runs = numbers.reshape(*scales.shape, -1)
    runs *= scales[:, :, None]
    if least is not None:
        runs -= least[:, :, None]
    return runs.reshape(len(scales), -1)
