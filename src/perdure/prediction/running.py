"""A model that is given batches of any size, one thread at a time, within what memory allows."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from perdure.errors import InputError, PerdureError
from perdure.prediction.batch_sizes import BatchSize, is_out_of_memory
from perdure.prediction.calling import Call
from perdure.prediction.logits import logits_in

log = logging.getLogger("perdure")


class Runner:
    """A model on its device, and how it is called.

    Args:
        model: in eval mode.
        call: how it takes images.
        device: where it is.
        size: how many images it is given at once.
        autocast: the type for `torch.autocast`; None for none.
        where: names the model in messages.
    """

    def __init__(
        self, model: Any, call: Call, device: torch.device, size: BatchSize, autocast: torch.dtype | None, where: str
    ) -> None:
        self._model, self._call, self._device, self._size = model, call, device, size
        self._autocast, self._where = autocast, where
        self._lock = threading.Lock()

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the model says about each class of each image, (n, classes), float64 on the CPU.

        Raises:
            InputError: the model does not take the images, does not answer as a classifier does, or one image alone does
                not fit into memory.
        """
        parts: list[torch.Tensor] = []
        start = 0
        with self._lock:
            while start < len(images):
                piece = images[start : start + self._n_at_once()]
                found = self._tried(piece)
                if found is not None:
                    parts.append(found)
                    start += len(piece)
        return torch.cat(parts)

    def _n_at_once(self) -> int:
        return max(self._call.least, min(self._size.now, self._call.most or self._size.now))

    def _tried(self, images: torch.Tensor) -> torch.Tensor | None:
        """Return the logits; None where memory did not suffice, and fewer images are to be tried."""
        self._size.start()
        with self._failing(images) as failed, self._context():
            found = self._answered(images)
            self._size.grow(len(images))
            return found
        if len(images) <= self._call.least or not self._size.halve(len(images)):
            raise InputError(
                f"predicting with {self._where}: {len(images)} image{'s' * (len(images) > 1)} of {list(images.shape[1:])} "
                f"did not fit into the memory of {self._device} ({failed[0]}). Use another device."
            )
        log.info("%s: %d images did not fit into memory; trying %d.", self._where, len(images), self._size.now)
        return None

    def _answered(self, images: torch.Tensor) -> torch.Tensor:
        """Give the model as many images as it takes at least, the last one again where there are too few."""
        n_images = len(images)
        if n_images < self._call.least:
            images = torch.cat([images, images[-1:].expand(self._call.least - n_images, *images.shape[1:])])
        answer = self._call.answer(self._model, images.to(self._device))
        return logits_in(answer, len(images))[:n_images]

    @contextlib.contextmanager
    def _context(self) -> Iterator[None]:
        with torch.inference_mode(), contextlib.ExitStack() as stack:
            if self._autocast is not None:
                stack.enter_context(torch.autocast(self._device.type, self._autocast))
            yield

    @contextlib.contextmanager
    def _failing(self, images: torch.Tensor) -> Iterator[list[str]]:
        """Note in a list that memory did not suffice; any other failure of the model's code is an error of the call."""
        failed: list[str] = []
        try:
            yield failed
        except PerdureError:
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise InputError(
                    f"predicting with {self._where}: the model fails on images of {list(images.shape)}, {images.dtype} "
                    f"({type(error).__name__}: {str(error)[:300]}). Look at perdure.info(path).preprocess."
                ) from error
            failed.append(str(error)[:200])


def placed(model: nn.Module, device: torch.device, compiled: bool) -> Any:
    """Return a model in eval mode on a device, compiled if that is asked for."""
    model = model.to(device).eval()
    return torch.compile(model) if compiled else model
