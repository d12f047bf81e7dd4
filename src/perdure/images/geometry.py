"""Where the pixels of an image go: sizes after a resize, and what a crop or a border takes or leaves."""

from __future__ import annotations

from perdure.errors import InputError
from perdure.records.preprocessing import MAX_PIXELS, Crop, Pad, PreprocessSpec, Resize, Size


def resized(size: Size, step: Resize) -> Size:
    """Return the size that an image of `size` (height, width) is given.

    The arithmetic is torchvision's where rounding is `down`, timm's where it is `nearest`; a side that would vanish is one
    pixel, where both raise an error.

    Raises:
        InputError: it would have more than MAX_PIXELS pixels, as an image of one pixel's width may.
    """
    if step.rule == "exact":
        return step.size
    height, width = _in_proportion(size, step)
    if step.max_size is not None and max(height, width) > step.max_size:
        shorter = int(step.max_size * min(height, width) / max(height, width))
        height, width = (step.max_size, shorter) if height > width else (shorter, step.max_size)
    height, width = max(height, 1), max(width, 1)
    if height * width > MAX_PIXELS:
        raise InputError(f"resized in proportion, its {size[0]}×{size[1]} pixels (height × width) would be {height}×{width}")
    return height, width


def _in_proportion(size: Size, step: Resize) -> Size:
    """Return the size that covers the one asked for or fits into it; the side that decides is met exactly."""
    height, width = size
    by_height = step.size[0] * width  # × 1 / (height × width), the factor that would meet the height
    by_width = step.size[1] * height
    if by_height == by_width:
        return step.size
    if step.rounding == "nearest":
        ratio = height / step.size[0] if (by_height > by_width) == (step.rule == "shorter") else width / step.size[1]
        return round(height / ratio), round(width / ratio)
    if (by_height > by_width) == (step.rule == "shorter"):
        return step.size[0], int(step.size[0] * width / height)
    return int(step.size[1] * height / width), step.size[1]


def crop_offset(side: int, wanted: int, step: Crop) -> int:
    """Return where a crop begins along a side; negative where the image is smaller and is padded first."""
    if side < wanted:
        return -((wanted - side + (step.odd == "before")) // 2)
    return (side - wanted) // 2 if step.rounding == "down" else round((side - wanted) / 2)


def crop_box(size: Size, step: Crop) -> tuple[int, int]:
    """Return the top and left of a crop."""
    return crop_offset(size[0], step.size[0], step), crop_offset(size[1], step.size[1], step)


def pad_offsets(size: Size, step: Pad) -> tuple[int, int]:
    """Return how far below the top and from the left an image lies within its border.

    Raises:
        InputError: the image is larger than what the border makes of it.
    """
    height, width = size
    if height > step.size[0] or width > step.size[1]:
        raise InputError(
            f"it has {height}×{width} pixels (height × width), more than the {step.size[0]}×{step.size[1]} it is padded to. "
            f"Resize it with the rule `longer` first"
        )
    return (0, 0) if step.position == "top left" else ((step.size[0] - height) // 2, (step.size[1] - width) // 2)


def fixed_size(spec: PreprocessSpec) -> Size | None:
    """Return the size that every image is given, or None where it depends on the image."""
    if spec.pad is not None:
        return spec.pad.size
    if spec.crop is not None:
        return spec.crop.size
    return spec.resize.size if spec.resize is not None and spec.resize.rule == "exact" else None
