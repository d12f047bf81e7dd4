"""What a measured operation is, and the register of them all.

An operation is a function that gets ready (not timed) and returns the call that is timed. Loads return
their tensors by name, so that the bench can check that what came back is what was saved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FILES = {"torch": "model.pt", "safetensors": "peer.safetensors", "perdure": "model.safetensors"}


@dataclass(frozen=True)
class Work:
    """Where one call works: the model's name, the path to save to, the files to load from."""

    model: str
    target: str
    files: dict[str, str]


Call = Callable[[], Any]


@dataclass(frozen=True)
class Operation:
    """One measured operation: its group, its label, what it imports and which file it reads."""

    key: str
    group: str
    label: str
    imports: tuple[str, ...]
    file: str | None
    prepare: Callable[[Work], Call]


OPERATIONS: dict[str, Operation] = {}


def operation(group: str, label: str, *, imports: str = "", file: str | None = None) -> Callable[..., Any]:
    """Register the decorated function under its own name."""

    def register(prepare: Callable[[Work], Call]) -> Callable[[Work], Call]:
        key = prepare.__name__
        OPERATIONS[key] = Operation(key, group, label, tuple(imports.split()), file, prepare)
        return prepare

    return register
