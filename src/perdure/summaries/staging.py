"""A model set up to be followed, on tensors without content or on real ones, and put back as it was."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from perdure.errors import UnsupportedModelError
from perdure.models.examples import Example
from perdure.models.preserving import in_mode
from perdure.models.reaching import Reached
from perdure.models.traced_calls import quiet
from perdure.summaries.contentless import Contentless, exchange, mode_of
from perdure.summaries.following import eagerly

_FAKES = "torch._subclasses.fake_tensor"


@dataclasses.dataclass(frozen=True)
class Stage:
    """A model that is set up to be followed.

    Attributes:
        held: all tensors that it holds, registered or not.
        arguments: makes an example fit.
    """

    held: list[torch.Tensor]
    arguments: Callable[[Example], Example]


@contextlib.contextmanager
def staged(model: nn.Module, *, training: bool, real: bool) -> Iterator[Stage]:
    """Set a model up to be followed, in a mode. Afterwards all is as it was.

    Args:
        model: the model.
        training: the mode; for a step of training its parameters are exchanged for others, which may change.
        real: it runs on real tensors, its own but for the parameters in training, and not on such without content.

    Raises:
        UnsupportedModelError: a parameter cannot be exchanged, and training would change it.
    """
    quietly = quiet(_FAKES, logging.CRITICAL)  # it reports each failure, which is reported here
    with in_mode(model, training=training), deeply(), eagerly(), quietly, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad] if training else []
        if real:
            own = OwnCopies(device_of(model))
            if training:
                exchange(model, lambda tensor: own.of(tensor) if isinstance(tensor, nn.Parameter) else tensor)
            _check_exchanged(model, trained)
            yield Stage(held_by(model), lambda example: with_tensors(example, own.of))
            return
        contentless = Contentless(device_of(model), mode_of(_registered(model)))
        exchange(model, contentless.of)
        _check_exchanged(model, trained)
        for tensor in _registered(model):
            if not isinstance(tensor, FakeTensor):
                contentless.leave(tensor)
        held = contentless.made
        with contentless.mode:
            yield Stage(held, lambda example: with_tensors(example, contentless.of))


def _check_exchanged(model: nn.Module, trained: list[nn.Parameter]) -> None:
    held = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) in held for parameter in trained):
        raise UnsupportedModelError(
            f"following a step of training of {type(model).__name__}: it holds parameters that cannot be exchanged for "
            f"others, as those of TorchScript, and training would change them. Leave optimizer= out."
        )


class OwnCopies:
    """Makes real tensors that may be written into, on a device; of those on `meta`, zeros."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the copy of a tensor, always the same one."""
        if id(tensor) not in self._made:
            self._made[id(tensor)] = (tensor, self._make(tensor))
        return self._made[id(tensor)][1]

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_meta:
            made = torch.zeros_like(tensor, device=self._device)
        elif isinstance(tensor, nn.Parameter):
            made = copy.deepcopy(tensor)
            made.grad = None
            return made
        else:
            made = tensor.detach().clone()
        return made.requires_grad_(tensor.requires_grad)


def with_tensors(example: Example, other: Callable[[torch.Tensor], torch.Tensor]) -> Example:
    """Return a copy of an example that holds other tensors, in objects of any kind; the example stays as it is."""
    things = Reached(example).things
    kept = {key: thing for key, thing in things.items() if isinstance(thing, nn.Module)}
    exchanged = {key: other(thing) for key, thing in things.items() if isinstance(thing, torch.Tensor)}
    try:
        return copy.deepcopy(example, {**kept, **exchanged})
    except Exception:  # whatever objects raise that cannot be copied, such as locks
        return pytree.tree_map_only(torch.Tensor, other, example)


def held_by(holder: nn.Module | Example) -> list[torch.Tensor]:
    """Return all tensors that a model or an example holds, registered or not."""
    found = [thing for thing in Reached(holder).things.values() if isinstance(thing, torch.Tensor)]
    return [*found, *_registered(holder)] if isinstance(holder, nn.Module) else found


def _registered(model: nn.Module) -> list[torch.Tensor]:
    """Return parameters and buffers; modules of TorchScript hold theirs where nothing else of Python reaches them."""
    return [*model.parameters(), *model.buffers()]


def device_of(model: nn.Module) -> torch.device:
    """Return where a model is; of one on `meta`, where it shall seem to be."""
    first: Any = next(iter(_registered(model)), None)
    return torch.device("cpu") if first is None or first.is_meta else first.device


@contextlib.contextmanager
def deeply() -> Iterator[None]:
    """Let calls be nested more deeply than Python lets them: following takes frames of its own for each module.

    The limit is one of all threads: to be entered only where one thread at a time is.
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(2 * limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
