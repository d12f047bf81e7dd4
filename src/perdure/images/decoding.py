"""Image files become images of Pillow's, in the mode asked for: JPEG, PNG, WebP, TIFF, BMP, and GIF's first frame."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from perdure.disk.faults import enough_memory, translated
from perdure.disk.sources import open_source, usable_path
from perdure.errors import ImageError, PerdureError
from perdure.images.formats import bmp, gif, jpeg, png, tiff, webp
from perdure.images.formats.picture import Picture
from perdure.images.modes import to_mode
from perdure.records.preprocessing import Decode

_FORMATS = {"JPEG": jpeg, "PNG": png, "WebP": webp, "TIFF": tiff, "BMP": bmp, "GIF": gif}
_MAX_FILE_BYTES = 2**31
_REMEDY = "Restore it from a copy, download it again, or save it anew in another program."
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
            _see_that_it_is_small_enough(*source.size, spec, name)
            source.load()
            return to_mode(source, spec.mode, spec.background, name)
    content = _content(source, name)
    kind, read = _format_of(content, name)
    with _told(name, kind):
        picture = read(content)
        _see_that_it_is_small_enough(picture.width, picture.height, spec, name)
        image = picture.load()
        if spec.orientation and picture.orientation in _TURNS:
            image = image.transpose(_TURNS[picture.orientation])
        return to_mode(image, spec.mode, spec.background, name)


def _content(source: Any, name: str) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, (str, os.PathLike)):
        path = usable_path(source)
        with translated("reading", str(path)), enough_memory(str(path)):
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_FILE_BYTES:
                return path.read_bytes()
    opened = open_source(source)
    try:
        if opened.n_bytes > _MAX_FILE_BYTES:
            _format_of(opened.read(0, 16), name)
            raise ImageError(f"reading {name}: it has {opened.n_bytes} bytes; images have {_MAX_FILE_BYTES} at most.")
        if opened.n_bytes == 0 and not isinstance(source, (str, os.PathLike)):
            raise ImageError(f"reading {name}: it is empty from its position on. Seek to where the image begins.")
        return opened.read(0, opened.n_bytes)
    finally:
        opened.close()


def _format_of(content: bytes, name: str) -> tuple[str, Callable[[bytes], Picture]]:
    """Return what a file is, by its first bytes, and what reads it."""
    for kind, module in _FORMATS.items():
        if content.startswith(module.MAGIC):
            return kind, module.read
    if not content:
        raise ImageError(f"reading {name}: it is empty. Restore the file from a copy, or download it again.")
    looks = " (a page of the web)" if content[:512].lstrip().lower().startswith((b"<!doctype", b"<html")) else ""
    raise ImageError(
        f"reading {name}: it begins with {content[:8]!r}{looks}, and is no JPEG, PNG, WebP, TIFF, BMP or GIF. Convert it to "
        f"one, or download it again."
    )


def _see_that_it_is_small_enough(width: int, height: int, spec: Decode, name: str) -> None:
    if width * height > spec.max_pixels:
        raise ImageError(
            f"reading {name}: it has {width} × {height} pixels, more than the limit, {spec.max_pixels}. If you trust the "
            f"file, raise `max_pixels` of `Decode`."
        )


@contextmanager
def _told(name: str, kind: str) -> Iterator[None]:
    """Whatever Pillow says becomes an ImageError."""
    try:
        yield
    except PerdureError:
        raise
    except (struct.error, IndexError, EOFError) as error:
        raise ImageError(f"reading {name}: it is a truncated {kind} file ({_reason(error)}). {_REMEDY}") from error
    except Exception as error:
        raise ImageError(
            f"reading {name}: it is a damaged or unusual {kind} file ({_reason(error)}). {_REMEDY}"
        ) from error


def _reason(error: Exception) -> str:
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(error)[:200]) or type(error).__name__
