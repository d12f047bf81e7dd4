"""Pixels of every kind become those that a model takes: grey or colour, 8 or 16 bits, with or without an alpha channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from perdure.errors import ImageError

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_TOP = {"I;16": 65535}


def to_mode(image: Image.Image, mode: str, background: tuple[int, ...] | None, name: str) -> Image.Image:
    """Return an image with pixels of another kind; one that has them already is returned as it is.

    Of 16 bits the upper 8 are kept (value >> 8), and 8 bits become 16 by the factor 257, so that white stays white. 32-bit
    integers and floats say nothing of their scale: they are values of 0 to 255 (65535 for `I;16`), truncated as Pillow does.

    Args:
        image: any image of Pillow's, loaded; it stays as it is.
        mode: `RGB`, `RGBA`, `L` or `I;16`.
        background: what transparent pixels are laid on, a colour of 0 to 255 for each channel; None drops the alpha channel.
        name: names the image in messages.

    Raises:
        ImageError: 32-bit integers or floats that are outside of that range, or whose range is 0 to 1.
    """
    if image.mode == mode and (background is None or mode != "RGBA") and "transparency" not in image.info:
        return image
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    elif image.mode in ("I", "F") or image.mode in _SIXTEEN_BITS:
        image = _without_depth(image, mode, background, name)
        if image.mode == mode == "I;16":
            return image
    image = _without_alpha(image, "L" if mode == "I;16" else mode, background)
    return _deepened(image) if mode == "I;16" else image


def _without_alpha(image: Image.Image, mode: str, background: tuple[int, ...] | None) -> Image.Image:
    """Convert among the kinds of 8 bits, and lay what is transparent on the background, or drop the alpha channel."""
    if mode == "RGBA" or background is not None:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if background is not None:
                colour = (background * 3)[:3] if len(background) == 1 else background[:3]
                image = Image.alpha_composite(Image.new("RGBA", image.size, (*colour, 255)), image)
    elif "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]
    if image.mode == "LAB":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _without_depth(image: Image.Image, mode: str, background: tuple[int, ...] | None, name: str) -> Image.Image:
    """Return grey of more than 8 bits as `I;16` where that is the mode, else as `L` or `LA`."""
    values = np.asarray(image)
    if image.mode in ("I", "F") and image.format != "PNG":
        _see_that_it_fits(values, _TOP.get(mode, 255), name)
        values = values.astype(np.uint16)
        values = values if mode == "I;16" else values << 8
    values = values.astype(np.uint16)
    key = image.info.get("transparency")
    transparent = values == key if isinstance(key, int) else None
    if mode == "I;16":
        if transparent is not None and background is not None:
            values = np.where(transparent, np.uint16(background[0] * 257), values)
        return Image.fromarray(values)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if transparent is not None and (mode == "RGBA" or background is not None):
        grey.putalpha(Image.fromarray(np.where(transparent, np.uint8(0), np.uint8(255))))
    return grey


def _see_that_it_fits(values: np.ndarray[Any, Any], top: int, name: str) -> None:
    least, most = values.min(), values.max()
    within = least >= 0 and most <= top  # False of NaN
    if not within or (values.dtype.kind == "f" and most <= 1 and bool((values % 1 > 0).any())):
        kind = "floats" if values.dtype.kind == "f" else "32-bit integers"
        raise ImageError(
            f"reading {name}: its pixels are {kind} of {least:g} to {most:g}, where values of 0 to {top} were expected. "
            f"Scale them to that range, and save it again."
        )


def _deepened(grey: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(grey).astype(np.uint16) * np.uint16(257))
