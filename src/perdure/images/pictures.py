"""The steps on a picture that Pillow holds: resize, crop and border, with Pillow's own arithmetic."""

from __future__ import annotations

from PIL import Image

from perdure.images.geometry import crop_box, pad_offsets, resized
from perdure.records.preprocessing import Crop, Filter, Pad, PreprocessSpec, Resize

FILTERS: dict[Filter, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def shaped(picture: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """Return a picture as large as a pipeline makes it; its mode stays.

    Raises:
        InputError: it cannot be brought to that size.
    """
    if spec.resize is not None:
        picture = _resized(picture, spec.resize)
    if spec.crop is not None:
        picture = _cropped(picture, spec.crop)
    return picture if spec.pad is None else _padded(picture, spec.pad)


def _resized(picture: Image.Image, step: Resize) -> Image.Image:
    height, width = resized((picture.height, picture.width), step)
    if (width, height) == picture.size:
        return picture
    return picture.resize((width, height), FILTERS[step.filter])


def _cropped(picture: Image.Image, step: Crop) -> Image.Image:
    height, width = step.size
    if (width, height) == picture.size:
        return picture
    top, left = crop_box((picture.height, picture.width), step)
    inside = picture.height >= height and picture.width >= width
    if inside or step.fill == 0:  # Pillow's crop fills with zeros
        return picture.crop((left, top, left + width, top + height))
    kept = picture.crop((max(left, 0), max(top, 0), min(left + width, picture.width), min(top + height, picture.height)))
    return _laid_on(step.fill, kept, (width, height), (max(-left, 0), max(-top, 0)))


def _padded(picture: Image.Image, step: Pad) -> Image.Image:
    height, width = step.size
    top, left = pad_offsets((picture.height, picture.width), step)
    if (width, height) == picture.size:
        return picture
    return _laid_on(step.fill, picture, (width, height), (left, top))


def _laid_on(
    fill: int | tuple[int, ...], picture: Image.Image, size: tuple[int, int], corner: tuple[int, int]
) -> Image.Image:
    """Return a picture on a ground of one colour; sizes and places are Pillow's, width first."""
    n_channels = len(picture.getbands())
    colour = (fill,) * n_channels if isinstance(fill, int) else fill * n_channels if len(fill) == 1 else fill
    ground = Image.new(picture.mode, size, colour[0] if n_channels == 1 else colour)
    ground.paste(picture, corner)
    return ground
