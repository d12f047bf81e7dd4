"""A module becomes an architecture: its tree and its attributes as data. The model is only looked at."""

from __future__ import annotations

import contextlib
import copy
import copyreg
import functools
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize

from perdure.errors import PerdureError, UnsupportedValueError
from perdure.models.naming import find
from perdure.models.plain_objects import pickled_state, plain_items
from perdure.models.reaching import Reached
from perdure.models.recorded_values import ValueWriter
from perdure.models.wrapping import unwrapped
from perdure.records.architecture import (
    LISTED,
    NOT_KEPT,
    Architecture,
    ContainerRecord,
    ModuleRecord,
    Name,
    ObjectRecord,
    TensorRef,
)
from perdure.weights.dtypes import short_name
from perdure.weights.storing import refuse

_LAZY = {UninitializedParameter: "parameter", UninitializedBuffer: "buffer"}
_STATE_DICT_HOOKS = frozenset(
    ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
)
_MISSING = object()


class Recorded(NamedTuple):
    """An architecture, the class or function for each of its names, and the tensors that only its attributes hold.

    What will be otherwise after loading, though the answers are the same, stands in `notes`.
    """

    architecture: Architecture
    code: list[Any]
    loose: dict[str, torch.Tensor]
    notes: list[str]


def record(model: nn.Module, stored: dict[str, torch.Tensor], volatile: dict[str, torch.Tensor]) -> Recorded:
    """Write a model down.

    Args:
        model: the model, unwrapped.
        stored: the tensors that go into the file, by name: the very objects that the model holds.
        volatile: its buffers that are not persistent, by name.

    Returns:
        The architecture. What could not be written stands in its `obstacles`, each with its place.
    """
    return _Recorder(model, stored, volatile).run()


class _Recorder:
    """Walks through modules, objects and shared containers in the order in which they are met, each once."""

    def __init__(self, model: nn.Module, stored: dict[str, torch.Tensor], volatile: dict[str, torch.Tensor]) -> None:
        self._model = model
        self._known: dict[int, tuple[str, bool]] = {}
        for names, in_blob in ((volatile, True), (stored, False)):
            self._known.update({id(tensor): (name, in_blob) for name, tensor in reversed(names.items())})
        self._taken = set(stored) | set(volatile)
        self._names: dict[Name, int] = {}
        self._code: list[Any] = []
        self._modules = _Numbered()
        self._objects = _Numbered()
        self._containers = _Numbered()
        self._tensors = _Numbered()
        self._on_cpu: set[int] = set()
        self._values = ValueWriter(self)
        self.reached = Reached(model)
        self.apart = self.reached.shared
        self.device = device_of(model)
        self.loose: dict[str, torch.Tensor] = {}
        self.notes: list[str] = []
        self._memory = {_storage_of(tensor): name for name, tensor in stored.items()}
        self.obstacles: list[str] = []
        self.left_out: list[str] = []

    def run(self) -> Recorded:
        self.module(self._model, "")
        tables = (
            (self._modules, self._write_module), (self._objects, self._write_object),
            (self._containers, self._write_container), (self._tensors, self._write_tensor),
        )  # fmt: skip
        while not all(table.is_written() for table, _ in tables):
            for table, write in tables:
                table.write(write)
        architecture = Architecture(
            names=tuple(self._names),
            modules=tuple(self._modules.records),
            objects=tuple(self._objects.records),
            containers=tuple(self._containers.records),
            tensors=tuple(self._tensors.records),
            obstacles=tuple(dict.fromkeys(self.obstacles)),
            left_out=tuple(dict.fromkeys(self.left_out)),
        )
        return Recorded(architecture, self._code, self.loose, self.notes)

    def name(self, name: Name, code: Any) -> int:
        if name not in self._names:
            self._names[name] = len(self._names)
            self._code.append(code)
            if not _is_found_by(name, code):
                self.obstacles.append(f"{name.dotted} is another one now than the model's: it was defined again")
        elif self._code[self._names[name]] is not code:
            self.obstacles.append(f"{name.dotted} is the name of two that are not the same")
        return self._names[name]

    def module(self, module: nn.Module, place: str) -> int:
        return self._modules.number(unwrapped(module), place)

    def object(self, value: Any, place: str) -> int:
        return self._objects.number(value, place)

    def container(self, value: Any, place: str) -> int:
        return self._containers.number(value, place)

    def holder_of(self, hooks: Any) -> tuple[nn.Module, str] | None:
        for module in self._model.modules() if hooks is not None else ():
            for key, held in vars(module).items():
                if held is hooks:
                    return module, key
        return None

    def _write_module(self, module: nn.Module, place: str) -> ModuleRecord:
        parametrized = parametrize.is_parametrized(module)
        kind = parametrize.type_before_parametrizations(module) if parametrized else type(module)
        if isinstance(module, torch.jit.ScriptModule):
            self._obstacle(place, "a TorchScript module")
            return ModuleRecord(self._values.of_class(nn.Module))
        state = self._state(module, place, kind) if not parametrized else dict(vars(module))
        return ModuleRecord(
            of=self._values.of_class(kind),
            attributes=self._attributes(state, place),
            parameters=self._held(state.get("_parameters", {}), place),
            buffers=self._held(state.get("_buffers", {}), place),
            volatile=tuple(sorted(state.get("_non_persistent_buffers_set", ()))),
            modules={
                key: None if child is None else self.module(child, _join(place, key))
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
        try:
            state = module.__getstate__()
        except Exception as error:  # the class's own code
            self._obstacle(place, f"a {_shown(kind)}, whose __getstate__ fails ({type(error).__name__}: {error}),")
            return {}
        if not isinstance(state, dict):
            self._obstacle(place, f"a {_shown(kind)}, whose __getstate__ gives a {type(state).__name__}")
            return {}
        return state

    def _attributes(self, state: dict[str, Any], place: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in state.items():
            if key in LISTED or key in NOT_KEPT or _is_default(key, value):
                continue
            if key in _STATE_DICT_HOOKS:
                value = self._writable_hooks(value, _join(place, key))
            encoded = self._encode(value, _join(place, str(key)))
            if encoded is not _MISSING:
                found[key] = encoded
        return found

    def _writable_hooks(self, hooks: dict[int, Any], place: str) -> dict[int, Any]:
        """Leave out hooks that cannot be written, such as a closure of PyTorch's own; they do not touch the answers."""
        kept: OrderedDict[int, Any] = OrderedDict()
        for number, hook in hooks.items():
            with self._leaving_out():
                if self._encode(hook, f"{place}[{number}]") is not _MISSING:
                    kept[number] = hook
        return kept

    @contextlib.contextmanager
    def _leaving_out(self) -> Iterator[None]:
        """What cannot be written meanwhile is left out, instead of standing in the way."""
        n_obstacles = len(self.obstacles)
        yield
        self.left_out += self.obstacles[n_obstacles:]
        del self.obstacles[n_obstacles:]

    def _encode(self, value: Any, place: str) -> Any:
        try:
            return self._values.encode(value, place)
        except UnsupportedValueError as error:
            self.obstacles.append(str(error).removeprefix("saving ").split(". Save what")[0])
            return _MISSING

    def _obstacle(self, place: str, what: str) -> None:
        self.obstacles.append(f"{place or 'the model'}: {what} is not data")

    def _held(self, held: dict[str, Any], place: str) -> dict[str, int | None]:
        return {key: None if tensor is None else self.tensor(tensor, _join(place, key)) for key, tensor in held.items()}

    def tensor(self, tensor: torch.Tensor, place: str, *, on_cpu: bool = False) -> int:
        if on_cpu:
            self._on_cpu.add(id(tensor))
        return self._tensors.number(tensor, place)

    def _write_tensor(self, tensor: torch.Tensor, place: str) -> TensorRef:
        parameter, trained = isinstance(tensor, nn.Parameter), tensor.requires_grad and tensor.is_leaf
        lazy = _LAZY.get(type(tensor))
        if lazy is not None:
            return TensorRef(short_name(tensor.dtype), False, lazy == "parameter", trained, lazy)
        if parameter and type(tensor) is not nn.Parameter:
            self._obstacle(place, f"a parameter of the type {_shown(type(tensor))}")
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            self.left_out.append(f"{place}: hooks of its gradient")
        attributes = self._of_tensor(tensor, place)
        if id(tensor) in self._known:
            name, in_blob = self._known[id(tensor)]
            return TensorRef(name, in_blob, parameter, trained, attributes=attributes)
        name = self._add_loose(tensor, place)
        stays = self.device is not None and self.device.type != tensor.device.type == "cpu"
        stays = stays or id(tensor) in self._on_cpu
        return TensorRef(name, True, parameter, trained, on_cpu=stays, attributes=attributes)

    def _of_tensor(self, tensor: torch.Tensor, place: str) -> dict[str, Any]:
        """Write what was set on a tensor itself, such as the marks that libraries put on parameters."""
        with self._leaving_out():
            return self._attributes(vars(tensor), place)

    def _add_loose(self, tensor: torch.Tensor, place: str) -> str:
        """Give a tensor that only an attribute holds a name of its own."""
        try:
            refuse(place, tensor)
        except PerdureError as error:
            self.obstacles.append(str(error).removeprefix("saving "))
            return place
        name = place
        while name in self._taken:
            name += "_"
        shared = self._memory.get(_storage_of(tensor)) if tensor.numel() else None
        if shared:
            self.notes.append(f"{place} lies in the memory of {shared}; after loading it is a copy")
        self._taken.add(name)
        self.loose[name] = tensor.detach()
        return name

    def _write_object(self, value: Any, place: str) -> ObjectRecord:
        number = self._values.of_class(type(value))
        try:
            kept = pickled_state(value)
        except Exception as error:  # the class's own code
            self._obstacle(
                place, f"a {_shown(type(value))}, which cannot be pickled ({type(error).__name__}: {error}),"
            )
            return ObjectRecord(number)
        state = self._encode(kept, place)
        items = self._encode(plain_items(value), place)
        return ObjectRecord(number, *(None if part is _MISSING else part for part in (state, items)))

    def _write_container(self, value: Any, place: str) -> ContainerRecord:
        encoded = self._encode(copy.copy(value), place)
        return ContainerRecord(type(value).__name__, None if encoded is _MISSING else encoded)


class _Numbered:
    """Things and their numbers. They are written down later than they are met, so that nesting costs no stack."""

    def __init__(self) -> None:
        self._things: list[Any] = []
        self._places: list[str] = []
        self._numbers: dict[int, int] = {}
        self.records: list[Any] = []

    def number(self, value: Any, place: str) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._things)
            self._things.append(value)
            self._places.append(place)
        return self._numbers[id(value)]

    def is_written(self) -> bool:
        return len(self.records) == len(self._things)

    def write(self, write: Callable[[Any, str], Any]) -> None:
        while not self.is_written():
            number = len(self.records)
            self.records.append(write(self._things[number], self._places[number]))


@functools.cache
def _defaults() -> dict[str, Any]:
    return vars(nn.Module())


def _is_default(key: str, value: Any) -> bool:
    """Tell whether an attribute is one that every module has and that nobody has touched."""
    default = _defaults().get(key, _MISSING)
    return type(value) is type(default) and value == default


def device_of(model: nn.Module) -> torch.device | None:
    """Return where a model is; None where it is at several devices, or has no tensors."""
    devices = {tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())}
    return devices.pop() if len(devices) == 1 else None


def _storage_of(tensor: torch.Tensor) -> int | None:
    return tensor.untyped_storage().data_ptr() or None if tensor.layout is torch.strided else None


def _is_found_by(name: Name, code: Any) -> bool:
    """Tell whether a name leads to its class, or to nothing, as the names of local classes do."""
    found = find(name.module, name.path) if not name.function and not name.registered else None
    return found is None or found is code


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _shown(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
