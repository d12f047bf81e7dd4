"""A model whose tensors are exchanged for such without content: they have types, shapes and memory only in name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from perdure.models.containers import is_container
from perdure.models.plain_objects import is_plain_object
from perdure.models.reaching import Reached


class Contentless:
    """Makes tensors without content. One of `meta` is taken for one of the device on which the model shall seem to be."""

    def __init__(self, device: torch.device, mode: FakeTensorMode | None) -> None:
        self.mode = mode or FakeTensorMode(allow_non_fake_inputs=True)
        self.device = device
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the counterpart of a tensor, always the same one; those of one memory share it too."""
        if id(tensor) not in self._made:
            self._made[id(tensor)] = (tensor, self._make(tensor))
        return self._made[id(tensor)][1]

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_meta and type(tensor) in (torch.Tensor, nn.Parameter):
            made = self._as(tensor, FakeTensor(self.mode, tensor.data, self.device))
        elif isinstance(tensor, FakeTensor):
            made = self._as(tensor, tensor.data)
        else:
            made = self.mode.from_tensor(tensor)
        made.grad = None
        return made


    @staticmethod
    def _as(tensor: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        """Make a counterpart a parameter, or one that gets gradients, where the tensor is."""
        trained = tensor.requires_grad and tensor.is_leaf
        return nn.Parameter(made, trained) if isinstance(tensor, nn.Parameter) else made.requires_grad_(trained)


def mode_of(tensors: Iterable[torch.Tensor]) -> FakeTensorMode | None:
    """Return the mode to which tensors belong that have no content already."""
    return next((tensor.fake_mode for tensor in tensors if isinstance(tensor, FakeTensor)), None)


def exchange(model: nn.Module, other: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Exchange the tensors that a model holds, in its modules, plain objects and containers. Tuples stay as they are."""
    for thing in Reached(model).things.values():
        if isinstance(thing, dict):
            _exchange_values(thing, other)
        elif isinstance(thing, list | deque):
            for number, item in enumerate(thing):
                if isinstance(item, torch.Tensor):
                    thing[number] = other(item)
        elif isinstance(thing, nn.Module) or is_container(thing) or is_plain_object(thing):
            _exchange_values(getattr(thing, "__dict__", {}), other)


def _exchange_values(held: dict[Any, Any], other: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for key, item in held.items():
        if isinstance(item, torch.Tensor):
            held[key] = other(item)
