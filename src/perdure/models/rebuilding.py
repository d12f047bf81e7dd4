"""An architecture becomes a module again: no constructor is called, and only what the caller permits is used."""

from __future__ import annotations

import copyreg
import functools
import logging
import types
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.module import _WrappedHook
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from perdure.errors import CorruptError, PerdureError, UntrustedError
from perdure.records import values
from perdure.records.architecture import LISTED, Architecture, ModuleRecord, TensorRef
from perdure.records.values import TAG
from perdure.weights.dtypes import by_name

Fetch = Callable[[TensorRef], torch.Tensor]


def rebuild(architecture: Architecture, found: list[Any], tensors: Fetch, where: str) -> nn.Module:
    """Build the model of an architecture.

    Args:
        architecture: checked, without obstacles.
        found: the class or function for each of its names.
        tensors: gives the content of a tensor; each is asked for once.
        where: names the file in messages.

    Raises:
        CorruptError: its values do not fit together.
        UntrustedError: it binds a method that it may not, or hides a method of a class behind a value.
    """
    return _Rebuilder(architecture, found, tensors, where).run()


class _Rebuilder:
    """All modules and objects are made first, empty, so that they can refer to each other; then they get their state."""

    def __init__(self, architecture: Architecture, found: list[Any], tensors: Fetch, where: str) -> None:
        self._architecture = architecture
        self._found = found
        self._where = where
        self._fetch = tensors
        self._tensors: dict[int, torch.Tensor] = {}
        self._modules = [self._empty(record) for record in architecture.modules]
        self._objects = [self._empty_object(record.of) for record in architecture.objects]
        self._handles: list[tuple[RemovableHandle, int, str, int]] = []

    def run(self) -> nn.Module:
        """Build all of it.

        Raises:
            CorruptError: what the file says cannot be built, or the classes' own code fails on it.
        """
        try:
            return self._run()
        except PerdureError:
            raise
        except Exception as error:
            raise CorruptError(
                f"loading {self._where}: it cannot be rebuilt ({type(error).__name__}: {str(error)[:200]})."
            ) from error

    def _run(self) -> nn.Module:
        for record, thing in zip(self._architecture.objects, self._objects, strict=True):
            self._set_state(thing, self._decode(record.state))
        for number in self._children_first():
            self._fill(self._architecture.modules[number], self._modules[number])
        for handle, number, key, hook in self._handles:
            self._connect(handle, number, key, hook)
        for record, module in zip(self._architecture.modules, self._modules, strict=True):
            if record.parametrized:
                _parametrize(module, self._where)
        return self._modules[0]

    def _empty(self, record: ModuleRecord) -> nn.Module:
        kind = self._found[record.of]
        if not isinstance(kind, type) or not issubclass(kind, nn.Module):
            raise CorruptError(f"loading {self._where}: {kind!r} stands for a module and is no class of modules.")
        return cast("nn.Module", object.__new__(kind))

    def _empty_object(self, number: int) -> Any:
        kind = self._found[number]
        if not isinstance(kind, type) or issubclass(kind, nn.Module | type) or kind.__new__ is not object.__new__:
            raise CorruptError(f"loading {self._where}: {kind!r} stands for a plain object and is no class of such.")
        return object.__new__(kind)

    def _children_first(self) -> list[int]:
        order: list[int] = []
        waiting = list(reversed(range(len(self._modules))))
        entered: set[int] = set()
        done: set[int] = set()
        while waiting:
            number = waiting[-1]
            children = [child for child in self._architecture.modules[number].modules.values() if child is not None]
            todo = [child for child in children if child not in entered]
            if number not in entered and todo:
                entered.add(number)
                waiting += todo
                continue
            entered.add(number)
            waiting.pop()
            if number not in done:
                done.add(number)
                order.append(number)
        return order

    def _fill(self, record: ModuleRecord, module: nn.Module) -> None:
        state = dict(vars(nn.Module()))
        state["training"] = record.training
        state["_parameters"] = self._held(record.parameters)
        state["_buffers"] = self._held(record.buffers)
        state["_non_persistent_buffers_set"] = set(record.volatile)
        state["_modules"] = {
            key: None if number is None else self._modules[number] for key, number in record.modules.items()
        }
        for key, value in record.attributes.items():
            if key in LISTED:
                raise CorruptError(f"loading {self._where}: the file sets {key}, which is listed elsewhere in it.")
            state[key] = self._decode(value)
            self._check_shadow(type(module), module, key, state[key])
            _reserve_ids(state[key])
        if type(module).__setstate__ is nn.Module.__setstate__:
            nn.Module.__setstate__(module, state)
        else:
            module.__setstate__(state)

    def _held(self, held: Mapping[str, int | None]) -> dict[str, Any]:
        return {key: None if number is None else self._tensor(number) for key, number in held.items()}

    def _set_state(self, thing: Any, state: Any) -> None:
        """Give a plain object its state as unpickling would: by its own `__setstate__`, else attribute by attribute."""
        own = getattr(type(thing), "__setstate__", None)
        if own is not None:
            own(thing, state)
            return
        slots = copyreg._slotnames(type(thing))  # type: ignore[attr-defined]
        for key, value in (state or {}).items():
            self._check_shadow(type(thing), thing, key, value)
            if key in slots:
                object.__setattr__(thing, key, value)
            else:
                thing.__dict__[str(key)] = value

    def _check_shadow(self, kind: type, holder: Any, key: str, value: Any) -> None:
        """See that a value does not stand where the class has a method, unless it is a method of the same holder."""
        own = isinstance(value, types.MethodType) and value.__self__ is holder
        dunder = key.startswith("__") and key.endswith("__")
        hidden = dunder or (callable(getattr(kind, key, None)) and callable(value))
        if hidden and not own:
            raise UntrustedError(
                f"loading {self._where}: the file would put a value in the place of {kind.__qualname__}.{key}, which is a "
                f"method. Files of perdure's do so only with methods of the same module."
            )

    def _tensor(self, number: int) -> torch.Tensor:
        if number not in self._tensors:
            try:
                ref = self._architecture.tensors[number]
            except IndexError:
                raise ValueError(f"there is no tensor {number}") from None
            self._tensors[number] = self._make(ref)
        return self._tensors[number]

    def _make(self, ref: TensorRef) -> torch.Tensor:
        if ref.lazy:
            kind: Any = UninitializedParameter if ref.lazy == "parameter" else UninitializedBuffer
            return kind(requires_grad=ref.requires_grad, dtype=by_name(ref.name, self._where), device="cpu")
        tensor = self._fetch(ref)
        if ref.parameter:
            return nn.Parameter(tensor, ref.requires_grad)
        return tensor.requires_grad_() if ref.requires_grad else tensor

    def _decode(self, encoded: Any) -> Any:
        return values.decode(encoded, self._where, self._build)

    def _build(self, tagged: dict[str, Any]) -> Any:
        """Build the value of a tagged object that is not in the plain vocabulary."""
        tag, content = str(tagged[TAG]), tagged.get("of")
        builder = _BUILDERS.get(tag)
        if builder is None:
            raise CorruptError(f"loading {self._where}: its architecture has the unknown tag {tag[:40]!r}.")
        return builder(self, content)

    def _of_module(self, number: Any) -> nn.Module:
        return self._modules[_index(number)]

    def _of_tensor(self, number: Any) -> torch.Tensor:
        return self._tensor(_index(number))

    def _of_object(self, number: Any) -> Any:
        return self._objects[_index(number)]

    def _of_name(self, number: Any) -> Any:
        return self._found[_index(number)]

    def _partial(self, content: Any) -> functools.partial[Any]:
        function, arguments, keywords = (self._decode(part) for part in content)
        if not callable(function) or (isinstance(function, type) and not issubclass(function, nn.Module)):
            raise ValueError("a partial is made of a function or a class of modules")
        return functools.partial(function, *arguments, **keywords)

    def _method(self, content: Any) -> Any:
        """Bind a permitted function to a module or an object of the model, whose class has to define it."""
        owner, function = self._decode(content[0]), self._found[_index(content[1])]
        if not any(owner is thing for thing in (*self._modules, *self._objects)):
            raise UntrustedError(f"loading {self._where}: it binds a method to what is neither a module nor an object.")
        defined = any(value is function for base in type(owner).__mro__ for value in vars(base).values())
        if not isinstance(function, types.FunctionType) or not defined:
            raise ValueError(f"{type(owner).__qualname__} has no such method")
        return types.MethodType(function, owner)

    def _default_dict(self, content: Any) -> Any:
        factory, pairs = self._decode(content[0]), self._decode(content[1])
        if factory is not None and not isinstance(factory, type | types.FunctionType):
            raise ValueError("a default is made by a class or a function")
        return defaultdict(factory, {key: value for key, value in pairs})

    def _enum(self, content: Any) -> Any:
        return self._found[_index(content[0])].__members__[str(content[1])]

    def _named_tuple(self, content: Any) -> Any:
        kind, items = self._found[_index(content[0])], [self._decode(item) for item in content[1]]
        if not issubclass(kind, tuple) or len(getattr(kind, "_fields", ())) != len(items):
            raise ValueError(f"{kind.__qualname__} has not {len(items)} fields")
        return tuple.__new__(kind, items)

    def _handle(self, content: Any) -> RemovableHandle:
        handle = object.__new__(RemovableHandle)
        number, key, hook = _index(content[0]), str(content[1]), int(content[2])
        self._of_module(number)
        self._handles.append((handle, number, key, hook))
        return handle

    def _connect(self, handle: RemovableHandle, number: int, key: str, hook: int) -> None:
        hooks = vars(self._modules[number]).get(key)
        if not isinstance(hooks, OrderedDict):
            raise CorruptError(f"loading {self._where}: a handle means hooks that are not there.")
        handle.hooks_dict_ref = weakref.ref(hooks)
        handle.id = hook
        handle.extra_dict_ref = ()

    def _wrapped(self, content: Any) -> _WrappedHook:
        hook, module = self._decode(content[0]), self._decode(content[1])
        if not callable(hook):
            raise ValueError("a hook is something to be called")
        return _WrappedHook(hook, module)


def _reserve_ids(hooks: Any) -> None:
    """See that hooks registered from now on get other numbers than those of the file."""
    if isinstance(hooks, OrderedDict):
        numbers = [key for key in hooks if type(key) is int and key < 2**53]
        RemovableHandle.next_id = max([RemovableHandle.next_id, *(number + 1 for number in numbers)])


def _index(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{str(number)[:40]!r} is no entry of a table")
    return number


def _torch_value(kind: type) -> Callable[[_Rebuilder, Any], Any]:
    def build(rebuilder: _Rebuilder, text: Any) -> Any:
        found = getattr(torch, str(text), None) if str(text).isidentifier() else None
        if not isinstance(found, kind):
            raise ValueError(f"{str(text)[:40]!r} is no {kind.__name__} of this PyTorch")
        return found

    return build


_BUILDERS: dict[str, Callable[[_Rebuilder, Any], Any]] = {
    "module": _Rebuilder._of_module,
    "tensor": _Rebuilder._of_tensor,
    "object": _Rebuilder._of_object,
    "class": _Rebuilder._of_name,
    "function": _Rebuilder._of_name,
    "partial": _Rebuilder._partial,
    "method": _Rebuilder._method,
    "defaultdict": _Rebuilder._default_dict,
    "enum": _Rebuilder._enum,
    "namedtuple": _Rebuilder._named_tuple,
    "handle": _Rebuilder._handle,
    "hook": _Rebuilder._wrapped,
    "logger": lambda _, name: logging.getLogger(str(name)),
    "size": lambda _, sizes: torch.Size(sizes),
    "dtype": _torch_value(torch.dtype),
    "layout": _torch_value(torch.layout),
    "memory format": _torch_value(torch.memory_format),
    "device": lambda _, text: torch.device(str(text)),
}


def _parametrize(module: nn.Module, where: str) -> None:
    """Give a module the class with properties that PyTorch makes for parametrized ones."""
    lists = module._modules.get("parametrizations")
    if not isinstance(lists, nn.ModuleDict):
        raise CorruptError(f"loading {where}: a module is parametrized, and has no parametrizations.")
    parametrize._inject_new_class(module)
    for name in lists:
        parametrize._inject_property(module, name)
