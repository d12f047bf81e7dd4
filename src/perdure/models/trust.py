"""Permissions: which of the classes and functions that a file names may be used. Nothing in a file can widen them."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from perdure.errors import InputError, ProtocolError, UntrustedError
from perdure.models.naming import find, of_torch, registered_class, registration, unbound
from perdure.records.architecture import Name

Trusted = Iterable[Any] | Mapping[str, Any] | str | type | None


_CODE = (type, types.FunctionType, types.BuiltinFunctionType)


class Permissions:
    """What the caller permits: classes and functions, packages by their dotted names, and new places of old names.

    Args:
        trusted: classes, functions, dotted names of packages or of single classes and functions, or a mapping from saved
            names to classes; or any of these alone.

    Raises:
        InputError: something else.
    """

    def __init__(self, trusted: Trusted = ()) -> None:
        self._given: dict[str, Any] = {}
        self._packages: set[str] = set()
        self._n_permitted = 0
        for entry in _entries(trusted):
            self._add(entry)

    def __bool__(self) -> bool:
        return bool(self._given or self._packages)

    def _add(self, entry: Any) -> None:
        if isinstance(entry, Mapping):
            for name, value in entry.items():
                if not isinstance(name, str) or not isinstance(
                    value, type | types.FunctionType | types.BuiltinFunctionType
                ):
                    raise InputError(
                        f"trusted: a mapping takes saved names to classes or functions, not {name!r}: {value!r}."
                    )
                self._given[name] = value
        elif isinstance(entry, str):
            if not all(part.isidentifier() for part in entry.split(".")):
                raise InputError(f"trusted: {entry!r} is no dotted name of a package, a class or a function.")
            self._packages.add(entry)
        elif isinstance(entry, type):
            self._given[f"{entry.__module__}.{entry.__qualname__}"] = entry
            known = registration(entry)
            if known:
                self._given[known.name] = entry
        elif callable(entry) and hasattr(entry, "__qualname__"):
            self._given[f"{entry.__module__}.{entry.__qualname__}"] = entry
        else:
            raise InputError(
                f"trusted: classes, functions, dotted names or a mapping from saved names to classes were expected, not "
                f"{entry!r}."
            )

    def resolve(self, names: Iterable[Name], where: str) -> list[Any]:
        """Return the class or function for each name.

        Raises:
            UntrustedError: some are not permitted; the message names all of them and the line to add. Nothing was
                imported.
            ProtocolError: this PyTorch does not have one of its own classes.
            InputError: a permitted one is not there any more, or is not what the file means.
        """
        names = list(names)
        refusal = self.refusal(names, where)
        if refusal:
            raise refusal
        return [self._find(name, where) for name in names]

    def refusal(self, names: Iterable[Name], where: str) -> UntrustedError | ProtocolError | None:
        """Return the error that names what is not permitted; None where all is. Nothing is imported for that."""
        absent = [name for name in names if not self._is_permitted(name)]
        lacking = [str(name) for name in absent if name.is_torchs]
        if lacking:
            return ProtocolError(
                f"loading {where}: PyTorch {torch.__version__} does not have {', '.join(lacking)}. Use a later one, or load "
                f"the graph with form='graph'."
            )
        return _untrusted(absent, where) if absent else None

    def _is_permitted(self, name: Name) -> bool:
        known = of_torch(name) is not None or self._of_caller(name) is not None
        return known or bool(self._package(name)) or self._is_registered(name)

    def _is_registered(self, name: Name) -> bool:
        """Tell whether the caller permits a class by its registered name. The file's place of it counts for nothing then."""
        return not name.function and name.registered in self._packages

    def _of_caller(self, name: Name) -> Any:
        """Return what the caller gave under a name: the registered one, the place, or the place in a script."""
        for known in (name.registered, name.dotted):
            if known and known in self._given:
                return self._given[known]
        if name.function and "." in name.path:
            return self._method_of_given(name)
        if name.module == "__main__":
            fits = [value for known, value in self._given.items() if known.endswith(f".{name.path}")]
            return fits[0] if len(set(map(id, fits))) == 1 else None
        return None

    def _method_of_given(self, name: Name) -> Any:
        """Return a method of a class that the caller gave itself, or of its bases; a package permits none."""
        owner, _, method = name.path.rpartition(".")
        for kind in self._given.values():
            for base in kind.__mro__ if isinstance(kind, type) else ():
                if (base.__module__, base.__qualname__) == (name.module, owner):
                    return unbound(vars(base).get(method))
        return None

    def _package(self, name: Name) -> str:
        """Return the dotted name that permits a name; functions have to be named one by one."""
        if name.dotted in self._packages:
            return name.dotted
        if name.function or "__main__" in name.module.split("."):
            return ""
        parts = name.module.split(".")
        packages = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
        return next((package for package in packages if package in self._packages), "")

    def _find(self, name: Name, where: str) -> Any:
        found = of_torch(name)
        if found is None:
            found = self._of_caller(name)
        if found is None and self._package(name):
            found = _imported(name, self._package(name), where)
        if found is None:
            found = _registered(name, where)
        if isinstance(found, type) == name.function:
            kind = "function" if name.function else "class"
            raise InputError(f"loading {where}: {name} was a {kind} when it was saved, and is {found!r} now.")
        return found


def _entries(trusted: Trusted) -> list[Any]:
    if trusted is None:
        return []
    if isinstance(trusted, str | type | Mapping) or callable(trusted):
        return [trusted]
    try:
        return list(trusted)
    except TypeError:
        return [trusted]


def _registered(name: Name, where: str) -> type:
    """Return the class that was registered here under a permitted name."""
    found = registered_class(name.registered)
    if found is None:
        raise InputError(
            f"loading {where}: no class is registered as {name.registered!r} here. Import the module that registers it "
            f"first; when the file was saved, that was {name.module}."
        )
    return found


def _imported(name: Name, package: str, where: str) -> Any:
    """Import the module of a permitted name, and take from it only what it defines itself."""
    try:
        importlib.import_module(name.module)
    except Exception as error:
        raise InputError(
            f"loading {where}: {name.dotted} is trusted, but importing {name.module} fails ({type(error).__name__}: "
            f"{str(error)[:200]}). Install what it needs, or load the graph with form='graph'."
        ) from error
    found = find(name.module, name.path)
    if found is None:
        raise InputError(
            f"loading {where}: {name.module} has no {name.path} any more. Say where it is now with "
            f"trusted={{{name.dotted!r}: …}}, or load the graph with form='graph'."
        )
    home = str(getattr(found, "__module__", ""))
    if home != name.module if package == name.dotted else not f"{home}.".startswith(f"{package}."):
        raise UntrustedError(
            f"loading {where}: {name.dotted} is not defined in {package}, which only imports it from {home}. Trust "
            f"that by its own name if you mean it."
        )
    if package != name.dotted and not _is_model_code(found):
        raise UntrustedError(
            f"loading {where}: {name.dotted} is no module class, enum or plain data. A package permits only these; name "
            f"it itself with trusted=[{name.dotted!r}] if you mean it."
        )
    return found


def _is_model_code(found: Any) -> bool:
    """Tell whether a class is a module's, an enum, or one whose objects only hold data."""
    if not isinstance(found, type) or issubclass(
        found, torch.autograd.Function
    ):  # which is a function, and named as one
        return False
    if issubclass(found, nn.Module | enum.Enum) or dataclasses.is_dataclass(found):
        return True
    if issubclass(found, tuple):
        return hasattr(found, "_fields")
    return not any(method in vars(base) for base in found.__mro__ for method in ("__del__", "__call__", "__enter__"))


def _untrusted(names: list[Name], where: str) -> UntrustedError:
    shown = ", ".join(str(name) for name in names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    line = ", ".join(_as_trusted(name) for name in names)
    return UntrustedError(
        f"loading {where}: its classes are not permitted: {shown}. If you trust the code that is installed under these "
        f"names, add trusted=[{line}] (or the classes themselves, or the name of their package for classes); without, "
        f"load the graph with form='graph', or the weights with load_weights."
    )


def _as_trusted(name: Name) -> str:
    """Return what stands in `trusted` for a name: itself, or the class where no import finds it."""
    local = not name.registered and (name.module == "__main__" or "<locals>" in name.path)
    path = name.path.rpartition(".")[0] if name.function and "." in name.path else name.path
    return path.rpartition(".")[2] if local else repr(str(name))
