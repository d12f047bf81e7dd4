"""WebP: the size that its header states; all else is the decoder's. Of an animation the first frame."""

from __future__ import annotations

import struct

from PIL.WebPImagePlugin import WebPImageFile

from perdure.images.formats import tags
from perdure.images.formats.picture import Picture, load

MAGIC = (b"RIFF",)
_MAX_SIDE = 16384
"""Of a frame; a canvas may be larger by the letter of the format."""


def read(content: bytes) -> Picture:
    """Read the header.

    Raises:
        ValueError: it is no WebP, or truncated.
        struct.error: it ends too early.
    """
    if content[8:12] != b"WEBP":
        raise ValueError(f"it is a RIFF file of {content[8:12]!r}")
    (n_bytes,) = struct.unpack_from("<I", content, 4)
    if n_bytes + 8 > len(content):
        raise ValueError(f"it has {len(content)} bytes of {n_bytes + 8}")
    width, height = _size(content)
    if max(width, height) > _MAX_SIDE:
        raise ValueError(f"its canvas is of {width} × {height} pixels")
    return Picture(width, height, lambda: load(WebPImageFile, content), tags.orientation(_exif(content)))


def _size(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        width, width_top, height, height_top = struct.unpack_from("<HBHB", content, 24)
        return (width_top << 16 | width) + 1, (height_top << 16 | height) + 1
    raise ValueError(f"its first chunk is {kind!r}")


def _exif(content: bytes) -> bytes:
    """Return the content of the first chunk EXIF."""
    at = 12
    while at + 8 <= len(content):
        kind, n_bytes = struct.unpack_from("<4sI", content, at)
        if kind == b"EXIF":
            return content[at + 8 : at + 8 + n_bytes]
        at += 8 + n_bytes + (n_bytes & 1)
    return b""
