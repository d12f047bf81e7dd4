"""Where the pixels of an image go: sizes after a resize, and what a crop or a border takes or leaves."""

from __future__ import annotations

from perdure.errors import ImageError
from perdure.records.preprocessing import MAX_PIXELS, Crop, Pad, PreprocessSpec, Resize, Size


def resized(size: Size, step: Resize, name: str) -> Size:
    """Return the size that an image of `size` (height, width) is given; `name` names it in messages.

    The arithmetic is torchvision's where rounding is `down`, timm's where it is `nearest`; a side that would vanish is one
    pixel, where both raise an error.

    Raises:
        ImageError: it has no pixels, or would have more than MAX_PIXELS, as an image of one pixel's width may.
    """
    if 0 in size:
        raise ImageError(f"reading {name}: it has {_written(size)} pixels (height × width), which is none.")
    if step.rule == "exact":
        return step.size
    height, width = _in_proportion(size, step)
    if step.max_size is not None and max(height, width) > step.max_size:
        shorter = int(step.max_size * min(height, width) / max(height, width))
        height, width = (step.max_size, shorter) if height > width else (shorter, step.max_size)
    height, width = max(height, 1), max(width, 1)
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"reading {name}: its {_written(size)} pixels (height × width) would be resized to {height}×{width}, more than "
            f"{MAX_PIXELS} in all. Crop it first, or resize to an exact size."
        )
    return height, width


def _in_proportion(size: Size, step: Resize) -> Size:
    """Return the size in proportion; the side that decides is met exactly, and the other one rounded."""
    height, width = size
    by_height, by_width = step.size[0] * width, step.size[1] * height  # the two factors, times height × width
    if by_height == by_width:
        return step.size
    height_decides = (by_height < by_width) == (step.rule == "longer")
    if step.rounding == "nearest":
        ratio = height / step.size[0] if height_decides else width / step.size[1]
        return round(height / ratio), round(width / ratio)
    if height_decides:
        return step.size[0], int(step.size[0] * width / height)
    return int(step.size[1] * height / width), step.size[1]


def crop_corner(size: Size, step: Crop) -> tuple[int, int]:
    """Return the top and left of a crop; negative where the image is smaller, and something is added before it."""
    return _crop_start(size[0], step.size[0], step), _crop_start(size[1], step.size[1], step)


def _crop_start(side: int, wanted: int, step: Crop) -> int:
    if side >= wanted:
        return (side - wanted) // 2 if step.rounding == "down" else round((side - wanted) / 2)
    return -((wanted - side + (step.odd == "before")) // 2)


def pad_corner(size: Size, step: Pad, name: str) -> tuple[int, int]:
    """Return the top and left of what a border makes of an image, counted in the image: never positive.

    Raises:
        ImageError: the image is larger.
    """
    below, right = step.size[0] - size[0], step.size[1] - size[1]
    if below < 0 or right < 0:
        raise ImageError(
            f"reading {name}: it has {_written(size)} pixels (height × width), more than the {_written(step.size)} that "
            f"it is to be padded to. Let a resize by the rule `longer`, or a crop, come first."
        )
    return (0, 0) if step.position == "top left" else (-(below // 2), -(right // 2))


def _written(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


def fixed_size(spec: PreprocessSpec) -> Size | None:
    """Return the size that every image is given, or None where it depends on the image."""
    if spec.pad is not None:
        return spec.pad.size
    if spec.crop is not None:
        return spec.crop.size
    return spec.resize.size if spec.resize is not None and spec.resize.rule == "exact" else None


def fills(fill: int | tuple[int, ...], n_channels: int) -> tuple[int, ...]:
    """Return a colour with a value for each channel."""
    values = (fill,) if isinstance(fill, int) else fill
    return values * n_channels if len(values) == 1 else values
