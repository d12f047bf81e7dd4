"""Values of attributes that are more than plain, written as tagged objects; `records.architecture` lists the tags."""

from __future__ import annotations

import enum
import functools
import logging
import types
import weakref
from collections import defaultdict
from collections.abc import Container
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import _WrappedHook
from torch.utils.hooks import RemovableHandle

from perdure.errors import UnsupportedValueError
from perdure.models.naming import name_of_class, name_of_function, name_of_method
from perdure.models.plain_objects import is_plain_object
from perdure.records import values
from perdure.records.architecture import Name
from perdure.records.values import TAG
from perdure.weights.arrays import encode_scalar, take_apart


class Tables(Protocol):
    """What numbers the things that values refer to.

    Attributes:
        reached: all that the model holds.
        apart: the `id` of containers that have a number of their own.
        device: where the model is; None where it is at several.
    """

    @property
    def reached(self) -> Container[Any]: ...
    @property
    def apart(self) -> Container[int]: ...
    @property
    def device(self) -> torch.device | None: ...
    def module(self, module: nn.Module, place: str) -> int: ...
    def tensor(self, tensor: torch.Tensor, place: str, *, on_cpu: bool = False) -> int: ...
    def object(self, value: Any, place: str) -> int: ...
    def container(self, value: Any, place: str) -> int: ...
    def name(self, name: Name, code: Any) -> int: ...
    def holder_of(self, hooks: Any) -> tuple[nn.Module, str] | None: ...


class ValueWriter:
    """Writes values down; what they refer to is numbered by `tables`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._taken: dict[int, tuple[Any, dict[str, Any]]] = {}

    def encode(self, value: Any, place: str) -> Any:
        """Return a value as JSON data.

        Raises:
            UnsupportedValueError: it, or something in it, is no data; the message gives its place.
        """
        return values.encode(value, place, self._tagged, self._tables.apart)

    def of_class(self, kind: type) -> int:
        """Return the number of a class's name."""
        return self._tables.name(name_of_class(kind), kind)

    def _tagged(self, value: Any, place: str) -> dict[str, Any] | None:
        """Write a value that is not plain; None where it is plain or cannot be written."""
        if id(value) in self._tables.apart:
            return {TAG: "container", "of": self._tables.container(value, place)}
        if isinstance(value, nn.Module):
            return {TAG: "module", "of": self._tables.module(value, place)}
        if isinstance(value, torch.Tensor):
            return {TAG: "tensor", "of": self._tables.tensor(value, place)}
        for kinds, write in _WRITERS:
            if isinstance(value, kinds):
                return write(self, value, place)
        if isinstance(value, type):
            return {TAG: "class", "of": self.of_class(value)}
        if callable(value) and (name := name_of_function(value)):
            return {TAG: "function", "of": self._tables.name(name, value)}
        if isinstance(value, types.FunctionType):
            raise UnsupportedValueError(f"saving {place}: a lambda, or a function within another, is found by no name")
        return {TAG: "object", "of": self._tables.object(value, place)} if is_plain_object(value) else None

    def _partial(self, value: functools.partial[Any], place: str) -> dict[str, Any]:
        parts = [value.func, list(value.args), dict(value.keywords)]
        return {TAG: "partial", "of": [self.encode(part, f"{place}, within a partial") for part in parts]}

    def _method(self, value: types.MethodType, place: str) -> dict[str, Any] | None:
        """Write a method of a module, a plain object or a class, by the function that is bound; None for any other."""
        owner = value.__self__
        name = name_of_method(value.__func__, owner if isinstance(owner, type) else type(owner))
        if name is None or (name.module.startswith("torch.") and not name.is_torchs):
            return None
        encoded = {TAG: "class", "of": self.of_class(owner)} if isinstance(owner, type) else self._holder(owner, place)
        return encoded and {TAG: "method", "of": [encoded, self._tables.name(name, value.__func__)]}

    def _holder(self, value: Any, place: str) -> dict[str, Any] | None:
        """Write a module or a plain object; None for anything else."""
        encoded = self._tagged(value, place)
        return encoded if encoded is not None and encoded[TAG] in ("module", "object") else None

    def _weak(self, value: weakref.ref[Any], place: str) -> dict[str, Any] | None:
        """Write a weak reference; one to something that the model does not hold itself leads nowhere after loading."""
        target = value()
        encoded = self._holder(target, place) if target in self._tables.reached else None
        return {TAG: "weak", "of": encoded}

    def _enum(self, value: enum.Enum, place: str) -> dict[str, Any] | None:
        if value.name in type(value).__members__:
            return {TAG: "enum", "of": [self.of_class(type(value)), value.name]}
        return {TAG: "flags", "of": [self.of_class(type(value)), value.value]} if isinstance(value, enum.Flag) else None

    def _default_dict(self, value: defaultdict[Any, Any], place: str) -> dict[str, Any] | None:
        if type(value) is not defaultdict:
            return None
        factory = None if value.default_factory is None else self.encode(value.default_factory, f"{place}'s factory")
        pairs = self.encode([[key, item] for key, item in value.items()], place)
        return {TAG: "defaultdict", "of": [factory, pairs]}

    def _handle(self, value: RemovableHandle, place: str) -> dict[str, Any] | None:
        """Write what removes a hook by the place of the hooks; None where those belong to no module that is known."""
        holder = self._tables.holder_of(value.hooks_dict_ref())
        return holder and {TAG: "handle", "of": [self._tables.module(holder[0], place), holder[1], value.id]}

    def _wrapped(self, value: _WrappedHook, place: str) -> dict[str, Any]:
        module = value.module() if value.with_module else None
        return {TAG: "hook", "of": [self.encode(value.hook, place), self.encode(module, place)]}

    def _named_tuple(self, value: tuple[Any, ...], place: str) -> dict[str, Any] | None:
        if type(value) is torch.Size:
            return {TAG: "size", "of": list(value)}
        fields = getattr(type(value), "_fields", None)
        if fields is None or getattr(value, "__dict__", None):
            return None
        items = [self.encode(item, f"{place}.{field}") for item, field in zip(value, fields, strict=True)]
        return {TAG: "namedtuple", "of": [self.of_class(type(value)), items]}

    def _logger(self, value: logging.Logger, place: str) -> dict[str, Any]:
        return {TAG: "logger", "of": value.name}

    def _scalar(self, value: np.generic, place: str) -> dict[str, Any]:
        return encode_scalar(value, place)

    def _array(self, value: np.ndarray, place: str) -> dict[str, Any] | None:
        if type(value) not in (np.ndarray, np.memmap):
            return None
        if id(value) not in self._taken:
            tensor, record = take_apart(value, place)
            self._taken[id(value)] = (
                value,
                {TAG: "ndarray", "of": self._tables.tensor(tensor, place, on_cpu=True), **record},
            )
        return self._taken[id(value)][1]

    def _generator(self, value: torch.Generator, place: str) -> dict[str, Any]:
        if id(value) not in self._taken:
            state = self._tables.tensor(value.get_state(), place, on_cpu=True)
            self._taken[id(value)] = value, {TAG: "generator", "of": [str(value.device), state]}
        return self._taken[id(value)][1]

    def _torch_value(self, value: Any, place: str) -> dict[str, Any]:
        return {TAG: _TORCH_KINDS[type(value)], "of": str(value).removeprefix("torch.")}

    def _device(self, value: torch.device, place: str) -> dict[str, Any]:
        return {TAG: "device", "of": self._device_text(value)}

    def _device_text(self, device: torch.device) -> str:
        """Return a device's name; the model's own is called so, because it follows the model."""
        own = self._tables.device
        return "model" if own and device.type == own.type and device.index in (None, own.index) else str(device)


_TORCH_KINDS: dict[type, str] = {
    torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory format",
}  # fmt: skip
_WRITERS: tuple[tuple[Any, Any], ...] = (
    (defaultdict, ValueWriter._default_dict),
    (functools.partial, ValueWriter._partial),
    (types.MethodType, ValueWriter._method),
    (weakref.ref, ValueWriter._weak),
    (enum.Enum, ValueWriter._enum),
    (RemovableHandle, ValueWriter._handle),
    (_WrappedHook, ValueWriter._wrapped),
    (tuple, ValueWriter._named_tuple),
    (logging.Logger, ValueWriter._logger),
    (np.generic, ValueWriter._scalar),
    (np.ndarray, ValueWriter._array),
    (torch.Generator, ValueWriter._generator),
    (torch.device, ValueWriter._device),
    (tuple(_TORCH_KINDS), ValueWriter._torch_value),
)
