"""Image files become images of Pillow's, in the mode asked for: JPEG, PNG, WebP, TIFF, BMP, and GIF's first frame."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from perdure.disk.sources import open_source
from perdure.errors import ImageError, PerdureError
from perdure.images.modes import to_mode
from perdure.records.preprocessing import Decode

_KINDS: tuple[tuple[bytes, str, type[ImageFile]], ...] = (
    (b"\xff\xd8\xff", "JPEG", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", "PNG", PngImageFile),
    (b"RIFF", "WebP", WebPImageFile),
    (b"II*\0", "TIFF", TiffImageFile),
    (b"MM\0*", "TIFF", TiffImageFile),
    (b"II+\0", "TIFF", TiffImageFile),
    (b"MM\0+", "TIFF", TiffImageFile),
    (b"BM", "BMP", BmpImageFile),
    (b"GIF87a", "GIF", GifImageFile),
    (b"GIF89a", "GIF", GifImageFile),
)


def decode(source: Any, spec: Decode, name: str) -> Image.Image:
    """Return an image in the mode asked for.

    What a file is, its content says, not its name. An image of Pillow's is only brought to the mode.

    Args:
        source: a path, bytes, a seekable binary file (read from its present position, at which it stays), or an image of
            Pillow's.
        spec: how.
        name: names the image in messages.

    Raises:
        ImageError: no image of these kinds, a damaged or truncated one, one of more pixels than `spec.max_pixels`, or one
            whose pixels cannot become those of the mode.
        InputError: it is nothing of the above, or a folder.
        StorageError: the system refused to read it.
    """
    if isinstance(source, Image.Image):
        with _told(name, "image"):
            _see_that_it_is_small_enough(source, spec, name)
            return to_mode(source, spec.mode, spec.background, name)
    content = _read(source)
    kind, reader = _kind_of(content, name)
    with _told(name, kind):
        image = reader(io.BytesIO(content))
        _see_that_it_is_small_enough(image, spec, name)
        image.load()
        turned = ImageOps.exif_transpose(image) if spec.orientation else image
        return to_mode(turned, spec.mode, spec.background, name)


def _read(source: Any) -> bytes:
    if isinstance(source, bytes):
        return source
    opened = open_source(source)
    try:
        return opened.read(0, opened.n_bytes)
    finally:
        opened.close()


def _kind_of(content: bytes, name: str) -> tuple[str, type[ImageFile]]:
    for start, kind, reader in _KINDS:
        if content.startswith(start):
            return kind, reader
    if not content:
        raise ImageError(f"reading {name}: it is empty. Restore the file from a copy, or download it again.")
    raise ImageError(
        f"reading {name}: it begins with {content[:8]!r}, and is no JPEG, PNG, WebP, TIFF, BMP or GIF. Convert it to one."
    )


def _see_that_it_is_small_enough(image: Image.Image, spec: Decode, name: str) -> None:
    width, height = image.size
    if width * height > spec.max_pixels:
        raise ImageError(
            f"reading {name}: it has {width} × {height} pixels, more than max_pixels, {spec.max_pixels}. Raise that limit in "
            f"`Decode` if you trust the file."
        )


@contextmanager
def _told(name: str, kind: str) -> Iterator[None]:
    """Whatever Pillow says becomes an ImageError."""
    try:
        yield
    except PerdureError:
        raise
    except Exception as error:
        reason = str(error)[:200] or type(error).__name__
        raise ImageError(
            f"reading {name}: it is a damaged or unusual {kind} file ({reason}). Restore it from a copy, or save it again in "
            f"another program."
        ) from error
