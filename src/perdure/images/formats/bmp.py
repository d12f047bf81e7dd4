"""BMP, plain and run-length encoded."""

from __future__ import annotations

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from perdure.images.formats.picture import Picture, Whole

MAGIC = (b"BM",)
_RUN_LENGTHS = (1, 2)
MAX_RUN_LENGTH_PIXELS = 2**22
"""Pillow decodes runs in Python, pixel by pixel: more than these would take longer than a second."""


def read(content: bytes) -> Picture:
    """Read the header.

    Raises:
        Exception: whatever Pillow says to a damaged one.
    """
    image = BmpImageFile(Whole(content))
    width, height = image.size

    def decode() -> Image.Image:
        if image.info.get("compression") in _RUN_LENGTHS and width * height > MAX_RUN_LENGTH_PIXELS:
            raise ValueError(f"run-length encoded with more than {MAX_RUN_LENGTH_PIXELS} pixels")
        image.load()
        return image

    return Picture(width, height, decode)
