"""`info`: what a file of any kind is, from its headers alone."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from perdure.disk.description import describe
from perdure.disk.sources import name_of
from perdure.disk.stored import StoredTensors
from perdure.foreign.inert import ComposedTensor, Made, Named, Tensor
from perdure.foreign.opening import with_any
from perdure.foreign.pickles.verdicts import judge
from perdure.foreign.placed import ForeignStored
from perdure.records.origins import origin_of
from perdure.records.reports import Info


def info(path_or_model: str | os.PathLike[str] | object) -> Info:
    """Tell what a file or a folder is, who wrote it and with what; or in which form a model was loaded, and why.

    Of a file only headers are read, nothing in it is run, and torch is not imported.

    Args:
        path_or_model: a file or folder of any kind that `perdure.open` reads; or a model that `perdure.load` returned.

    Raises:
        FormatError: of no kind that is read.
        CorruptError: the header is damaged.
        UnsafeError: a pickle that would run something.
        ProtocolError: a later perdure wrote it.
        MissingFileError, StorageError: the system has no such file, or refused.
    """
    origin = origin_of(path_or_model)
    if origin is not None:
        return origin.info
    return with_any(path_or_model, lambda stored: _describe(name_of(path_or_model), stored))


def _describe(path: str, stored: StoredTensors) -> Info:
    found = describe(path, stored)
    if not isinstance(stored, ForeignStored):
        return found
    state = stored.state
    return dataclasses.replace(
        found,
        format=stored.format,
        names=tuple(str(entry.what) for entry in judge(stored.content.uses) if entry.severity != "safe"),
        classes=dict(state.classes),
        facts=_outline(stored.content.facts, 0),
        prefix=".".join(state.path),
        rest=_outline(state.rest, 0),
        n_unnamed=stored.n_unnamed,
    )


_SHOWN_ITEMS, _SHOWN_TEXT, _SHOWN_DEPTH = 50, 200, 2


def _outline(value: Any, depth: int) -> Any:
    """Return a nesting as plain data of moderate size: what is large is told by what it is."""
    if isinstance(value, bool | int | float | None):
        return value
    if isinstance(value, str):
        return value if len(value) <= _SHOWN_TEXT else f"{value[:_SHOWN_TEXT]}…"
    if isinstance(value, Tensor | ComposedTensor):
        return f"tensor {list(value.shape)}"
    if isinstance(value, Made | Named):
        return f"<{value.what if isinstance(value, Made) else value}>"
    if isinstance(value, dict) and depth < _SHOWN_DEPTH and len(value) <= _SHOWN_ITEMS:
        return {str(key)[:_SHOWN_TEXT]: _outline(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple) and depth < _SHOWN_DEPTH and len(value) <= _SHOWN_ITEMS:
        return [_outline(inner, depth + 1) for inner in value]
    size = f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"{type(value).__name__.lower()}{size}"
