"""Models that take loading into their own hands: by hooks, loaders or extra states, or with tensors of types of their own.

They are loaded as `nn.Module.load_state_dict` does it, by copying into the memory that they have, once everything has been
read and verified; where they refuse, they are put back as they were. All other models take the fast way of `placing`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.module import _IncompatibleKeys
from torch.nn.parameter import is_lazy

from perdure.weights.placing import exchange, fill
from perdure.weights.slots import PLAIN_TYPES, Modules
from perdure.weights.storing import copied

_PLAIN_LOADERS = {
    nn.Module._load_from_state_dict,
    _NormBase._load_from_state_dict,  # adds num_batches_tracked to what came before PyTorch 0.4.1: `missing_counters`
    _InstanceNorm._load_from_state_dict,  # refuses statistics it does not keep: they are unexpected here
}


def loads_its_own_way(model: nn.Module, modules: Modules) -> bool:
    """Tell whether a model says itself how it is loaded, or has tensors that only their own type can fill."""
    if getattr(model.load_state_dict, "__func__", None) is not nn.Module.load_state_dict:
        return True
    kinds = {type(module) for _, module in modules}
    return any(_is_special(kind) for kind in kinds) or any(_holds_special(module) for _, module in modules)


def _is_special(kind: type[nn.Module]) -> bool:
    plain = kind._load_from_state_dict in _PLAIN_LOADERS and kind.set_extra_state is nn.Module.set_extra_state
    return not plain


def _holds_special(module: nn.Module) -> bool:
    if module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks:
        return True
    tensors = (
        [*module._parameters.values(), *module._buffers.values()] if module._buffers else module._parameters.values()
    )
    return any(type(tensor) not in PLAIN_TYPES and _has_own_type(tensor) for tensor in tensors if tensor is not None)


def _has_own_type(tensor: torch.Tensor) -> bool:
    own = getattr(type(tensor), "__torch_dispatch__", None) is not getattr(torch.Tensor, "__torch_dispatch__", None)
    return own or tensor.is_nested or is_lazy(tensor)


@dataclasses.dataclass
class Said:
    """What a model said about the state dict that it was given; whether each of its modules was asked, or it alone."""

    missing: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    mismatched: dict[str, str] = dataclasses.field(default_factory=dict)
    errors: list[str] = dataclasses.field(default_factory=list)
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)
    unfilled: set[str] = dataclasses.field(default_factory=set)
    by_modules: bool = False


def load_own_way(model: nn.Module, state: OrderedDict[str, Any]) -> Said:
    """Give a model its state dict as `load_state_dict` would; its modules copy what they take.

    Args:
        model: the model.
        state: tensors and extra states by name, with the modules' versions in `_metadata`. It becomes the model's.
    """
    said = Said()
    with torch.no_grad():
        if getattr(model.load_state_dict, "__func__", None) is not nn.Module.load_state_dict:
            _ask(model, state, said)
        else:
            said.by_modules = True
            origins = {id(value): name for name, value in state.items() if isinstance(value, torch.Tensor)}
            _load_module(model, state, "", state._metadata, said, origins)  # type: ignore[attr-defined]
    mismatched = {match[1]: error for error in said.errors if (match := _SIZES.match(error))}
    said.errors = [error for error in said.errors if error not in mismatched.values()]
    said.mismatched = mismatched
    said.unfilled.update(mismatched)
    return said


_SIZES = re.compile(r"size mismatch for (.*?): ")


def _ask(model: nn.Module, state: OrderedDict[str, Any], said: Said) -> None:
    """Use a `load_state_dict` of the model's own."""
    try:
        answer = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        said.errors.append(str(error))
        return
    said.missing += getattr(answer, "missing_keys", [])
    said.unfilled.update(said.missing)
    said.unexpected += getattr(answer, "unexpected_keys", [])


def _load_module(
    module: nn.Module, state: dict[str, Any], prefix: str, versions: dict[str, Any], said: Said, origins: dict[int, str]
) -> None:
    """Load a module and those below it, each of which sees a dict of its own entries, as PyTorch does."""
    local = {"assign_to_params_buffers": False, **versions.get(prefix[:-1], {})}
    module._load_from_state_dict(state, prefix, local, True, said.missing, said.unexpected, said.errors)
    said.unfilled.update(said.missing)  # a hook may forgive them later
    said.renamed.update(
        {
            origins[id(value)]: name
            for name, value in state.items()
            if id(value) in origins and origins[id(value)] != name
        }
    )
    below: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        if key.startswith(prefix):
            below.setdefault(key[len(prefix) :].partition(".")[0], {})[key] = value
    for name, child in module._modules.items():
        if child is not None:
            start = f"{prefix}{name}."
            own = {key: value for key, value in below.get(name, {}).items() if key.startswith(start)}
            _load_module(child, own, start, versions, said, origins)
    for hook in module._load_state_dict_post_hooks.values():
        hook(module, _IncompatibleKeys(said.missing, said.unexpected))


@contextmanager
def put_back_on_failure(modules: Modules, device: torch.device | None) -> Iterator[set[int]]:
    """Make what is on `meta` real, and where the block fails, put everything back as it was.

    Yields the identities of the tensors that were on `meta`; they are not filled yet.
    """
    held = [(module, dict(module._parameters), dict(module._buffers), type(module)) for _, module in modules]
    sets = [(module, set(module._non_persistent_buffers_set)) for _, module in modules]
    extras = [(module, _extra_state(module)) for _, module in modules]
    tensors = {id(t): t for _, own, more, _ in held for t in (*own.values(), *more.values()) if t is not None}
    kept = [_keep(tensor, device) for tensor in tensors.values()]
    try:
        yield {id(memory.tensor) for memory in kept if memory.was_meta}
    except BaseException:
        for memory in kept:
            memory.put_back()
        for module, parameters, buffers, kind in held:
            module.__class__ = kind
            _refill(module._parameters, parameters)
            _refill(module._buffers, buffers)
        for module, volatile in sets:
            module._non_persistent_buffers_set = volatile
        for module, state in extras:
            with contextlib.suppress(Exception):
                if state is not None:
                    module.set_extra_state(state)
        raise


def _extra_state(module: nn.Module) -> Any:
    if type(module).get_extra_state is nn.Module.get_extra_state:
        return None
    with contextlib.suppress(Exception):  # it is asked for only in case that it has to be put back
        return copy.deepcopy(module.get_extra_state())
    return None


def _refill(held: dict[str, Any], entries: dict[str, Any]) -> None:
    if held != entries or any(held[key] is not entries[key] for key in entries):
        held.clear()
        held.update(entries)


class _Memory:
    """A tensor of a model, and what it consisted of before."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.was_meta = False
        self._kind = type(tensor)

    def put_back(self) -> None:
        return None


class _Lazy(_Memory):
    """A tensor without a shape."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor)
        self._data = tensor.data

    def put_back(self) -> None:
        self.tensor.data = self._data
        self.tensor.__class__ = self._kind


class _Meta(_Memory):
    """A tensor on `meta`, made real: what is on `meta` is kept in another object meanwhile."""

    def __init__(self, tensor: torch.Tensor, device: torch.device | None) -> None:
        super().__init__(tensor)
        self.was_meta = True
        self._other = torch.empty_like(tensor, device=device or "cpu", requires_grad=False)
        exchange(tensor, self._other)

    def put_back(self) -> None:
        exchange(self.tensor, self._other)


class _Real(_Memory):
    """Any other tensor: its memory, and a copy of what stood in it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor)
        self._data = tensor.data
        self._copy = copied(tensor.detach()) if type(tensor) in PLAIN_TYPES else tensor.detach().clone()

    def put_back(self) -> None:
        with torch.no_grad():
            if type(self.tensor) in PLAIN_TYPES:
                self.tensor.data = self._data
                fill(self.tensor.detach(), self._copy)
            else:
                self.tensor.detach().copy_(self._copy)


def _keep(tensor: torch.Tensor, device: torch.device | None) -> _Memory:
    if is_lazy(tensor):
        return _Lazy(tensor)
    return _Meta(tensor, device) if tensor.is_meta and not tensor.is_nested else _Real(tensor)
