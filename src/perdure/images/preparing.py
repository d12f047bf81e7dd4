"""One image of any kind becomes one tensor: by Pillow where it holds whole numbers of 8 bits, else by the module."""

from __future__ import annotations

import threading

import numpy as np
import torch
from PIL import Image

from perdure.errors import InputError
from perdure.images.arrays import as_picture, channels_first, channels_last, see_that_floats_are_small
from perdure.images.decoding import decode
from perdure.images.levels import normalized
from perdure.images.pictures import shaped
from perdure.images.sources import Source
from perdure.images.tensor_pipeline import TensorPipeline
from perdure.records.preprocessing import PreprocessSpec

_LOCKS = tuple(threading.Lock() for _ in range(64))
"""Pictures and files have a state while they are read: one that is given twice is read by one thread at a time."""


def prepared(source: Source, spec: PreprocessSpec, layout: str | None) -> torch.Tensor:
    """Return an image as a model takes it, without the axis of the batch.

    Args:
        source: the image.
        spec: the pipeline.
        layout: of an array or tensor, `CHW` or `HWC`; None for the usual one of its kind.

    Raises:
        ImageError: a bad image; the message names it.
        InputError: an array or tensor that is no image.
        StorageError: the system refused to read it.
    """
    name, image = source
    if isinstance(image, torch.Tensor):
        return _of_tensor(channels_first(image, layout, name), spec, name)
    if isinstance(image, np.ndarray):
        return _of_array(channels_last(image, layout, name), spec, name)
    if isinstance(image, (str, bytes)) or hasattr(image, "__fspath__"):
        return _of_picture(decode(image, spec.decode, name), spec, name)
    with _LOCKS[id(image) // 64 % len(_LOCKS)]:
        picture = decode(image, spec.decode, name)
    return _of_picture(picture, spec, name)


def goes_by_pillow(image: torch.Tensor, spec: PreprocessSpec) -> bool:
    """Tell whether a tensor is resized by Pillow: it is faster, and the bits are those of the module."""
    if spec.resize is None or not (spec.resize.antialias or spec.resize.filter == "nearest"):
        return False
    return image.dtype == torch.uint8 and image.device.type == "cpu" and spec.decode.mode != "I;16"


def by_module(images: torch.Tensor, spec: PreprocessSpec, name: str) -> torch.Tensor:
    """Return images (n, C, H, W) as a model takes them, on their own device."""
    if images.is_floating_point():
        see_that_floats_are_small(images, name)
    return TensorPipeline(spec, name)(images)


def _of_tensor(image: torch.Tensor, spec: PreprocessSpec, name: str) -> torch.Tensor:
    if image.dtype == torch.uint16 and spec.decode.mode != "I;16":
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    if not goes_by_pillow(image, spec) or image.shape[0] not in (1, spec.n_channels):
        return by_module(image[None], spec, name)[0]
    return _of_array(image.permute(1, 2, 0).numpy(), spec, name)


def _of_array(image: np.ndarray, spec: PreprocessSpec, name: str) -> torch.Tensor:
    if image.dtype == np.uint16 and spec.decode.mode != "I;16":
        image = (image >> 8).astype(np.uint8)
    if image.dtype == np.uint16 and image.shape[-1] != 1:
        raise InputError(
            f"preparing {name}: of 16 bits, only grey is prepared as such, and it has {image.shape[-1]} channels."
        )
    if image.dtype in (np.uint8, np.uint16):
        return _of_picture(decode(as_picture(image, name), spec.decode, name), spec, name)
    image = image if image.dtype in (np.float32, np.float64) else image.astype(np.float32)
    return by_module(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None], spec, name)[0]


def _of_picture(picture: Image.Image, spec: PreprocessSpec, name: str) -> torch.Tensor:
    if spec.decode.mode == "I;16":  # Pillow has resized these only since version 11, and lets them run over
        pixels = torch.from_numpy(np.asarray(picture).copy())
        return by_module(pixels[None, None], spec, name)[0]
    pixels = np.asarray(shaped(picture, spec, name))
    return normalized(pixels if pixels.ndim == 3 else pixels[..., None], spec)
