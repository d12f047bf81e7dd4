"""What a user gives as images: paths, folders, bytes, files, pictures, arrays, tensors, and lists and streams of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from perdure.errors import InputError, PathError

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif")
"""Of the files in a folder that are taken for images. A file that is named is read whatever its ending."""


class Source(NamedTuple):
    """One image that is not read yet, and what it is called in messages."""

    name: str
    image: Any


def sources(images: Any) -> Iterator[Source]:
    """Yield each image, in order and one by one: a path, bytes, a file, a picture, an array or a tensor.

    A folder is all images below it, by name; an array or a tensor of four axes is that many images.

    Raises:
        InputError: it is no image.
        PathError: a folder without images.
    """
    several = [images] if _is_one(images) else images
    if isinstance(several, dict) or not isinstance(several, Iterable):
        raise InputError(
            f"preparing images: a value of type {type(images).__name__} is no image. Give a path, a folder, bytes, a file, "
            f"a Pillow image, an array, a tensor, or a list of these."
        )
    number = 0
    for image in several:
        if not _is_one(image):
            raise InputError(f"preparing image {number + 1}: a value of type {type(image).__name__} is no image.")
        for single in _singles(image):
            number += 1
            name = os.fsdecode(single) if isinstance(single, (str, os.PathLike)) else f"image {number}"
            yield Source(name, single)


def _is_one(value: Any) -> bool:
    """Tell whether a value is handled by itself, though some of these can be iterated over."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, torch.Tensor)
    return isinstance(value, kinds) or hasattr(value, "read")


def _singles(image: Any) -> Iterable[Any]:
    if isinstance(image, (str, os.PathLike)) and os.path.isdir(image):
        return _in_folder(Path(os.fsdecode(image)))
    if isinstance(image, (np.ndarray, torch.Tensor)) and image.ndim == 4:
        return image
    return (bytes(image) if isinstance(image, (bytearray, memoryview)) else image,)


def _in_folder(folder: Path) -> list[Path]:
    """Return the images below a folder; hidden files are none."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise PathError(
            f"reading {folder}: no image is in this folder or below it. Files are taken by {', '.join(ENDINGS)}."
        )
    return found
