"""Fingerprints of code: whether a class still is what it was, told from its syntax and not from its layout."""

from __future__ import annotations

import ast
import functools
import importlib.util
import linecache
import os
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from perdure.disk.surroundings import is_standard
from perdure.records.architecture import Name
from perdure.records.sources import Source, Sources
from perdure.weights.environment import commit_of, package_of

_MAX_MODULES = 200


def sources_of(code: Iterable[tuple[Name, Any]], *, text: bool = False, saved: Sources | None = None) -> Sources:
    """Describe the code of classes and functions, the bases of the classes, and the user's modules that they reach.

    Args:
        code: each class or function with the name under which a file knows it. PyTorch's own are passed over.
        text: keep their source too.
        saved: an earlier description; what it says about files that are the same to the last byte is taken over.
    """
    before = saved or Sources()
    found: dict[str, Source] = {}
    modules: dict[str, Source] = {}
    for name, value in code:
        if _is_foreign(value):
            continue
        bases = [(_dotted(base), base) for base in _bases(value) if not _is_foreign(base)]
        known = before.code.get(str(name)) if name.dotted == _dotted(value) else None
        for label, part, earlier in (
            (str(name), value, known),
            *((at, base, before.code.get(at)) for at, base in bases),
        ):
            if label not in found:
                found[label] = _describe(part, text, earlier)
                for module in found[label].modules:
                    if module not in modules:
                        modules[module] = _describe_module(module, text, before.modules.get(module))
    return Sources(found, modules)


def text_of(value: Any) -> str:
    """Return the source of a class or function; empty where there is none."""
    node, source = _definition(value)
    return ast.get_source_segment(source, node) or "" if node is not None else ""


def attributes_read(kind: type) -> frozenset[str]:
    """Return the attributes of `self` that the methods of a class, its bases' included, read and nowhere set or ask for."""
    reads: set[str] = set()
    spared: set[str] = set()
    for base in kind.__mro__:
        node = None if _is_foreign(base) else _definition(base)[0]
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name not in ("__init__", "__setstate__"):
                    reads_here, spared_here = _read_from_self(method)
                    reads |= reads_here
                    spared |= spared_here
    return frozenset(reads - spared)


def _read_from_self(method: ast.FunctionDef) -> tuple[set[str], set[str]]:
    owner = method.args.args[0].arg if method.args.args else ""
    reads: set[str] = set()
    spared: set[str] = set()
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner:
            (reads if isinstance(node.ctx, ast.Load) else spared).add(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
            spared |= {
                part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
    return reads, spared


def _describe(value: Any, text: bool, before: Source | None) -> Source:
    module = value.__module__
    if before and before.file and before.file == _file_digest(module):
        return before
    node, _ = _definition(value)
    return Source(
        fingerprint=_fingerprint(node) if node is not None else "",
        bases=tuple(_dotted(base) for base in _bases(value)),
        modules=tuple(_reached(module)),
        origin=_origin(module),
        text=text_of(value) if text else "",
        file=_file_digest(module),
    )


def _describe_module(module: str, text: bool, before: Source | None) -> Source:
    if before and before.file and before.file == _file_digest(module):
        return before
    tree, source = _tree(module), _source(module)
    fingerprint = _fingerprint(tree) if tree else ""
    return Source(fingerprint, origin=_origin(module), text=source if text else "", file=_file_digest(module))


def _file_digest(module: str) -> str:
    source = _source(module)
    return blake3(source.encode("utf-8", "surrogatepass")).hexdigest() if source else ""


def _fingerprint(node: ast.AST) -> str:
    return blake3("\n".join(_written(node)).encode("utf-8", "surrogatepass")).hexdigest()


def _written(value: Any) -> Iterator[str]:
    """Write syntax in a form of our own: Python's `ast.dump` changes between its versions."""
    if isinstance(value, ast.AST):
        yield f"({type(value).__name__}"
        for field, part in ast.iter_fields(value):
            if part is None or part == [] or field in ("ctx", "kind", "type_comment"):
                continue
            yield field
            yield from _written(_without_docstring(value) if field == "body" else part)
        yield ")"
    elif isinstance(value, list):
        for part in value:
            yield from _written(part)
    else:
        yield f"{type(value).__name__} {value!r}"


def _without_docstring(node: Any) -> Any:
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    return node.body[1:] if documented and ast.get_docstring(node, clean=False) is not None else node.body


def _definition(value: Any) -> tuple[ast.AST | None, str]:
    """Find the definition of a class or function in the syntax of its module, by its path; and the text it stands in."""
    tree: ast.AST | None = _tree(value.__module__)
    for part in value.__qualname__.split("."):
        if part == "<locals>":
            continue
        tree = next((node for node in _definitions(tree) if node.name == part), None) if tree else None
    return (tree, _source(value.__module__)) if tree is not None else _typed_in(value)


def _typed_in(value: Any) -> tuple[ast.AST | None, str]:
    """Find a definition that is in no file, such as one in a notebook's cell, by the lines that its functions remember."""
    parts = vars(value).values() if isinstance(value, type) else [value]
    code = next((part.__code__ for part in parts if isinstance(part, types.FunctionType)), None)
    source = "".join(linecache.getlines(code.co_filename)) if code else ""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None, ""
    for node in _definitions(tree):
        if code and node.name == value.__name__ and node.lineno <= code.co_firstlineno <= (node.end_lineno or 0):
            return node, source
    return None, ""


_DEFINED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _definitions(tree: ast.AST | None) -> Iterator[Any]:
    """Give the definitions below a node, the last of a name first, since that is the one that counts."""
    for node in reversed(getattr(tree, "body", [])):
        if isinstance(node, _DEFINED):
            yield node
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, _DEFINED) and node is not tree:
            yield node


def _tree(module: str) -> ast.Module | None:
    return _parsed(_source(module))


@functools.lru_cache(maxsize=1024)
def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _source(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or not str(file).endswith(".py"):
        return ""
    try:
        state = os.stat(file)
    except OSError:
        return ""
    return _read(str(file), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=1024)
def _read(file: str, changed_at: int, n_bytes: int) -> str:
    """Read a source file; once for each state of it."""
    try:
        return importlib.util.decode_source(Path(file).read_bytes())
    except (OSError, UnicodeError, SyntaxError):
        return ""


def _bases(value: Any) -> tuple[type, ...]:
    return tuple(base for base in value.__mro__[1:] if base is not object) if isinstance(value, type) else ()


def _is_foreign(value: Any) -> bool:
    """Tell whether code is PyTorch's or Python's own, which the environment names well enough."""
    module = str(getattr(value, "__module__", None) or "")
    return not module or module.partition(".")[0] == "torch" or (module != "__main__" and is_standard(module))


def _dotted(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _reached(module: str) -> Iterator[str]:
    """Give the modules that a module reaches by its imports, itself included, as far as they are the user's own."""
    waiting, seen = [module], {module}
    while waiting and len(seen) <= _MAX_MODULES:
        current = waiting.pop(0)
        if not _is_own(current):
            continue
        yield current
        for name in _imported(current):
            if name not in seen and name in sys.modules:
                seen.add(name)
                waiting.append(name)


def _imported(module: str) -> tuple[str, ...]:
    package = str(getattr(sys.modules.get(module), "__package__", "") or "")
    return _imports_in(_source(module), package)


@functools.lru_cache(maxsize=1024)
def _imports_in(source: str, package: str) -> tuple[str, ...]:
    """Return the modules that a source names in its imports, and the names that may be modules."""
    tree = _parsed(source)
    found: list[str] = []
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)


@functools.cache
def _is_own(module: str) -> bool:
    """Tell whether a module is the user's: neither Python's own nor of an installed package."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or (module != "__main__" and is_standard(module)):
        return False
    installed = {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib")}
    path = str(Path(file).absolute())
    return "site-packages" not in Path(path).parts and not any(path.startswith(f"{folder}/") for folder in installed)


def _origin(module: str) -> str:
    package = package_of(module.partition(".")[0])
    if package:
        return " ".join(package)
    code = commit_of(module)
    return f"commit {code.commit}{' with changes' * code.dirty}" if code else ""
