"""JPEG: of its segments those that pixels are decoded from. What is usual goes to a faster decoder, where there is one."""

from __future__ import annotations

import struct
from typing import NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from perdure.images.formats import fast_jpeg, tags
from perdure.images.formats.picture import Picture, load

MAGIC = (b"\xff\xd8\xff",)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_HUFFMAN_FRAMES = {0xC0, 0xC1, 0xC2}
_PROGRESSIVE = 0xC2
_SCAN = 0xDA
_ALONE = {0x01, *range(0xD0, 0xDA)}
"""Markers that stand without a length."""

_NOT_PIXELS = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""Application segments and comments; of the former the decoder needs JFIF's and Adobe's, 0 and 14."""

_MAX_SCANS = 100
_MAX_SCANNED_PIXELS = 2**31
"""All scans of a progressive file together; each may cover the whole image with next to no bytes."""


class Header(NamedTuple):
    """What stands before the first scan.

    Attributes:
        frame: the marker of its kind.
        width: in pixels; so is `height`.
        height: in pixels.
        components: identifier, and how often it is sampled across and down, of each.
        colour: the transform that Adobe's segment states; None without one.
        exif: its content; empty without one.
        parts: the bytes up to the first scan, without what is not needed.
        scans: where the first scan begins.
    """

    frame: int
    width: int
    height: int
    components: tuple[tuple[int, int, int], ...]
    colour: int | None
    exif: bytes
    parts: list[memoryview]
    scans: int


def read(content: bytes) -> Picture:
    """Read the header.

    Raises:
        ValueError: it is damaged.
        struct.error: it ends too early.
    """
    header = scan(content)
    width, height = header.width, header.height
    _see_that_it_is_there(header, len(content) - header.scans)
    _see_that_scans_are_few(content, header)

    def decode() -> Image.Image:
        if _is_usual(content, header):
            image = fast_jpeg.decode(content, width, height, len(header.components))
            if image is not None:
                return image
        return load(JpegImageFile, b"".join((*header.parts, memoryview(content)[header.scans :])))

    return Picture(width, height, decode, tags.orientation(header.exif))


def scan(content: bytes) -> Header:
    """Go through the segments up to the first scan."""
    view, parts, at = memoryview(content), [], 2
    kept_from, frame, exif, colour = 0, None, b"", None
    while True:
        at = content.find(b"\xff", at)
        if at < 0 or at + 4 > len(content):
            raise ValueError(f"it ends at byte {len(content)}, before its first scan")
        marker = content[at + 1]
        if marker in (0, 0xFF) or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        (n_bytes,) = struct.unpack_from(">H", content, at + 2)
        end = at + 2 + n_bytes
        if n_bytes < 2 or end > len(content):
            raise ValueError(f"its segment {marker:02X} at byte {at} has {n_bytes} bytes")
        if marker == _SCAN:
            break
        if marker in _FRAMES:
            frame = (marker, content[at + 4 : end])
        elif marker == 0xEE and content[at + 4 : at + 9] == b"Adobe" and n_bytes >= 14:
            colour = content[at + 15]
        elif marker in _NOT_PIXELS:
            if marker == 0xE1 and not exif and content[at + 4 : at + 10] == b"Exif\0\0":
                exif = content[at + 10 : end]
            parts.append(view[kept_from:at])
            kept_from = end
        at = end
    if frame is None:
        raise ValueError("its first scan comes before the frame's header")
    parts.append(view[kept_from:at])
    height, width, n_components = struct.unpack_from(">xHHB", frame[1])
    components = tuple(
        (one[0], one[1] >> 4, one[1] & 15) for one in struct.iter_unpack("3B", frame[1][6 : 6 + 3 * n_components])
    )
    if not width or not height or not components:
        raise ValueError(f"it has {width} × {height} pixels in {n_components} components")
    return Header(frame[0], width, height, components, colour, exif, parts, at)


def _see_that_it_is_there(header: Header, n_bytes: int) -> None:
    """Refuse a header that claims more than the file has: in a Huffman code each block of 8 × 8 takes a bit at least."""
    widest = max(across for _, across, _ in header.components) or 1
    highest = max(down for _, _, down in header.components) or 1
    n_blocks = sum(
        header.width * across // (8 * widest) * (header.height * down // (8 * highest))
        for _, across, down in header.components
    )
    if header.frame in _HUFFMAN_FRAMES and n_blocks > 8 * n_bytes:
        raise ValueError(f"its {n_bytes} bytes of scans cannot become {header.width} × {header.height} pixels")


def _see_that_scans_are_few(content: bytes, header: Header) -> None:
    if header.frame != _PROGRESSIVE and content[header.scans + 4] == len(header.components):
        return  # the first scan is all of it; what follows is not read
    n_scans = content.count(b"\xff\xda", header.scans)
    if n_scans > _MAX_SCANS and n_scans * header.width * header.height > _MAX_SCANNED_PIXELS:
        raise ValueError(f"it goes over its {header.width} × {header.height} pixels in {n_scans} scans")


def _is_usual(content: bytes, header: Header) -> bool:
    """Tell whether the fast decoder is known to give Pillow's bits: by the kinds of file on which it was tried."""
    if content.rfind(b"\xff\xd9") < header.scans or header.frame not in _HUFFMAN_FRAMES:
        return False
    if len(header.components) == 1:
        return header.components[0][1:] == (1, 1)
    identifiers = tuple(one[0] for one in header.components)
    sampling = tuple(one[1:] for one in header.components)
    return identifiers == (1, 2, 3) and sampling in fast_jpeg.SAMPLINGS and header.colour in (None, 1)
