"""The steps on a picture that Pillow holds: resize, crop and border."""

from __future__ import annotations

from PIL import Image

from perdure.images.geometry import crop_corner, fills, pad_corner, resized
from perdure.images.windows import resized_window
from perdure.records.preprocessing import Crop, Filter, Pad, PreprocessSpec

FILTERS: dict[Filter, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def shaped(picture: Image.Image, spec: PreprocessSpec, name: str) -> Image.Image:
    """Return a picture as large as a pipeline makes it, with Pillow's own arithmetic; its mode stays.

    Raises:
        ImageError: it cannot be brought to that size; `name` names it.
    """
    height, width = picture.height, picture.width
    if spec.resize is not None:
        height, width = resized((height, width), spec.resize, name)
    top, left = (0, 0) if spec.crop is None else crop_corner((height, width), spec.crop)
    if (width, height) != picture.size and spec.resize is not None:
        high, wide = (height, width) if spec.crop is None else spec.crop.size
        window = (left, top, left + wide, top + high)
        picture, first, upper = resized_window(picture, (width, height), window, FILTERS[spec.resize.filter])
        top, left = top - upper, left - first
    if spec.crop is not None:
        picture = _framed(picture, (top, left), spec.crop)
    if spec.pad is not None:
        picture = _framed(picture, pad_corner((picture.height, picture.width), spec.pad, name), spec.pad)
    return picture


def _framed(picture: Image.Image, corner: tuple[int, int], step: Crop | Pad) -> Image.Image:
    """Return the part of a picture that begins at a corner (top, left); what lies outside of it has one colour."""
    top, left = corner
    height, width = step.size
    if (width, height) == picture.size:
        return picture
    kept = picture.crop(
        (max(left, 0), max(top, 0), min(left + width, picture.width), min(top + height, picture.height))
    )
    if kept.size == (width, height):
        return kept
    colour = fills(step.fill, len(picture.getbands()))
    ground = Image.new(picture.mode, (width, height), colour[0] if len(colour) == 1 else colour)
    ground.paste(kept, (max(-left, 0), max(-top, 0)))
    return ground
