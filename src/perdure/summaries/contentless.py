"""A model whose tensors are exchanged for such without content: they have types, shapes and memory only in name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from perdure.models.containers import is_container
from perdure.models.plain_objects import is_plain_object
from perdure.models.reaching import Reached


class Contentless:
    """Makes tensors without content. One of `meta` is taken for one of the device on which the model shall seem to be."""

    def __init__(self, device: torch.device, mode: FakeTensorMode | None) -> None:
        self.mode = mode or FakeTensorMode(allow_non_fake_inputs=True)
        self.device = device
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._memory: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    @property
    def made(self) -> list[torch.Tensor]:
        """All counterparts that there are."""
        return [made for _, made in self._made.values()]

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the counterpart of a tensor, always the same one; those of one memory share it too."""
        if id(tensor) not in self._made:
            with _disable_current_modes():
                self._made[id(tensor)] = (tensor, self._make(tensor))
        return self._made[id(tensor)][1]

    def leave(self, tensor: torch.Tensor) -> None:
        """Leave a tensor where it is; the mode makes its counterpart, the same one for all operators that get it."""
        self._made[id(tensor)] = (tensor, self.mode.from_tensor(tensor))

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        if type(tensor) not in (torch.Tensor, nn.Parameter, FakeTensor) or _is_special(tensor):
            made = self.mode.from_tensor(tensor)
            made.grad = None
            return made
        seen = torch.empty(0, dtype=tensor.dtype, device="meta")
        seen.set_(self._memory_of(tensor), tensor.storage_offset(), tensor.shape, tensor.stride())
        made = FakeTensor(self.mode, seen, self.device if tensor.is_meta else tensor.device)
        if isinstance(tensor, nn.Parameter):
            made._is_param = True  # all that `nn.Parameter` does, but for a `detach` that costs more than all else here
        return made.requires_grad_(tensor.requires_grad and tensor.is_leaf)

    def _memory_of(self, tensor: torch.Tensor) -> torch.UntypedStorage:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._memory:
            empty = torch.empty(storage.nbytes(), dtype=torch.uint8, device="meta")
            self._memory[storage._cdata] = storage, empty.untyped_storage()
        return self._memory[storage._cdata][1]


def _is_special(tensor: torch.Tensor) -> bool:
    """Tell a tensor that is more than a view of memory."""
    return (
        tensor.layout is not torch.strided
        or tensor.is_quantized
        or tensor.is_conj()
        or tensor.is_neg()
        or tensor.is_nested
    )


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
