"""Tensors are resized with Pillow's filters: uint8 with Pillow's own bits, on every processor and GPU.

torch's own resize of uint8 differs by the processor it runs on, and is a level off Pillow's here and there. Here sums are of
multiples of 2⁻²² in float64, which are exact whatever their order, and which autocast and TF32 leave alone.
"""

from __future__ import annotations

import functools

import torch
from PIL import Image

from perdure.images.filters import blocks, nearest
from perdure.records.preprocessing import Resize, Size


def resampled(pixels: torch.Tensor, size: Size, step: Resize) -> torch.Tensor:
    """Return pixels (n, C, H, W) of another size, height and width.

    uint8 and int32 (levels of 16 bits) stay such; floats are not rounded. Four channels are colour and alpha, and as in
    Pillow colour counts by its alpha. Without antialias whole numbers are rounded once, in the end, as PyTorch does.
    """
    if size == size_of(pixels):
        return pixels
    if pixels.device.type == "mps":  # which has no float64
        return resampled(pixels.cpu(), size, step).to(pixels.device)
    if pixels.shape[1] != 4 or step.filter == "nearest":
        return _by_sides(pixels, size, step)
    colour, alpha = pixels[:, :3], pixels[:, 3:]
    smooth = _by_sides(torch.cat([_multiplied(colour, alpha), alpha], dim=1), size, step)
    return torch.cat([_divided(smooth[:, :3], smooth[:, 3:]), smooth[:, 3:]], dim=1)


def size_of(pixels: torch.Tensor) -> Size:
    """Return height and width of (n, C, H, W), as plain numbers even while it is traced."""
    return int(pixels.shape[-2]), int(pixels.shape[-1])


def _by_sides(pixels: torch.Tensor, size: Size, step: Resize) -> torch.Tensor:
    """Width first, then height, as Pillow does, or the other way round where it does so."""
    smooth = pixels if step.antialias or step.filter == "nearest" else pixels.to(torch.float64)
    for side in ("height", "width") if _height_first(size_of(pixels), size) else ("width", "height"):
        if side == "height":
            smooth = _with_height(smooth, size[0], step)
        else:
            smooth = _with_height(smooth.transpose(-1, -2).contiguous(), size[1], step).transpose(-1, -2)
    return _as(pixels.dtype, smooth) if smooth.dtype != pixels.dtype else smooth.contiguous()


def _with_height(pixels: torch.Tensor, n_new: int, step: Resize) -> torch.Tensor:
    n_old = int(pixels.shape[-2])
    if n_old == n_new:
        return pixels
    if step.filter == "nearest":
        places = nearest(n_old, n_new, adding_up=pixels.dtype == torch.uint8)
        return pixels.index_select(-2, torch.from_numpy(places).to(pixels.device))
    table = blocks(step.filter, n_old, n_new, step.antialias, pixels.dtype == torch.uint8)
    places, weights = (torch.from_numpy(array).to(pixels.device) for array in table)
    runs = pixels.index_select(-2, places.flatten()).unflatten(-2, table.places.shape)
    smooth = torch.matmul(weights, runs.to(torch.float64)).flatten(-3, -2).narrow(-2, 0, n_new)
    return _as(pixels.dtype, smooth)


def _as(dtype: torch.dtype, smooth: torch.Tensor) -> torch.Tensor:
    """Return float64 values as the type of pixels that they stand for."""
    if dtype.is_floating_point:
        return smooth.to(dtype)
    return (smooth + 0.5).floor().clamp(0, 255 if dtype == torch.uint8 else 65535).to(dtype)


def _multiplied(colour: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    if colour.dtype != torch.uint8:
        return colour * alpha
    product = colour.to(torch.int32) * alpha + 128
    return ((product + (product >> 8)) >> 8).to(torch.uint8)  # divided by 255, rounded


def _divided(colour: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    visible = torch.where(alpha == 0, torch.ones_like(alpha), alpha)
    if colour.dtype != torch.uint8:
        return torch.where(alpha == 0, colour, colour / visible)
    divided = torch.div(colour.to(torch.int32) * 255, visible.to(torch.int32), rounding_mode="floor").clamp(max=255)
    return torch.where((alpha == 0) | (alpha == 255), colour, divided.to(torch.uint8))


def _height_first(old: Size, new: Size) -> bool:
    """Tell which side Pillow begins with; before version 13 that was always the width."""
    saved_rows, saved_columns = old[0] - new[0], old[1] - new[1]
    return saved_rows > 0 and saved_rows > 2 * saved_columns and _pillow_may_begin_with_height()


@functools.lru_cache(maxsize=1)
def _pillow_may_begin_with_height() -> bool:
    picture = Image.frombytes("L", (2, 5), bytes(_PROBE))
    at_once = picture.resize((3, 1), Image.Resampling.BILINEAR)
    return (
        at_once.tobytes()
        == picture.resize((2, 1), Image.Resampling.BILINEAR).resize((3, 1), Image.Resampling.BILINEAR).tobytes()
    )


_PROBE = (159, 197, 175, 215, 96, 132, 55, 129, 107, 221)
"""Pixels that come out otherwise when the width is first."""
