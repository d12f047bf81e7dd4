"""An image of which the header has been read, and the one way in which Pillow is asked to decode it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image
from PIL.ImageFile import ImageFile


class Picture(NamedTuple):
    """An image that is known, and not yet decoded.

    Attributes:
        width: in pixels, as the header says; so is `height`.
        height: in pixels.
        load: decodes it.
        orientation: of EXIF, 1 to 8.
    """

    width: int
    height: int
    load: Callable[[], Image.Image]
    orientation: int = 1


class Whole(io.BytesIO):
    """The content of a file, of which reading beyond the end is an error.

    Pillow's own answer to that depends on a setting that any program may have switched on, `LOAD_TRUNCATED_IMAGES`.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        if not content and size != 0:
            raise EOFError("it ends too early")
        return content


def load(reader: type[ImageFile], content: bytes) -> Image.Image:
    """Decode what a header announced; the reader is the format's own, so that no other is tried."""
    image = reader(Whole(content))
    image.load()
    return image
