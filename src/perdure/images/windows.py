"""The part of a resize that a crop leaves: computed alone where that gives the bits of the whole.

Pillow places each pixel of a resize at `start + (place + ½) × scale`, where the start is that of the window it is asked for,
in float32. Where the scale is a whole number of 1/256, as of every side that becomes 256 pixels long, all of this is exact.
Pixels are rounded after each of two passes, and since version 13 Pillow begins with the vertical one where that saves most:
so the window is left alone where it would change the order. All of it is tried out once in a process.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

_FRACTION_BITS = 8
"""With 16 bits before the point, what float32 holds."""

_TRIALS = (
    ((125, 94), (43, 32), (7, 2, 35, 30)),
    ((94, 125), (32, 43), (2, 7, 30, 35)),
    ((96, 96), (32, 32), (2, 4, 30, 28)),
    ((64, 40), (128, 64), (3, 9, 99, 50)),
    ((60, 128), (32, 64), (3, 0, 30, 60)),
)
"""Sizes (width, height) before and after, and a window (left, top, right, bottom)."""


def resized_window(
    picture: Image.Image, size: tuple[int, int], window: tuple[int, int, int, int], filter: Image.Resampling
) -> tuple[Image.Image, int, int]:
    """Resize a picture, or as much of it as a window needs.

    Args:
        picture: what is resized.
        size: width and height of the whole.
        window: left, top, right and bottom of the part of the result that is needed; it may reach beyond it.
        filter: of the nearest pixel's, which is placed in another way, the whole is always computed.

    Returns:
        A part of the resized picture that has all of the window, and its left and top.
    """
    if filter != Image.Resampling.NEAREST and _agrees():
        return _part(picture, size, window, filter)
    return picture.resize(size, filter), 0, 0


def _part(
    picture: Image.Image, size: tuple[int, int], window: tuple[int, int, int, int], filter: Image.Resampling
) -> tuple[Image.Image, int, int]:
    left, right = _kept(picture.width, size[0], window[0], window[2])
    top, bottom = _kept(picture.height, size[1], window[1], window[3])
    part = (right - left, bottom - top)
    if part == size or not (_is_across_first(picture.size, size) and _is_across_first(picture.size, part)):
        return picture.resize(size, filter), 0, 0
    across, down = picture.width / size[0], picture.height / size[1]
    return picture.resize(part, filter, (left * across, top * down, right * across, bottom * down)), left, top


def _kept(before: int, after: int, first: int, last: int) -> tuple[int, int]:
    """Return the range of pixels that are computed along a side."""
    exact = before != after and before < 2**16 and (before << _FRACTION_BITS) % after == 0
    return (max(first, 0), min(last, after)) if exact else (0, after)


def _is_across_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Tell whether Pillow 13 begins with the horizontal pass, as those before it always do."""
    return before[1] - after[1] <= max(0, 2 * (before[0] - after[0]))


@functools.lru_cache(maxsize=1)
def _agrees() -> bool:
    """Tell whether windows have the bits of the whole in the Pillow that is installed."""
    for before, after, window in _TRIALS:
        noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (before[1], before[0], 3), np.uint8)
        image = Image.fromarray(noise)
        for filter in (Image.Resampling.BILINEAR, Image.Resampling.LANCZOS):
            part, left, top = _part(image, after, window, filter)
            whole = image.resize(after, filter).crop((left, top, left + part.width, top + part.height))
            if part.tobytes() != whole.tobytes():
                return False
    return True
