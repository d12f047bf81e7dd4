"""TIFF: of its first directory those tags that pixels are decoded from."""

from __future__ import annotations

import math
import struct

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from perdure.images.formats import tags
from perdure.images.formats.picture import Picture, Whole
from perdure.images.formats.tags import Directory

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION = 256, 257, 258, 259
_STRIP_OFFSETS, _N_SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_SINGLE = {256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 512, 513, 514}
_MANY = {258, 273, 279, 301, 318, 319, 320, 324, 325, 332, 338, 339, 347, 519, 520, 521, 529, 530, 531, 532}
_MAX_PARTS = 2**16
_MAX_TILE_PIXELS = 2**22
"""What a tile may have where the image has less."""


def read(content: bytes) -> Picture:
    """Read the first directory.

    Raises:
        ValueError: it is damaged.
        EOFError, struct.error: it ends too early.
    """
    found = tags.directory(content)
    width, height = found.number(content, _WIDTH), found.number(content, _HEIGHT)
    if not width or not height:
        raise ValueError("it states no width or height")
    lost = found.outside & (_SINGLE | _MANY)
    if lost:
        raise ValueError(f"the values of its tags {sorted(lost)} lie outside of the file")
    _see_that_its_parts_are_there(content, found, width, height)
    reduced = _reduced(content, found)

    def decode() -> Image.Image:
        image = TiffImageFile(Whole(reduced))
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            image.im = Image.new(image.mode, image.size).im  # what Pillow would make with a warning
        image.load()
        return image

    turn = found.number(content, tags.ORIENTATION) or 1
    return Picture(width, height, decode, turn if turn <= 8 else 1)


def _see_that_its_parts_are_there(content: bytes, found: Directory, width: int, height: int) -> None:
    """Refuse strips or tiles that do not make up the image, or do not lie in the file: Pillow would leave them black.

    Pillow does not look at how many bytes a strip has that is not compressed, so that is computed here.
    """
    tiled = _TILE_OFFSETS in found.entries and _STRIP_OFFSETS not in found.entries
    if tiled:
        wide, high = found.number(content, _TILE_WIDTH) or 0, found.number(content, _TILE_HEIGHT) or 0
        if not wide or not high or wide * high > max(width * height, _MAX_TILE_PIXELS) * 4:
            raise ValueError(f"its tiles are of {wide} × {high} pixels")
    else:
        wide, high = width, min(found.number(content, _ROWS_PER_STRIP) or height, height)
    n_planes = (found.number(content, _N_SAMPLES) or 1) if found.number(content, _PLANAR) == 2 else 1
    n_down = math.ceil(height / high)
    n_parts = math.ceil(width / wide) * n_down * n_planes
    offsets = found.numbers(content, _TILE_OFFSETS if tiled else _STRIP_OFFSETS, _MAX_PARTS)
    if len(offsets) < n_parts:
        raise ValueError(f"it has {len(offsets)} strips or tiles; {n_parts} were expected, {_MAX_PARTS} at most")
    if (found.number(content, _COMPRESSION) or 1) == 1:
        bits = found.numbers(content, _BITS, 16) or [1]
        row = math.ceil(wide * (bits[0] if n_planes > 1 else sum(bits)) / 8)
        sizes = [row * high] * n_parts
        if not tiled:
            sizes[n_down - 1 :: n_down] = [row * (height - high * (n_down - 1))] * n_planes
    else:
        sizes = found.numbers(content, _TILE_BYTES if tiled else _STRIP_BYTES, _MAX_PARTS)
    for at, n_bytes in zip(offsets, sizes, strict=False):
        if at + n_bytes > len(content):
            raise EOFError(f"{n_bytes} bytes of pixels were expected at byte {at} of {len(content)}")


def _reduced(content: bytes, found: Directory) -> bytes:
    """Return the file with a directory behind it that has only the tags of pixels, and none after it."""
    kept = []
    for tag in sorted(found.entries.keys() & (_SINGLE | _MANY)):
        kind, count, at = found.entries[tag]
        kept.append(_entry(content, found, tag, kind, 1 if tag in _SINGLE else count, at))
    start = len(content) + len(content) % 2
    pad = bytes(start - len(content))
    if found.big:
        header = content[:8] + struct.pack(found.order + "Q", start) + content[16:]
        return b"".join((header, pad, struct.pack(found.order + "Q", len(kept)), *kept, bytes(8)))
    header = content[:4] + struct.pack(found.order + "I", start) + content[8:]
    return b"".join((header, pad, struct.pack(found.order + "H", len(kept)), *kept, bytes(4)))


def _entry(content: bytes, found: Directory, tag: int, kind: int, count: int, at: int) -> bytes:
    """Write an entry of a directory whose values stay where they are, or stand in it where they have room."""
    inline, head, offset = (8, "HHQ", "Q") if found.big else (4, "HHI", "I")
    n_bytes = tags.SIZES[kind] * count
    value = (
        content[at : at + n_bytes].ljust(inline, b"\0") if n_bytes <= inline else struct.pack(found.order + offset, at)
    )
    return struct.pack(found.order + head, tag, kind, count) + value
