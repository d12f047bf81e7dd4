"""A faster decoder of JPEG, simplejpeg, where it is installed and its bits are Pillow's.

Both carry a libjpeg-turbo of their own. Whether the two agree on this machine is tried out once in a process, on small
files of each kind that it is then used for.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

_Decoder = Callable[..., Any]

SAMPLINGS = (
    ((1, 1), (1, 1), (1, 1)),
    ((2, 1), (1, 1), (1, 1)),
    ((2, 2), (1, 1), (1, 1)),
)
"""How often brightness and the two colours are sampled, across and down: 4:4:4, 4:2:2 and 4:2:0."""

_SIZES = ((1, 1), (3, 2), (16, 17), (37, 19), (131, 50))


def decode(content: bytes, width: int, height: int, n_components: int) -> Image.Image | None:
    """Return the image, or None where Pillow has to see: there is no such decoder, or it has something to remark.

    Args:
        content: a whole file, of a kind that was tried.
        width: as its header says; so is `height`.
        height: as its header says.
        n_components: 1 or 3.
    """
    decoder = _proven_decoder()
    return None if decoder is None else _decoded(decoder, content, width, height, n_components)


@functools.lru_cache(maxsize=1)
def _proven_decoder() -> _Decoder | None:
    """Return the decoder if it gives Pillow's bits for every trial."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    return decode_jpeg if all(_agrees(decode_jpeg, content) for content in _trials()) else None


def _decoded(decoder: _Decoder, content: bytes, width: int, height: int, n_components: int) -> Image.Image | None:
    """Decode into memory as Pillow lays it out: a byte for grey, four for colour, the last of them 255."""
    mode, space = ("L", "GRAY") if n_components == 1 else ("RGB", "RGBX")
    try:
        pixels = decoder(content, colorspace=space, fastdct=False, fastupsample=False, strict=True)
    except (ValueError, MemoryError):  # also for what Pillow takes without a word; then it decides
        return None
    if pixels.shape[:2] != (height, width):
        return None
    image = Image.new(mode, (0, 0))
    memory = Image.core.map_buffer(pixels, (width, height), "raw", 0, (mode, pixels.strides[0], 1))
    image = image._new(memory)
    image.readonly = 1  # what changes it copies it first
    return image


def _agrees(decoder: _Decoder, content: bytes) -> bool:
    expected = Image.open(io.BytesIO(content), formats=["JPEG"])
    try:
        found = _decoded(decoder, content, *expected.size, len(expected.getbands()))
        return found is not None and found.mode == expected.mode and found.tobytes() == expected.tobytes()
    except Exception:  # another Pillow than was thought of
        return False


def _trials() -> Iterator[bytes]:
    """Make small files of every kind: samplings, odd sizes, grey, progressive, with restart markers."""
    draw = np.random.Generator(np.random.PCG64(0))
    for width, height in _SIZES:
        noise = draw.integers(0, 256, (height, width, 3), np.uint8)
        slope = np.add.outer(np.arange(height), np.arange(width))[..., None] * np.array([1, 2, 3])
        for pixels in (noise, (slope % 256).astype(np.uint8)):
            image = Image.fromarray(pixels)
            for subsampling in range(len(SAMPLINGS)):
                for progressive in (False, True):
                    yield _saved(image, quality=85, subsampling=subsampling, progressive=progressive)
            yield _saved(image, quality=30, subsampling=2, restart_marker_blocks=3)
            yield _saved(image.convert("L"), quality=85)


def _saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()
