"""A pipeline as a module of PyTorch, for batches of tensors on any device; it can be exported and kept inside a graph."""

from __future__ import annotations

import functools

import msgspec
import torch
from torch import nn
from torch.nn import functional

from perdure.errors import InputError
from perdure.images.geometry import crop_corner, fills, pad_corner, resized
from perdure.images.levels import DTYPES, levels, n_levels
from perdure.images.resampling import resampled, size_of
from perdure.records.preprocessing import Crop, Pad, PreprocessSpec, from_plain


class TensorPipeline(nn.Module):
    """Takes images (n, C, H, W), uint8 or float of 0 to 1 (uint16 too, of 16-bit grey), and returns what a model takes.

    uint8 comes out with the bits that Pillow and NumPy give. One channel serves as three. Sizes are those of the example
    when it is exported; the number of images may be dynamic. Decoding is left out: pixels are as they are.
    """

    def __init__(self, spec: PreprocessSpec, name: str = "the images") -> None:
        super().__init__()
        self.pipeline, self.name = msgspec.json.encode(spec).decode(), name

    def extra_repr(self) -> str:
        return self.pipeline

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, C, H, W) or (n, H, W, C), on the device of the images.

        Raises:
            InputError: no batch of images of such channels.
            ImageError: their size cannot become the one asked for.
        """
        spec = _read(self.pipeline)
        pixels = self._shaped(self._readable(images, spec), spec)
        values = _rescaled(pixels, spec)
        if spec.mean is not None:
            values = values - _by_channel(spec.mean, values)
        if spec.std is not None:
            values = values / _by_channel(spec.std, values)
        if spec.channels == "BGR":
            values = values.flip(1)
        if spec.layout == "HWC":
            values = values.permute(0, 2, 3, 1)
        return values.to(DTYPES[spec.dtype]).contiguous()

    def _readable(self, images: torch.Tensor, spec: PreprocessSpec) -> torch.Tensor:
        """Return images in a type that can be computed with, and with all channels."""
        if images.ndim != 4:
            raise InputError(f"preparing {self.name}: a batch has the axes (n, C, H, W), and this has {images.ndim}.")
        if 0 in size_of(images):
            raise InputError(f"preparing {self.name}: their shape is {tuple(images.shape)}; they have no pixels.")
        if images.shape[1] != spec.n_channels:
            if images.shape[1] != 1 or spec.n_channels != 3:
                raise InputError(
                    f"preparing {self.name}: they have {images.shape[1]} channels, and {spec.decode.mode} has "
                    f"{spec.n_channels}. Convert them, or state `input_layout` if the channels come last."
                )
            images = images.expand(-1, 3, -1, -1)
        whole = torch.uint16 if spec.decode.mode == "I;16" else torch.uint8
        if images.dtype == whole:
            return images.to(torch.int32) if whole == torch.uint16 else images
        if not images.is_floating_point():
            raise InputError(
                f"preparing {self.name}: their type is {images.dtype}; {whole} or floats of 0 to 1 were expected."
            )
        return images if images.dtype == torch.float64 else images.to(torch.float32)

    def _shaped(self, pixels: torch.Tensor, spec: PreprocessSpec) -> torch.Tensor:
        if spec.resize is not None:
            pixels = resampled(pixels, resized(size_of(pixels), spec.resize, self.name), spec.resize)
        unit = (n_levels(spec) - 1) if pixels.is_floating_point() else 1
        if spec.crop is not None:
            pixels = _framed(pixels, crop_corner(size_of(pixels), spec.crop), spec.crop, unit)
        if spec.pad is not None:
            pixels = _framed(pixels, pad_corner(size_of(pixels), spec.pad, self.name), spec.pad, unit)
        return pixels


@functools.lru_cache(maxsize=32)
def _read(pipeline: str) -> PreprocessSpec:
    return from_plain(msgspec.json.decode(pipeline), "a module that prepares images")


def _rescaled(pixels: torch.Tensor, spec: PreprocessSpec) -> torch.Tensor:
    top = n_levels(spec) - 1
    if not pixels.is_floating_point():
        table = torch.from_numpy(levels(spec)).to(pixels.device)
        return table.index_select(0, pixels.flatten().to(torch.int32)).view_as(pixels)
    if spec.dtype == "uint8":
        return (pixels * top).round().clamp(0, top)
    values = pixels.to(torch.float64 if spec.dtype == "float64" else torch.float32)
    factor = spec.rescale * top
    values = values if factor == 1 else values * factor
    return values if spec.offset == 0 else values + spec.offset


def _framed(pixels: torch.Tensor, corner: tuple[int, int], step: Crop | Pad, unit: int) -> torch.Tensor:
    """Return the part of images that begins at a corner (top, left); what lies outside of them has one colour."""
    top, left = corner
    height, width = size_of(pixels)
    bottom, right = top + step.size[0], left + step.size[1]
    kept = pixels[..., max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    borders = [max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0)]
    if not any(borders):
        return kept
    colour = [value / unit for value in fills(step.fill, pixels.shape[1])]
    planes = [functional.pad(kept[:, place : place + 1], borders, value=value) for place, value in enumerate(colour)]
    return torch.cat(planes, dim=1)


def _by_channel(numbers: tuple[float, ...], values: torch.Tensor) -> torch.Tensor:
    return torch.tensor(numbers, dtype=values.dtype, device=values.device).view(-1, 1, 1)
