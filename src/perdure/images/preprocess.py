"""`Preprocess`: images of any kind become one tensor, the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from perdure.records.preprocessing import Crop, Decode, Pad, PreprocessSpec, Resize


class BadImage(NamedTuple):
    """An image that was left out: its name, and why."""

    name: str
    reason: str


class Batch(NamedTuple):
    """Images as a model takes them.

    Attributes:
        pixels: (n, C, H, W) or (n, H, W, C).
        names: what each came from: a path, or `image 7` for the seventh.
        skipped: what was left out since the batch before.
    """

    pixels: torch.Tensor
    names: tuple[str, ...]
    skipped: tuple[BadImage, ...] = ()


class Preprocess:
    """A frozen pipeline; equal ones compare equal, and `repr` writes one that can be pasted. See `PreprocessSpec`."""

    spec: PreprocessSpec

    def __init__(
        self,
        *,
        resize: int | tuple[int, int] | Resize | None = None,
        crop: int | tuple[int, int] | Crop | None = None,
        pad: int | tuple[int, int] | Pad | None = None,
        crop_ratio: float | None = None,
        rescale: float = 1 / 255,
        offset: float = 0.0,
        mean: float | tuple[float, ...] | None = None,
        std: float | tuple[float, ...] | None = None,
        decode: Decode | None = None,
        channels: str = "RGB",
        layout: str = "CHW",
        dtype: str | torch.dtype = "float32",
    ) -> None:
        """An int for `resize` is the shorter side, for `crop` and `pad` a square; `crop_ratio` makes the resize from crop."""
        raise NotImplementedError

    def __call__(self, images: Any, *, input_layout: str | None = None, threads: int | None = None) -> torch.Tensor:
        """Return one batch: a single image gives one of 1. Bad images are an ImageError that names them."""
        raise NotImplementedError

    def batches(
        self,
        images: Any,
        *,
        batch_size: int = 32,
        input_layout: str | None = None,
        threads: int | None = None,
        skip_bad: bool = False,
    ) -> Iterator[Batch]:
        """Stream a folder or any iterable, in order, with bounded memory."""
        raise NotImplementedError

    def as_module(self) -> nn.Module:
        """Return a module for batches of tensors (n, C, H, W), uint8 or float of 0 to 1, that can be exported."""
        raise NotImplementedError

    @classmethod
    def of(cls, value: Any) -> Preprocess:
        """Take a Preprocess, its plain data, or what a peer has: presets, processors, configurations."""
        raise NotImplementedError
