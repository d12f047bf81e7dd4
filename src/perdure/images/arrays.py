"""Arrays and tensors as images: their axes and types become those that the pipeline works with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from perdure.errors import InputError

_TOO_LARGE = 16
"""A float image holds 0 to 1; one with values beyond this holds 0 to 255. Between are colours brighter than white."""


def as_picture(array: np.ndarray, name: str) -> Image.Image:
    """Return a picture of Pillow's with the pixels of an array (H, W, C) of uint8, or of uint16 with one channel.

    Raises:
        InputError: it has more than 4 channels.
    """
    if array.shape[-1] > 4:
        raise _wrong_channels(array.shape, name)
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array))


def channels_last(array: np.ndarray, layout: str | None, name: str) -> np.ndarray:
    """Return an image (H, W, C), native in byte order; without a layout it is (H, W, C) or (H, W).

    Raises:
        InputError: it has other axes, or a type that holds no image.
    """
    native = array.dtype.newbyteorder("=")
    if native.kind != "f" and native not in (np.uint8, np.uint16):
        raise _wrong_type(array.dtype, name)
    array = array.astype(native, copy=False)
    if array.ndim == 2:
        array = array[..., None]
    elif layout == "CHW":
        array = array.transpose(1, 2, 0)
    return _seen(array, 2, name)


def channels_first(tensor: torch.Tensor, layout: str | None, name: str) -> torch.Tensor:
    """Return an image (C, H, W); without a layout it is (C, H, W) or (H, W).

    Raises:
        InputError: it has other axes, or a type that holds no image.
    """
    tensor = dense(tensor, name)
    if tensor.ndim == 2:
        tensor = tensor[None]
    elif layout == "HWC":
        tensor = tensor.permute(2, 0, 1)
    return _seen(tensor, 0, name)


def dense(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Return a plain tensor.

    Raises:
        InputError: it has a type that holds no image, or no values of its own, as sparse ones and those on `meta`.
    """
    if not tensor.is_floating_point() and tensor.dtype not in (torch.uint8, torch.uint16):
        raise _wrong_type(tensor.dtype, name)
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise InputError(
            f"preparing {name}: it is a tensor of layout {tensor.layout} on {tensor.device}. Give a dense one."
        )
    return tensor.as_subclass(torch.Tensor)


def _seen(image: Any, channel_axis: int, name: str) -> Any:
    if image.ndim != 3:
        raise InputError(f"preparing {name}: it has {image.ndim} axes; an image has 2 or 3, and a batch of them 4.")
    if 0 in image.shape:
        raise InputError(f"preparing {name}: its shape is {tuple(image.shape)}; it has no pixels.")
    if not 1 <= image.shape[channel_axis] <= 4:
        raise _wrong_channels(image.shape, name)
    return image


def see_that_floats_are_small(image: Any, name: str) -> None:
    """Refuse floats of 0 to 255, which would come out 255 times too bright.

    Raises:
        InputError: it holds such.
    """
    most = image.max() if 0 not in image.shape else 0
    if most > _TOO_LARGE:
        raise InputError(
            f"preparing {name}: its floats go up to {float(most):g}, and those of an image are of 0 to 1. Divide them by "
            f"255, or convert them to uint8."
        )


def _wrong_channels(shape: tuple[int, ...], name: str) -> InputError:
    return InputError(
        f"preparing {name}: of its shape {tuple(shape)} no axis that counts channels is where it should be. NumPy arrays "
        f"are taken for (H, W, C), tensors for (C, H, W): say otherwise with input_layout='CHW' or 'HWC'."
    )


def _wrong_type(dtype: Any, name: str) -> InputError:
    return InputError(f"preparing {name}: it is of {dtype}. Convert it to uint8, uint16, or floats of 0 to 1.")
