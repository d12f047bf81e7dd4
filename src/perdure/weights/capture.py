"""What a save takes from its source: a module's state, or the tensors of a mapping. The source is left as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from perdure.errors import InputError
from perdure.records import values
from perdure.records.manifest import ModuleVersions
from perdure.weights.nested import TensorCollector
from perdure.weights.slots import Modules, modules_of
from perdure.weights.storing import Role, refuse

EXTRA_STATE = "_extra_state"


@dataclasses.dataclass
class Captured:
    """A source's tensors and what is known about them.

    Attributes:
        tensors: by the names of the state dict.
        roles: of each tensor.
        versions: the modules' entries of `state_dict._metadata`, grouped.
        extra_state: values of `get_extra_state`, encoded, by their key of the state dict.
        training: whether the modules are in train mode: all, none, or the names of those that are.
        volatile: buffers that are not persistent.
        python_modules: the Python modules that the source's classes come from.
    """

    tensors: dict[str, torch.Tensor]
    roles: dict[str, Role] = dataclasses.field(default_factory=dict)
    versions: tuple[ModuleVersions, ...] = ()
    extra_state: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: bool | tuple[str, ...] | None = None
    volatile: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    python_modules: frozenset[str] = frozenset()


def capture(source: nn.Module | Mapping[str, torch.Tensor]) -> Captured:
    """Take the weights of a module or a mapping.

    Raises:
        InputError: neither a module nor a mapping.
        UnsupportedTensorError: a value of a mapping is no tensor, or one that cannot be stored.
        UnsupportedValueError: an extra state that is not plain data.
    """
    if isinstance(source, nn.Module):
        return _capture_module(source)
    if isinstance(source, Mapping):
        return _capture_mapping(source)
    raise InputError(f"saving: a module or a mapping of names to tensors was expected, not {type(source).__name__}.")


def _capture_mapping(source: Mapping[str, Any]) -> Captured:
    versions = getattr(source, "_metadata", None)
    captured = Captured({}, versions=grouped_versions(versions if isinstance(versions, Mapping) else {}))
    extra: dict[str, Any] = {}
    for key, value in source.items():
        if type(value) is not torch.Tensor and isinstance(value, nn.Parameter):
            captured.roles[key] = _PARAMETER if value.requires_grad else _FROZEN
        if isinstance(value, torch.Tensor) or not _is_extra(key):
            captured.tensors[key] = value
        else:
            extra[key] = value
    return _with_extra(captured, extra)


_PARAMETER, _FROZEN = Role("parameter", True), Role("parameter", False)
_TRAINED_BUFFER, _BUFFER = Role("buffer", True), Role("buffer", False)


def _is_extra(key: object) -> bool:
    return isinstance(key, str) and key.rpartition(".")[2] == EXTRA_STATE


def _capture_module(model: nn.Module) -> Captured:
    captured = _capture_mapping(model.state_dict())
    by_prefix = modules_of(model)
    captured.roles = _roles(by_prefix, captured.tensors)
    firsts: dict[int, tuple[str, nn.Module]] = {}
    for prefix, module in by_prefix:
        firsts.setdefault(id(module), (prefix[:-1], module))
    modules = dict(firsts.values())
    in_training = tuple(name for name, module in modules.items() if module.training)
    captured.training = bool(in_training) if len(in_training) in (0, len(modules)) else in_training
    captured.volatile = _volatile_buffers(modules)
    captured.python_modules = frozenset(type(module).__module__ for module in modules.values())
    return captured


def _roles(modules: Modules, names: Iterable[str]) -> dict[str, Role]:
    """Return what the tensors of a state dict are in the model; of those that a hook made up nothing is known."""
    found: dict[str, Role] = {}
    for prefix, module in modules:
        for key, parameter in module._parameters.items():
            if parameter is not None:
                found[prefix + key] = _PARAMETER if parameter.requires_grad else _FROZEN
        for key, buffer in module._buffers.items():
            if buffer is not None:
                found[prefix + key] = _TRAINED_BUFFER if buffer.requires_grad else _BUFFER
    return {name: found[name] for name in names if name in found}


def _volatile_buffers(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Return the buffers that are not persistent, by full name."""
    found: dict[str, torch.Tensor] = {}
    for prefix, module in modules.items():
        for key in module._non_persistent_buffers_set:
            buffer = module._buffers.get(key)
            if buffer is not None:
                found[f"{prefix}.{key}" if prefix else key] = buffer
    return dict(sorted(found.items()))


def grouped_versions(metadata: Mapping[str, Mapping[str, Any]]) -> tuple[ModuleVersions, ...]:
    """Return the entries of `state_dict._metadata`, each with the modules that have it."""
    groups: dict[Any, tuple[Any, list[str]]] = {}
    for module, entry in metadata.items():
        kept = {key: value for key, value in entry.items() if key != "assign_to_params_buffers"}
        plain = kept.keys() == {"version"} and type(kept["version"]) is int
        key = kept["version"] if plain else repr(kept)
        if key not in groups:
            groups[key] = (kept, [])
        groups[key][1].append(module)
    return tuple(
        ModuleVersions(values.encode(kept, f"version of {modules[0]!r}"), tuple(modules))
        for kept, modules in groups.values()
    )


def _with_extra(captured: Captured, extra: dict[str, Any]) -> Captured:
    if extra:
        collector = TensorCollector(captured.tensors, every_place=False)
        for key, value in extra.items():
            captured.extra_state[key] = values.encode(value, f"extra state {key!r}", collector.hook(key))
        captured.tensors = {**captured.tensors, **collector.tensors}
    return captured


def storable_volatile(captured: Captured) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Divide the buffers that are not persistent into those that can be kept and warnings about the others."""
    kept: dict[str, torch.Tensor] = {}
    warnings: list[str] = []
    for name, buffer in captured.volatile.items():
        try:
            refuse(name, buffer)
            kept[name] = buffer
        except InputError as error:
            warnings.append(f"buffer {name!r} is not persistent and was left out: {error}")
    return kept, warnings
