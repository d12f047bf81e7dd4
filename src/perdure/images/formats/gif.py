"""GIF: its first frame."""

from __future__ import annotations

import struct

from PIL.GifImagePlugin import GifImageFile

from perdure.images.formats.picture import Picture, load

MAGIC = (b"GIF87a", b"GIF89a")
_EXTENSION, _IMAGE = 0x21, 0x2C
_GRAPHIC_CONTROL = 0xF9
_MAX_SIDE = 65535
_DISPOSAL = 0b00011100


def read(content: bytes) -> Picture:
    """Read the blocks up to the end of the first frame.

    Raises:
        ValueError: there is none, or it is damaged.
        IndexError, struct.error: it ends too early.
    """
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    start = at = 13 + _palette_bytes(flags)
    control = b""
    while content[at] != _IMAGE:
        if content[at] != _EXTENSION:
            raise ValueError(f"it has a block of kind {content[at]} at byte {at}, where its first frame was expected")
        end = _end_of_blocks(content, at + 2)
        if content[at + 1] == _GRAPHIC_CONTROL and end - at == 8:  # the last one before the frame is the frame's
            control = content[at : at + 3] + bytes([content[at + 3] & ~_DISPOSAL]) + content[at + 4 : end]
        at = end
    left, top, wide, high, frame_flags = struct.unpack_from("<HHHHB", content, at + 1)
    end = _end_of_blocks(content, at + 11 + _palette_bytes(frame_flags))
    width, height = max(width, left + wide), max(height, top + high)
    if max(width, height) > _MAX_SIDE:
        raise ValueError(f"its first frame reaches to {width} × {height}")
    screen = struct.pack("<HH", width, height)
    first = content[:6] + screen + content[10:start] + control + content[at:end] + b";"
    return Picture(width, height, lambda: load(GifImageFile, first))


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _end_of_blocks(content: bytes, at: int) -> int:
    """Return where a run of blocks ends, each with its length before it, the last of length 0."""
    while content[at]:
        at += 1 + content[at]
    return at + 1
