"""Images become batches: in order, in threads, with bad ones left out on request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from perdure.disk import capabilities
from perdure.errors import FileError, InputError, StorageError
from perdure.images.arrays import dense
from perdure.images.geometry import fixed_size
from perdure.images.levels import DTYPES
from perdure.images.preparing import by_module, goes_by_pillow, prepared
from perdure.images.sources import Source, sources
from perdure.images.streaming import in_order
from perdure.records.preprocessing import PreprocessSpec

_BLOCK_VALUES = 2**24
"""How many values of one tensor are prepared at once in a call: the module takes some 20 bytes for each."""


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


def one_batch(images: Any, spec: PreprocessSpec, layout: str | None, threads: int | None) -> torch.Tensor:
    """Return all images as one tensor; see `Preprocess.__call__`."""
    n_threads = _seen_arguments(layout, threads)
    block = _as_block(images, spec, layout)
    if block is not None:
        at_once = max(1, _BLOCK_VALUES // max(1, block[0].numel()))
        return torch.cat([batch.pixels for batch in _batches_of_block(block, spec, at_once)])
    found = list(sources(images))
    if not found:
        raise InputError("preparing images: there are none.")
    results = in_order(lambda source: prepared(source, spec, layout), found, min(n_threads, len(found)))
    return _gathered(results, [source.name for source in found])


def in_batches(
    images: Any, spec: PreprocessSpec, layout: str | None, threads: int | None, batch_size: int, skip_bad: bool
) -> Iterator[Batch]:
    """Yield batches; see `Preprocess.batches`. Wrong arguments are told at once, not when the first one is asked for."""
    n_threads = _seen_arguments(layout, threads)
    if type(batch_size) is not int or batch_size < 1:
        raise InputError(f"preparing images: `batch_size` is {batch_size!r}; it is a number from 1.")
    block = _as_block(images, spec, layout)
    if block is not None:
        return _batches_of_block(block, spec, batch_size)
    return _batches(images, spec, layout, n_threads, batch_size, skip_bad)


def _seen_arguments(layout: str | None, threads: int | None) -> int:
    """Return how many threads work."""
    if layout not in (None, "CHW", "HWC"):
        raise InputError(f"preparing images: `input_layout` is {layout!r}; it is 'CHW', 'HWC' or None.")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise InputError(f"preparing images: `threads` is {threads!r}; it is a number from 1, or None.")
    return capabilities.n_processors() if threads is None else threads


def _batches(
    images: Any, spec: PreprocessSpec, layout: str | None, n_threads: int, batch_size: int, skip_bad: bool
) -> Iterator[Batch]:
    def work(source: Source) -> tuple[str, torch.Tensor | BadImage]:
        try:
            return source.name, prepared(source, spec, layout)
        except (FileError, StorageError) as error:
            if not skip_bad:
                raise
            return source.name, BadImage(source.name, str(error))

    good: list[torch.Tensor] = []
    names: list[str] = []
    skipped: list[BadImage] = []
    for name, result in in_order(work, sources(images), n_threads):
        if isinstance(result, BadImage):
            skipped.append(result)
            continue
        good.append(result)
        names.append(name)
        if len(good) == batch_size:
            yield Batch(_gathered(good, names), tuple(names), tuple(skipped))
            good, names, skipped = [], [], []
    if good:
        yield Batch(_gathered(good, names), tuple(names), tuple(skipped))
    elif skipped:
        yield Batch(_nothing(spec), (), tuple(skipped))


def _gathered(images: Iterable[torch.Tensor], names: list[str]) -> torch.Tensor:
    """Put images of one size into one tensor, one after the other."""
    rest = iter(images)
    first = next(rest)
    if len(names) == 1:
        return first[None]
    batch = first.new_empty((len(names), *first.shape))
    batch[0] = first
    for place, image in enumerate(rest, 1):
        if image.shape != first.shape:
            raise InputError(
                f"preparing {names[place]}: it comes out with the shape {tuple(image.shape)}, and {names[0]} with "
                f"{tuple(first.shape)}. Let the pipeline end in one size, with `crop`, `pad`, or a resize to an exact one, "
                f"or prepare them one by one."
            )
        if image.device != first.device:
            raise InputError(
                f"preparing {names[place]}: it is on {image.device}, and {names[0]} on {first.device}. Move them together."
            )
        batch[place] = image
    return batch


def _nothing(spec: PreprocessSpec) -> torch.Tensor:
    height, width = fixed_size(spec) or (0, 0)
    shape = (spec.n_channels, height, width) if spec.layout == "CHW" else (height, width, spec.n_channels)
    return torch.empty(0, *shape, dtype=DTYPES[spec.dtype])


def _as_block(images: Any, spec: PreprocessSpec, layout: str | None) -> torch.Tensor | None:
    """Return a tensor (n, C, H, W) that the module prepares as one, as on a GPU; None for what goes image by image."""
    if isinstance(images, np.ndarray) and images.dtype in (np.float32, np.float64) and images.ndim == 4:
        images, layout = torch.from_numpy(np.ascontiguousarray(images)), layout or "HWC"
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or len(images) == 0 or goes_by_pillow(images, spec):
        return None
    images = dense(images, "the images")
    return images.permute(0, 3, 1, 2) if layout == "HWC" else images


def _batches_of_block(images: torch.Tensor, spec: PreprocessSpec, batch_size: int) -> Iterator[Batch]:
    numbers = iter(range(1, len(images) + 1))
    for part in images.split(batch_size):
        names = [f"image {number}" for number in islice(numbers, len(part))]
        name = f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]
        yield Batch(by_module(part, spec, name), tuple(names))
