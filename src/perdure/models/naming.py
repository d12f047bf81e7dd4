"""Names of classes and functions: how code is named in a file, and the names that `register` gives."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from perdure.errors import InputError
from perdure.records.architecture import Name
from perdure.records.torch_names import FUNCTIONS

Kind = TypeVar("Kind", bound=type)
Migration = Callable[..., Any]


class Registration(NamedTuple):
    """A name that outlives import paths, and how data of earlier versions becomes that of the present one."""

    name: str
    version: int
    migrations: Mapping[int, Migration]


_registered: dict[type, Registration] = {}
_by_name: dict[str, type] = {}


def register(
    name: str, *, version: int = 1, migrations: Mapping[int, Migration] | None = None
) -> Callable[[Kind], Kind]:
    """Give a class a name and a version that outlive where it is defined.

    A model that holds such a class is saved under that name. Wherever the class lies later and whatever it is called
    then, `load(path, trusted=[TheClass])` finds it. When the class changes so that old files no longer fit, raise
    `version` and give a migration from each version before.

    Args:
        name: unique, such as `"acme.Net"`.
        version: a positive number.
        migrations: for each earlier version a function that turns a `SavedModule` of that version into one of the next,
            in place or by returning another.

    Returns:
        A class decorator, which gives back the class as it is.

    Raises:
        InputError: the name belongs to another class, or the versions do not fit.

    Example:
        >>> @perdure.register("acme.Net", version=2, migrations={1: rename_head})
        ... class Net(nn.Module): ...
    """
    if not isinstance(name, str) or not name or len(name) > 200 or not name.isprintable():
        raise InputError(f"registering {name!r}: a name is printable text, such as 'acme.Net'.")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise InputError(f"registering {name!r}: version must be a positive number, not {version!r}.")
    steps = dict(migrations or {})
    odd = [step for step in steps if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step < version]
    if odd:
        raise InputError(f"registering {name!r}: migrations start from versions 1 to {version - 1}, not {odd[0]!r}.")

    def decorate(kind: Kind) -> Kind:
        other = _by_name.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
            raise InputError(
                f"registering {name!r}: {other.__module__}.{other.__qualname__} has that name already. Take another."
            )
        _by_name[name] = kind
        _registered[kind] = Registration(name, version, steps)
        return kind

    return decorate


def registration(kind: type) -> Registration | None:
    """Return what `register` said about a class itself, not about its bases."""
    return _registered.get(kind)


def registered_class(name: str) -> type | None:
    """Return the class that was registered under a name."""
    return _by_name.get(name)


def name_of_class(kind: type) -> Name:
    """Name a class as a file does."""
    known = _registered.get(kind)
    if known is None:
        return Name(kind.__module__, kind.__qualname__)
    return Name(kind.__module__, kind.__qualname__, registered=known.name, version=known.version)


def name_of_function(function: Any) -> Name | None:
    """Name a function as a file does; None for one that has no place of its own: a lambda, a closure, a method."""
    known = _harmless_by_identity().get(id(function))
    if known is not None:
        return known
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str) or "<" in path:
        return None
    if not isinstance(function, types.FunctionType | types.BuiltinFunctionType):
        return None
    return Name(module, path, function=True) if find(module, path) is function else None


def find(module: str, path: str) -> Any:
    """Return what stands at a place of a Python module that is imported already, going through classes only."""
    found: Any = sys.modules.get(module)
    for number, part in enumerate(path.split(".")):
        if found is None or (number and not isinstance(found, type)):
            return None
        found = vars(found).get(part)
    return unbound(found)


@functools.cache
def _harmless_by_identity() -> dict[int, Name]:
    found: dict[int, Name] = {}
    for module, functions in FUNCTIONS.items():
        for function in functions:
            value = getattr(sys.modules.get(module), function, None)
            if value is not None:
                found.setdefault(id(value), Name(module, function, function=True))
    return found


def of_torch(name: Name) -> Any:
    """Return the class or function of PyTorch's own that the explicit lists permit, or None."""
    if not name.is_torchs:
        return None
    found = functools.reduce(lambda found, part: getattr(found, part, None), name.path.split("."), _module(name.module))
    return found.__func__ if isinstance(found, types.MethodType) else found


def _module(name: str) -> Any:
    return importlib.import_module(name)


def name_of_method(function: Any, owner: type) -> Name | None:
    """Name the function of a bound method by the class that defines it; None where no class of its owner does."""
    for base in owner.__mro__:
        for key, value in vars(base).items():
            if unbound(value) is function:
                return Name(base.__module__, f"{base.__qualname__}.{key}", function=True)
    return None


def unbound(value: Any) -> Any:
    """Return the function of a static method or a class method; anything else as it is."""
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value
