"""A module becomes an architecture: its tree and its attributes as data. The model is only looked at."""

from __future__ import annotations

import copyreg
import enum
import functools
import logging
import types
from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.module import _WrappedHook
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from perdure.errors import PerdureError, UnsupportedValueError
from perdure.models.naming import name_of_class, name_of_function, name_of_method
from perdure.records import values
from perdure.records.architecture import LISTED, Architecture, ModuleRecord, Name, ObjectRecord, TensorRef
from perdure.records.values import TAG
from perdure.weights.dtypes import short_name
from perdure.weights.storing import refuse

_LAZY = {UninitializedParameter: "parameter", UninitializedBuffer: "buffer"}
_STATE_DICT_HOOKS = frozenset(
    ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
)
_MISSING = object()


class Recorded(NamedTuple):
    """An architecture, the class or function for each of its names, and the tensors that only its attributes hold."""

    architecture: Architecture
    code: list[Any]
    loose: dict[str, torch.Tensor]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside of those that only run another one: compiled, DataParallel, DistributedDataParallel."""
    while True:
        compiled = vars(model).get("_modules", {}).get("_orig_mod")
        if type(model).__name__ == "OptimizedModule" and compiled is not None:
            model = compiled
        elif isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        else:
            return model


def record(model: nn.Module, stored: dict[str, torch.Tensor], volatile: dict[str, torch.Tensor]) -> Recorded:
    """Write a model down.

    Args:
        model: the model, unwrapped.
        stored: the tensors that go into the file, by name: the very objects that the model holds.
        volatile: its buffers that are not persistent, by name.

    Returns:
        The architecture. What could not be written stands in its `obstacles`, each with its place.
    """
    return _Recorder(stored, volatile).run(model)


class _Recorder:
    """Walks through modules and objects in the order in which they are met, each once."""

    def __init__(self, stored: dict[str, torch.Tensor], volatile: dict[str, torch.Tensor]) -> None:
        self._known: dict[int, tuple[str, bool]] = {}
        for names, in_blob in ((volatile, True), (stored, False)):
            self._known.update({id(tensor): (name, in_blob) for name, tensor in reversed(names.items())})
        self._taken = set(stored) | set(volatile)
        self._names: dict[Name, int] = {}
        self._code: list[Any] = []
        self._modules: dict[int, int] = {}
        self._objects: dict[int, int] = {}
        self._tensors: dict[int, int] = {}
        self._refs: list[TensorRef] = []
        self._waiting: list[tuple[str, Any]] = []
        self._kept: list[Any] = []
        self._module_records: dict[int, ModuleRecord] = {}
        self._object_records: dict[int, ObjectRecord] = {}
        self.loose: dict[str, torch.Tensor] = {}
        self.obstacles: list[str] = []
        self.left_out: list[str] = []

    def run(self, model: nn.Module) -> Recorded:
        self._module(model, "")
        while self._waiting:
            place, value = self._waiting.pop()
            if isinstance(value, nn.Module):
                self._module_records[self._modules[id(value)]] = self._write_module(value, place)
            else:
                self._object_records[self._objects[id(value)]] = self._write_object(value, place)
        architecture = Architecture(
            names=tuple(self._names),
            modules=tuple(self._module_records[number] for number in range(len(self._module_records))),
            objects=tuple(self._object_records[number] for number in range(len(self._object_records))),
            tensors=tuple(self._refs),
            obstacles=tuple(dict.fromkeys(self.obstacles)),
            left_out=tuple(dict.fromkeys(self.left_out)),
        )
        return Recorded(architecture, self._code, self.loose)

    def _name(self, name: Name, code: Any) -> int:
        if name not in self._names:
            self._names[name] = len(self._names)
            self._code.append(code)
        return self._names[name]

    def _class(self, kind: type) -> int:
        return self._name(name_of_class(kind), kind)

    def _number(self, table: dict[int, int], value: Any, place: str) -> int:
        """Give a module or an object its number; it is written down later, so that nesting costs no stack."""
        if id(value) not in table:
            table[id(value)] = len(table)
            self._waiting.append((place, value))
            self._kept.append(value)
        return table[id(value)]

    def _module(self, module: nn.Module, place: str) -> int:
        return self._number(self._modules, unwrapped(module), place)

    def _write_module(self, module: nn.Module, place: str) -> ModuleRecord:
        parametrized = parametrize.is_parametrized(module)
        kind = parametrize.type_before_parametrizations(module) if parametrized else type(module)
        if isinstance(module, torch.jit.ScriptModule):
            self._obstacle(place, "a TorchScript module")
            return ModuleRecord(self._class(nn.Module))
        state = self._state(module, place, kind) if not parametrized else dict(vars(module))
        return ModuleRecord(
            of=self._class(kind),
            attributes=self._attributes(module, state, place),
            parameters=self._held(state.get("_parameters", {}), place),
            buffers=self._held(state.get("_buffers", {}), place),
            volatile=tuple(sorted(state.get("_non_persistent_buffers_set", ()))),
            modules={
                key: None if child is None else self._module(child, _join(place, key))
                for key, child in state.get("_modules", {}).items()
            },
            training=module.training,
            parametrized=parametrized,
        )

    def _state(self, module: nn.Module, place: str, kind: type) -> dict[str, Any]:
        """Return what pickling would keep of a module."""
        if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
            self._obstacle(place, f"a {_shown(kind)}, which pickles itself in its own way")
            return {}
        if any(hasattr(module, slot) for slot in copyreg._slotnames(kind)):  # type: ignore[attr-defined]
            self._obstacle(place, "a module with slots")
        state = module.__getstate__()
        if not isinstance(state, dict):
            self._obstacle(place, f"a {_shown(kind)}, whose __getstate__ gives a {type(state).__name__}")
            return {}
        return state

    def _attributes(self, module: nn.Module, state: dict[str, Any], place: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in state.items():
            if key in LISTED or key == "_compiled_call_impl" or _is_default(key, value):
                continue
            if key in _STATE_DICT_HOOKS:
                value = self._writable_hooks(value, _join(place, key), module)
            encoded = self._encode(value, _join(place, str(key)), module)
            if encoded is not _MISSING:
                found[key] = encoded
        return found

    def _writable_hooks(self, hooks: dict[int, Any], place: str, module: nn.Module) -> dict[int, Any]:
        """Leave out hooks that cannot be written, such as a closure of PyTorch's own; they do not touch the answers."""
        kept: OrderedDict[int, Any] = OrderedDict()
        for number, hook in hooks.items():
            n_obstacles = len(self.obstacles)
            if self._encode(hook, f"{place}[{number}]", module) is not _MISSING:
                kept[number] = hook
            self.left_out += self.obstacles[n_obstacles:]
            del self.obstacles[n_obstacles:]
        return kept

    def _encode(self, value: Any, place: str, module: nn.Module | None) -> Any:
        try:
            return values.encode(value, place, functools.partial(self._hook, module))
        except UnsupportedValueError as error:
            self.obstacles.append(str(error).removeprefix("saving ").split(". Save what")[0])
            return _MISSING

    def _obstacle(self, place: str, what: str) -> None:
        self.obstacles.append(f"{place or 'the model'}: {what} is not data")

    def _held(self, held: dict[str, Any], place: str) -> dict[str, int | None]:
        return {
            key: None if tensor is None else self._tensor(tensor, _join(place, key)) for key, tensor in held.items()
        }

    def _tensor(self, tensor: torch.Tensor, place: str) -> int:
        if id(tensor) not in self._tensors:
            self._tensors[id(tensor)] = len(self._refs)
            self._kept.append(tensor)
            self._refs.append(self._ref(tensor, place))
        return self._tensors[id(tensor)]

    def _ref(self, tensor: torch.Tensor, place: str) -> TensorRef:
        parameter, trained = isinstance(tensor, nn.Parameter), tensor.requires_grad and tensor.is_leaf
        lazy = _LAZY.get(type(tensor))
        if lazy is not None:
            return TensorRef(short_name(tensor.dtype), False, lazy == "parameter", trained, lazy)
        if parameter and (type(tensor) is not nn.Parameter or vars(tensor)):
            self._obstacle(place, "a parameter of a type or with attributes of its own")
        if id(tensor) in self._known:
            name, in_blob = self._known[id(tensor)]
            return TensorRef(name, in_blob, parameter, trained)
        try:
            refuse(place, tensor)
        except PerdureError as error:
            self.obstacles.append(str(error).removeprefix("saving "))
            return TensorRef(place, True, parameter, trained)
        name = place
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        self.loose[name] = tensor.detach()
        return TensorRef(name, True, parameter, trained)

    def _hook(self, module: nn.Module | None, value: Any, place: str) -> dict[str, Any] | None:
        """Write a value that is not plain, tagged; None where it cannot be written."""
        if isinstance(value, nn.Module):
            return {TAG: "module", "of": self._module(value, place)}
        if isinstance(value, torch.Tensor):
            return {TAG: "tensor", "of": self._tensor(value, place)}
        for kinds, write in _WRITERS:
            if isinstance(value, kinds):
                return write(self, value, place)
        if isinstance(value, type):
            return {TAG: "class", "of": self._class(value)}
        if callable(value) and (name := name_of_function(value)):
            return {TAG: "function", "of": self._name(name, value)}
        return self._object(value, place)

    def inner(self, value: Any, place: str) -> Any:
        """Write a value within another; what cannot be written ends the whole."""
        return values.encode(value, place, functools.partial(self._hook, None))

    def _partial(self, value: functools.partial[Any], place: str) -> dict[str, Any]:
        parts = [value.func, list(value.args), dict(value.keywords)]
        return {TAG: "partial", "of": [self.inner(part, f"{place}, within a partial") for part in parts]}

    def _method(self, value: types.MethodType, place: str) -> dict[str, Any] | None:
        """Write a method of a module or a plain object, by the function that is bound; None for any other."""
        owner = value.__self__
        name = name_of_method(value.__func__, type(owner))
        if name is None or isinstance(owner, type) or (name.module.startswith("torch.") and not name.is_torchs):
            return None
        encoded = self.inner(owner, place)
        if not isinstance(encoded, dict) or encoded.get(TAG) not in ("module", "object"):
            return None
        return {TAG: "method", "of": [encoded, self._name(name, value.__func__)]}

    def _enum(self, value: enum.Enum, place: str) -> dict[str, Any] | None:
        member = value.name in type(value).__members__
        return {TAG: "enum", "of": [self._class(type(value)), value.name]} if member else None

    def _default_dict(self, value: defaultdict[Any, Any], place: str) -> dict[str, Any] | None:
        factory = None if value.default_factory is None else self.inner(value.default_factory, f"{place}'s factory")
        pairs = self.inner([[key, item] for key, item in value.items()], place)
        return {TAG: "defaultdict", "of": [factory, pairs]}

    def _handle(self, value: RemovableHandle, place: str) -> dict[str, Any] | None:
        """Write what removes a hook by the place of the hooks; None where those belong to no module that is known."""
        hooks = value.hooks_dict_ref()
        for module in self._kept:
            if isinstance(module, nn.Module):
                for key, held in vars(module).items():
                    if held is hooks and hooks is not None:
                        return {TAG: "handle", "of": [self._module(module, place), key, value.id]}
        return None

    def _wrapped(self, value: _WrappedHook, place: str) -> dict[str, Any]:
        module = value.module() if value.with_module else None
        return {TAG: "hook", "of": [self.inner(value.hook, place), self.inner(module, place)]}

    def _named_tuple(self, value: tuple[Any, ...], place: str) -> dict[str, Any] | None:
        if type(value) is torch.Size:
            return {TAG: "size", "of": list(value)}
        fields = getattr(type(value), "_fields", None)
        if fields is None or getattr(value, "__dict__", None):
            return None
        items = [self.inner(item, f"{place}.{field}") for item, field in zip(value, fields, strict=True)]
        return {TAG: "namedtuple", "of": [self._class(type(value)), items]}

    def _logger(self, value: logging.Logger, place: str) -> dict[str, Any]:
        return {TAG: "logger", "of": value.name}

    def _torch_value(self, value: Any, place: str) -> dict[str, Any]:
        return {TAG: _TORCH_KINDS[type(value)], "of": str(value).removeprefix("torch.")}

    def _object(self, value: Any, place: str) -> dict[str, Any] | None:
        """Write a plain object: an instance of a class of Python's own kind that pickles itself in the ordinary way."""
        kind = type(value)
        ordinary = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
        plain = bool(kind.__flags__ & _HEAP_TYPE) and kind.__new__ is object.__new__ and "<" not in kind.__qualname__
        if not ordinary or not plain or kind.__module__ == "builtins":
            return None
        return {TAG: "object", "of": self._number(self._objects, value, place)}

    def _write_object(self, value: Any, place: str) -> ObjectRecord:
        number = self._class(type(value))
        getter = getattr(value, "__getstate__", None)
        custom = getter is not None and getattr(type(value), "__getstate__", None) is not getattr(
            object, "__getstate__", None
        )
        state = getter() if custom and getter else _plain_state(value)
        encoded = self._encode(state, place, None)
        return ObjectRecord(number, None if encoded is _MISSING else encoded)


_HEAP_TYPE = 1 << 9
_TORCH_KINDS: dict[type, str] = {
    torch.dtype: "dtype", torch.device: "device", torch.layout: "layout", torch.memory_format: "memory format",
}  # fmt: skip
_WRITERS: tuple[tuple[Any, Any], ...] = (
    (defaultdict, _Recorder._default_dict),
    (functools.partial, _Recorder._partial),
    (types.MethodType, _Recorder._method),
    (enum.Enum, _Recorder._enum),
    (RemovableHandle, _Recorder._handle),
    (_WrappedHook, _Recorder._wrapped),
    (tuple, _Recorder._named_tuple),
    (logging.Logger, _Recorder._logger),
    (tuple(_TORCH_KINDS), _Recorder._torch_value),
)


@functools.cache
def _defaults() -> dict[str, Any]:
    return vars(nn.Module())


def _is_default(key: str, value: Any) -> bool:
    """Tell whether an attribute is one that every module has and that nobody has touched."""
    default = _defaults().get(key, _MISSING)
    return type(value) is type(default) and value == default


def _plain_state(value: Any) -> dict[str, Any]:
    """Return an object's attributes, those in slots too."""
    slots = {name: getattr(value, name) for name in copyreg._slotnames(type(value)) if hasattr(value, name)}  # type: ignore[attr-defined]
    return {**getattr(value, "__dict__", {}), **slots}


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _shown(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
