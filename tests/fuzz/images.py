"""Images as what is fuzzed: seeds of each format, and Pillow as the peer that must agree on what both accept."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fault.forging_images import CASES, IMAGE, saved
from fuzz.mutations import BYTES, Mutation
from fuzz.oracle import Disagreement
from perdure.errors import ImageError
from perdure.images.decoding import decode
from perdure.records.preprocessing import Decode

_SPEC = Decode(max_pixels=10**6)
_SHALLOW = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
"""Kinds of pixels for which Pillow and perdure want the same; 16 bits, integers and floats are clipped by Pillow."""


def by_pillow(content: bytes) -> Any:
    """Decode as Pillow does; None where it warns, or means something else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Image.open(io.BytesIO(content), formats=["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"]) as image:
            if image.size[0] * image.size[1] > _SPEC.max_pixels:
                return None
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode not in _SHALLOW:
                return None
            image.info.pop("transparency", None)
            return np.array(image.convert("RGB"))


def compare(content: bytes, peer: Callable[[bytes], Any] | None) -> str:
    """Decode an image, in every mode, and compare it with what Pillow makes of it.

    Raises:
        Disagreement: an error without a proper message, or other pixels than Pillow's.
    """
    try:
        found = np.array(decode(content, _SPEC, "it"))
    except ImageError as error:
        if not (str(error).startswith("reading it: ") and str(error).isprintable() and len(str(error)) < 600):
            raise Disagreement(f"the message is {error!r}") from None
        return "ImageError"
    for mode in ("RGBA", "L", "I;16"):
        decode(content, Decode(mode=mode, background=(1, 2, 3), max_pixels=_SPEC.max_pixels), "it")
    try:
        expected = peer(content) if peer else None
    except Exception:  # Pillow refuses in many ways
        return "accepted"
    if expected is None:
        return "accepted"
    if not np.array_equal(found, expected):
        raise Disagreement(f"other pixels: {found.shape} {expected.shape}")
    return "compared"


def set_chunk(random: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Change a byte of a PNG's chunk, and put its checksum right."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (n_bytes,) = struct.unpack_from(">I", content, at)
        chunks.append((at, min(n_bytes, len(content) - at - 12)))
        at += 12 + n_bytes
    if not chunks:
        return content
    at, n_bytes = random.choice(chunks)
    body = bytearray(content[at + 4 : at + 8 + n_bytes])
    body[random.randrange(4 if not n_bytes or random.random() < 0.1 else len(body)) - len(body)] = random.randrange(256)
    return content[: at + 4] + body + struct.pack(">I", zlib.crc32(body)) + content[at + 12 + n_bytes :]


def _whole(*starts: str) -> list[bytes]:
    """Return the small files of the corpus that are whole."""
    return [
        case.content
        for name, case in CASES.items()
        if name.startswith(starts) and not isinstance(case.expected, str) and len(case.content) < 5000
    ]


def _tiffs() -> list[bytes]:
    fax = [saved(IMAGE.convert("1"), "TIFF", compression=name) for name in ("group3", "group4")]
    return [*_whole("TIFF", "BigTIFF"), *fax]


SEEDS: dict[str, Callable[[], Sequence[bytes]]] = {
    "JPEG": lambda: _whole("JPEG", "progressive JPEG", "grey JPEG", "MPO"),
    "PNG": lambda: _whole("PNG", "APNG"),
    "GIF": lambda: _whole("GIF", "animated GIF"),
    "WebP": lambda: _whole("WebP", "lossy WebP", "animated WebP"),
    "BMP": lambda: _whole("BMP"),
    "TIFF": _tiffs,
}
MUTATIONS: dict[str, Sequence[Mutation]] = {kind: BYTES for kind in SEEDS} | {"PNG": (*BYTES, *[set_chunk] * 20)}
