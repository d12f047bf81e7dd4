"""From levels, the whole numbers of a decoded picture, to the values that a model takes.

There are 256 levels (65536 of 16 bits), so what each becomes is computed once, and looked up for every pixel.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from perdure.records.preprocessing import PreprocessSpec

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64", "uint8")
}


def n_levels(spec: PreprocessSpec) -> int:
    """Return how many levels a channel has."""
    return 65536 if spec.decode.mode == "I;16" else 256


@functools.lru_cache(maxsize=32)
def levels(spec: PreprocessSpec) -> np.ndarray:
    """Return what each level becomes before mean and standard deviation: (levels,), float64 if the result is, else float32.

    It is rescaled in float64 and rounded once. For a rescale of 1/255 these are torchvision's bits, which divides in
    float32, for any other those of transformers on NumPy arrays.
    """
    whole = np.arange(n_levels(spec))
    if spec.dtype == "uint8":
        return whole.astype(np.uint8)
    return (whole * spec.rescale + spec.offset).astype(np.float64 if spec.dtype == "float64" else np.float32)


@functools.lru_cache(maxsize=32)
def _table(spec: PreprocessSpec) -> np.ndarray:
    """Return what each level of each channel becomes: (C, levels), channels in the order of the result.

    Mean and standard deviation follow one after the other in the type of the result, float32 for the types that NumPy lacks.
    """
    table = np.tile(levels(spec), (spec.n_channels, 1))
    if spec.mean is not None:
        table -= np.array(spec.mean, table.dtype)[:, None]
    if spec.std is not None:
        table /= np.array(spec.std, table.dtype)[:, None]
    return table[::-1].copy() if spec.channels == "BGR" else table


def normalized(pixels: np.ndarray, spec: PreprocessSpec) -> torch.Tensor:
    """Return pixels (H, W, C), uint8 or uint16, as a model takes them: one image, in the layout and type asked for."""
    table = _table(spec)
    height, width, n_channels = pixels.shape
    planes = np.empty((n_channels, height, width), table.dtype)
    for place in range(n_channels):
        channel = n_channels - 1 - place if spec.channels == "BGR" else place
        np.take(table[place], pixels[..., channel], out=planes[place], mode="clip")
    image = torch.from_numpy(planes).to(DTYPES[spec.dtype])
    return image if spec.layout == "CHW" else image.permute(1, 2, 0).contiguous()
