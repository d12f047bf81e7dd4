"""Examples as users give them: the arguments of one call, or of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.errors import InputError

Example = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a model."""


def examples_in(example: Any, doing: str) -> list[Example]:
    """Return examples as positional and keyword arguments: from a tensor, a tuple, a dict, or a list of these.

    Args:
        example: what the user gave; None for none.
        doing: what is being done, for the message.

    Raises:
        InputError: an empty list.
    """
    if example is None:
        return []
    if isinstance(example, list):
        found = [one for part in example for one in examples_in(part, doing)]
        if not found:
            raise InputError(f"{doing}: the list of examples is empty.")
        return found
    if isinstance(example, tuple) and not hasattr(example, "_fields"):
        return [(example, {})]
    if isinstance(example, Mapping) and all(isinstance(key, str) for key in example):
        return [((), dict(example))]
    return [((example,), {})]
