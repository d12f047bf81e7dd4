"""What a model reaches through its attributes: modules, plain objects, containers, tensors, arrays, generators."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from typing import Any

from torch import nn

from perdure.models.containers import is_container, items_of
from perdure.models.plain_objects import is_plain_object, plain_items, plain_state
from perdure.models.wrapping import unwrapped

_LEAVES = (str, bytes, int, float, complex, type(None), type, types.FunctionType)


class Reached:
    """Everything that a model, or anything else, holds, however deeply, each thing once. Weak references are not followed.

    Attributes:
        things: all of it, by `id`; held here, so that an id stays its own.
        shared: the containers among them that hang at more than one place: a change at one is seen at the others.
    """

    def __init__(self, model: Any) -> None:
        self.things: dict[int, Any] = {}
        self.shared: dict[int, Any] = {}
        again: set[int] = set()
        waiting: list[Any] = [model]
        while waiting:
            value = waiting.pop()
            if id(value) not in self.things:
                self.things[id(value)] = value
            elif is_container(value):
                self.shared[id(value)] = value
                continue
            elif id(value) in again or not isinstance(value, tuple | frozenset | functools.partial):
                continue
            else:  # what is held by something that cannot change, at two places, hangs at two places itself
                again.add(id(value))
            waiting += [part for part in _parts(value) if not isinstance(part, _LEAVES)]

    def __contains__(self, value: object) -> bool:
        return id(value) in self.things


def _parts(value: Any) -> Iterable[Any]:
    if is_container(value):
        return items_of(value)
    if isinstance(value, tuple | frozenset):
        return value
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, nn.Module):
        return vars(unwrapped(value)).values()
    return [*plain_state(value).values(), *(plain_items(value) or ())] if is_plain_object(value) else ()
