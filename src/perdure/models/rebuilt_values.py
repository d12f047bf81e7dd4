"""Values of attributes that are more than plain, built from their tagged objects; `records.architecture` lists the tags."""

from __future__ import annotations

import enum
import functools
import logging
import types
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.module import _WrappedHook
from torch.utils.hooks import RemovableHandle

from perdure.errors import CorruptError, UntrustedError
from perdure.models.naming import unbound
from perdure.records import values
from perdure.records.values import TAG
from perdure.weights.arrays import decode_scalar, put_together


class Tables(Protocol):
    """What values refer to by number: modules, objects and containers, which may still be empty, tensors and code."""

    @property
    def modules(self) -> Sequence[nn.Module]: ...
    @property
    def objects(self) -> Sequence[Any]: ...
    @property
    def containers(self) -> Sequence[Any]: ...
    @property
    def found(self) -> Sequence[Any]: ...
    @property
    def device(self) -> torch.device: ...
    def tensor(self, number: int) -> torch.Tensor: ...


class ValueReader:
    """Builds values; what they refer to is taken from `tables`."""

    def __init__(self, tables: Tables, where: str) -> None:
        self._tables = tables
        self._where = where
        self._made: dict[tuple[str, int], Any] = {}
        self._handles: list[tuple[RemovableHandle, int, str, int]] = []

    def decode(self, encoded: Any) -> Any:
        """Return the value of JSON data.

        Raises:
            CorruptError: it is none.
            UntrustedError: it binds a method to what is neither a module nor an object.
        """
        return values.decode(encoded, self._where, self._build)

    def connect_handles(self) -> None:
        """Give the handles that were built their hooks, once all modules have theirs."""
        for handle, number, key, hook in self._handles:
            hooks = vars(self._tables.modules[number]).get(key)
            if not isinstance(hooks, OrderedDict):
                raise CorruptError(f"loading {self._where}: a handle means hooks that are not there.")
            handle.hooks_dict_ref = weakref.ref(hooks)
            handle.id = hook
            handle.extra_dict_ref = ()

    def _build(self, tagged: dict[str, Any]) -> Any:
        tag = str(tagged[TAG])
        builder = _BUILDERS.get(tag)
        if builder is None:
            raise CorruptError(f"loading {self._where}: its architecture has the unknown tag {tag[:40]!r}.")
        return builder(self, tagged if tag in _WHOLE else tagged.get("of"))

    def _of_module(self, number: Any) -> nn.Module:
        return self._tables.modules[_index(number)]

    def _of_tensor(self, number: Any) -> torch.Tensor:
        return self._tables.tensor(_index(number))

    def _of_object(self, number: Any) -> Any:
        return self._tables.objects[_index(number)]

    def _of_container(self, number: Any) -> Any:
        return self._tables.containers[_index(number)]

    def _of_name(self, number: Any) -> Any:
        return self._tables.found[_index(number)]

    def _partial(self, content: Any) -> functools.partial[Any]:
        function, arguments, keywords = (self.decode(part) for part in content)
        if not callable(function) or (isinstance(function, type) and not issubclass(function, nn.Module)):
            raise ValueError("a partial is made of a function or a class of modules")
        return functools.partial(function, *arguments, **keywords)

    def _method(self, content: Any) -> Any:
        """Bind a permitted function to a module, an object or a class of the model, which has to define it."""
        of_class = isinstance(content[0], dict) and content[0].get(TAG) == "class"
        owner = self.decode(content[0]) if of_class else self._holder(content[0])
        kind, function = owner if of_class else type(owner), self._of_name(content[1])
        held = [value for base in kind.__mro__ for value in vars(base).values() if unbound(value) is function]
        bindable = any(isinstance(value, classmethod if of_class else types.FunctionType) for value in held)
        if not isinstance(function, types.FunctionType) or not bindable:
            raise ValueError(f"{kind.__qualname__} has no such method")
        return types.MethodType(function, owner)

    def _holder(self, encoded: Any) -> Any:
        value = self.decode(encoded)
        if not isinstance(encoded, dict) or encoded.get(TAG) not in ("module", "object"):
            raise UntrustedError(f"loading {self._where}: it binds a method to what is neither a module nor an object.")
        return value

    def _weak(self, content: Any) -> weakref.ref[Any]:
        return weakref.ref(self._holder(content) if content is not None else _Gone())

    def _default_dict(self, content: Any) -> Any:
        factory, pairs = self.decode(content[0]), self.decode(content[1])
        if factory is not None and not isinstance(factory, type | types.FunctionType):
            raise ValueError("a default is made by a class or a function")
        values.check_alike([key for key, _ in pairs])
        return defaultdict(factory, {key: value for key, value in pairs})

    def _enum(self, content: Any) -> Any:
        return self._of_name(content[0]).__members__[str(content[1])]

    def _flags(self, content: Any) -> Any:
        kind, number = self._of_name(content[0]), self.decode(content[1])
        if not issubclass(kind, enum.Flag) or type(number) is not int:
            raise ValueError(f"{kind.__qualname__} has no flags")
        return kind(number)

    def _named_tuple(self, content: Any) -> Any:
        kind, items = self._of_name(content[0]), [self.decode(item) for item in content[1]]
        if not issubclass(kind, tuple) or len(getattr(kind, "_fields", ())) != len(items):
            raise ValueError(f"{kind.__qualname__} has not {len(items)} fields")
        return tuple.__new__(kind, items)

    def _handle(self, content: Any) -> RemovableHandle:
        handle = object.__new__(RemovableHandle)
        number, key, hook = _index(content[0]), str(content[1]), int(content[2])
        self._of_module(number)
        self._handles.append((handle, number, key, hook))
        return handle

    def _wrapped(self, content: Any) -> _WrappedHook:
        hook, module = self.decode(content[0]), self.decode(content[1])
        if not callable(hook):
            raise ValueError("a hook is something to be called")
        return _WrappedHook(hook, module)

    def _scalar(self, tagged: dict[str, Any]) -> Any:
        return decode_scalar(tagged, self._where)

    def _array(self, tagged: dict[str, Any]) -> Any:
        number = _index(tagged["of"])
        return self._once("array", number, lambda: put_together(self._of_tensor(number), tagged, self._where))

    def _generator(self, content: Any) -> torch.Generator:
        number = _index(content[1])

        def make() -> torch.Generator:
            generator = torch.Generator(str(content[0]))
            generator.set_state(self._of_tensor(number))
            return generator

        return self._once("generator", number, make)

    def _once(self, kind: str, number: int, make: Callable[[], Any]) -> Any:
        """Make a thing of a tensor when it is first met, and give the same one from then on."""
        if (kind, number) not in self._made:
            self._made[kind, number] = make()
        return self._made[kind, number]

    def _device(self, text: Any) -> torch.device:
        return self._tables.device if text == "model" else torch.device(str(text))


class _Gone:
    """What is not there any more when a weak reference to it is asked."""


def _index(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{str(number)[:40]!r} is no entry of a table")
    return number


def _logger(name: str) -> logging.Logger:
    if len(name) > _LONGEST_LOGGER:
        raise ValueError(f"the name of a logger has {len(name)} letters")
    return logging.getLogger(name)


_LONGEST_LOGGER = 300


def _torch_value(kind: type) -> Callable[[ValueReader, Any], Any]:
    def build(_: ValueReader, text: Any) -> Any:
        found = vars(torch).get(str(text))
        if not isinstance(found, kind):
            raise ValueError(f"{str(text)[:40]!r} is no {kind.__name__} of this PyTorch")
        return found

    return build


_WHOLE = ("scalar", "ndarray")
"""Tags whose builders take the whole tagged object."""

_BUILDERS: dict[str, Callable[[ValueReader, Any], Any]] = {
    "module": ValueReader._of_module,
    "tensor": ValueReader._of_tensor,
    "object": ValueReader._of_object,
    "container": ValueReader._of_container,
    "class": ValueReader._of_name,
    "function": ValueReader._of_name,
    "partial": ValueReader._partial,
    "method": ValueReader._method,
    "weak": ValueReader._weak,
    "defaultdict": ValueReader._default_dict,
    "enum": ValueReader._enum,
    "flags": ValueReader._flags,
    "namedtuple": ValueReader._named_tuple,
    "handle": ValueReader._handle,
    "hook": ValueReader._wrapped,
    "logger": lambda _, name: _logger(str(name)),
    "scalar": ValueReader._scalar,
    "ndarray": ValueReader._array,
    "generator": ValueReader._generator,
    "size": lambda _, sizes: torch.Size(sizes),
    "dtype": _torch_value(torch.dtype),
    "layout": _torch_value(torch.layout),
    "memory format": _torch_value(torch.memory_format),
    "device": ValueReader._device,
}
