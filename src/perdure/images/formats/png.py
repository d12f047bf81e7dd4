"""PNG: of its chunks those that pixels are decoded from, each with its checksum checked; of an APNG the default image."""

from __future__ import annotations

import struct
import zlib

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from perdure.images.formats import tags
from perdure.images.formats.picture import Picture, load

MAGIC = (b"\x89PNG\r\n\x1a\n",)
_PALETTE = 3
_N_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_MAX_RATIO = 1032
"""How much deflate can expand."""

_PART_BYTES = 2**14
_TEXT_EXIF = (b"Raw profile type exif\0", b"Raw profile type APP1\0")
_MAX_TEXT_BYTES = 2**20


def read(content: bytes) -> Picture:
    """Read the chunks.

    Raises:
        ValueError: it is damaged or truncated.
    """
    header, chunks, pixels, turn = b"", [], [], 1
    for kind, body, crc in _chunks(content):
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(body, zlib.crc32(kind)) != crc:
                raise ValueError(f"the checksum of its chunk {kind.decode()} is wrong")
            if kind == b"IHDR":
                header = header or bytes(body)
            elif kind == b"IDAT":
                pixels.append(body)
            elif kind != b"IEND":
                chunks.append((kind, bytes(body)))
        elif kind == b"eXIf":
            turn = tags.orientation(bytes(body))
        elif turn == 1 and bytes(body[:22]) in _TEXT_EXIF:
            turn = tags.orientation(_exif_of_text(kind, bytes(body[22:])))
    width, height, depth, colour = struct.unpack_from(">IIBB", header)
    if colour == _PALETTE and not any(kind == b"PLTE" for kind, _ in chunks):
        raise ValueError("it has no palette")
    data = b"".join(pixels)
    _see_that_it_is_there(width, height, depth * _N_CHANNELS.get(colour, 1), len(data))
    if depth == 16 and colour == 2:  # Pillow keeps the upper 8 bits of each channel
        chunks = [(kind, _upper(body) if kind == b"tRNS" else body) for kind, body in chunks]

    def decode() -> Image.Image:
        rest = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
        image = load(PngImageFile, MAGIC[0] + b"".join(_chunk(kind, body) for kind, body in rest))
        if header[12] or not any(image.crop((0, height - 1, width, height)).tobytes()):
            _see_that_it_is_filled(data, (width * depth * _N_CHANNELS.get(colour, 1) + 7) // 8 * height)
        return image

    return Picture(width, height, decode, turn)


def _chunks(content: bytes) -> list[tuple[bytes, memoryview, int]]:
    """Return kind, content and checksum of each chunk until the last."""
    found, at, view = [], 8, memoryview(content)
    while not found or found[-1][0] != b"IEND":
        if at + 12 > len(content):
            raise ValueError(f"it ends at byte {len(content)}, before its chunk IEND")
        n_bytes, kind = struct.unpack_from(">I4s", content, at)
        if at + 12 + n_bytes > len(content):
            raise ValueError(f"it ends at byte {len(content)}, within its chunk {kind!r}")
        if not found and (kind, n_bytes) != (b"IHDR", 13):
            raise ValueError(f"it begins with a chunk {kind!r} of {n_bytes} bytes, not IHDR of 13")
        (crc,) = struct.unpack_from(">I", content, at + 8 + n_bytes)
        found.append((kind, view[at + 8 : at + 8 + n_bytes], crc))
        at += 12 + n_bytes
    return found


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _see_that_it_is_there(width: int, height: int, bits: int, n_bytes: int) -> None:
    """Refuse a header that claims more pixels than the data can become, before memory is taken for them."""
    if (width * bits + 7) // 8 * height > _MAX_RATIO * (n_bytes + 64):
        raise ValueError(f"its {n_bytes} bytes of pixels cannot become {width} × {height} of {bits} bits")


def _see_that_it_is_filled(data: bytes, n_bytes: int) -> None:
    """Refuse a stream that ends before the last row.

    Pillow leaves the rest black or transparent where a stream ends in good form, or `LOAD_TRUNCATED_IMAGES` is set.
    """
    inflate, view = zlib.decompressobj(), memoryview(data)
    found = sum(len(inflate.decompress(view[at : at + _PART_BYTES])) for at in range(0, len(data), _PART_BYTES))
    if found < n_bytes:
        raise EOFError(f"its pixels are {found} bytes of {n_bytes}")


def _upper(key: bytes) -> bytes:
    """Keep the upper 8 bits of each channel of a transparent colour."""
    return struct.pack(">3H", *(value >> 8 for value in struct.unpack_from(">3H", key)))


def _exif_of_text(kind: bytes, text: bytes) -> bytes:
    """Return the EXIF that ImageMagick wrote as hexadecimal text before PNG had a chunk for it; empty where it is none."""
    try:
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_TEXT_BYTES)
        return bytes.fromhex(text[:_MAX_TEXT_BYTES].decode("ascii").split("\n", 3)[3])
    except (zlib.error, ValueError, IndexError):
        return b""
