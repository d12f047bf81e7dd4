"""PyTorch's own protocol of loading: hooks and modules that take their state dict into their own hands."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.module import _IncompatibleKeys

Modules = list[tuple[str, nn.Module]]
"""Every module of a model with the prefix of its names."""

Versions = Mapping[str, dict[str, Any]]
"""The entries of `state_dict._metadata` by module."""

_PLAIN_LOADERS = {
    nn.Module._load_from_state_dict,
    _NormBase._load_from_state_dict,  # adds num_batches_tracked to what came before PyTorch 0.4.1: `missing_counters`
    _InstanceNorm._load_from_state_dict,  # refuses statistics it does not keep: they are unexpected here
}


@dataclasses.dataclass
class State:
    """A state dict on its way into a model, with what its hooks and modules said about it."""

    tensors: OrderedDict[str, Any]
    metadata: Versions
    missing: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)

    @contextmanager
    def below(self, prefix: str) -> Iterator[tuple[Any, ...]]:
        """Give what PyTorch passes to the loader and the hooks of the module with this prefix.

        They see its own entries and its children's in a dict of their own; what they make of it takes its place.
        """
        mine = OrderedDict((name, entry) for name, entry in self.tensors.items() if name.startswith(prefix))
        local = {"assign_to_params_buffers": False, **self.metadata.get(prefix[:-1], {})}
        yield mine, prefix, local, True, self.missing, self.unexpected, self.errors
        others = ((name, entry) for name, entry in self.tensors.items() if not name.startswith(prefix))
        made = ((name, entry) for name, entry in mine.items() if name.startswith(prefix))
        self.tensors = OrderedDict([*others, *made])


def has_own_loader(module: nn.Module) -> bool:
    """Tell whether a module loads itself in its own way, so that nobody else may fill its places."""
    return type(module)._load_from_state_dict not in _PLAIN_LOADERS


def own_prefixes(modules: Modules) -> list[str]:
    """Return the prefixes of the modules that load themselves."""
    return [prefix for prefix, module in modules if has_own_loader(module)]


def loads_itself(modules: Modules, names: Iterable[str]) -> set[str]:
    """Return those names that a module which loads itself answers for, its children's left out."""
    owned: set[str] = set()
    for prefix, module in modules:
        if has_own_loader(module):
            children = tuple(f"{prefix}{child}." for child in module._modules)
            owned |= {name for name in names if name.startswith(prefix) and not name.startswith(children)}
    return owned


def has_hooks(modules: Modules) -> bool:
    """Tell whether some module has a hook or a loader that wants to see the state dict."""
    return any(module._load_state_dict_pre_hooks or has_own_loader(module) for _, module in modules)


def run_hooks(modules: Modules, state: State) -> None:
    """Run the hooks that prepare a state dict, as `load_state_dict` would; they may rename and replace its entries."""
    for prefix, module in modules:
        if module._load_state_dict_pre_hooks and not has_own_loader(module):
            with state.below(prefix) as arguments:
                for hook in module._load_state_dict_pre_hooks.values():
                    hook(*arguments)


def missing_counters(modules: Modules, names: Container[str], versions: Callable[[], Versions]) -> list[str]:
    """Return the `num_batches_tracked` that a file from before batch norm counted need not have."""
    absent = [
        prefix
        for prefix, module in modules
        if isinstance(module, _NormBase)
        and module.num_batches_tracked is not None
        and f"{prefix}num_batches_tracked" not in names
        and f"{prefix}running_mean" in names
    ]
    known = versions() if absent else {}
    return [f"{prefix}num_batches_tracked" for prefix in absent if (known.get(prefix[:-1], {}).get("version") or 1) < 2]


def run_own_loaders(modules: Modules, state: State) -> None:
    """Let the modules that load themselves do so, copying into the memory that they have."""
    with torch.no_grad():
        for prefix, module in modules:
            if has_own_loader(module):
                with state.below(prefix) as arguments:
                    module._load_from_state_dict(*arguments)


def run_post_hooks(modules: Modules, missing: list[str], unexpected: list[str]) -> None:
    """Run the hooks that follow a load."""
    for _, module in modules:
        for hook in module._load_state_dict_post_hooks.values():
            hook(module, _IncompatibleKeys(missing, unexpected))
