"""Lists, dicts and sets that hang at several places of a model: a change at one is seen at the others."""

from __future__ import annotations

import functools
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from perdure.models.plain_objects import is_plain_object, plain_items, plain_state
from perdure.models.wrapping import unwrapped

CONTAINERS = (list, dict, set, OrderedDict, defaultdict, Counter, deque)
_LEAVES = (str, bytes, int, float, complex, type(None), torch.Tensor, type, types.FunctionType)


def shared_containers(model: nn.Module) -> dict[int, Any]:
    """Return by their `id` the containers that are met at more than one place, in modules and in plain objects."""
    shared: dict[int, Any] = {}
    seen: dict[int, Any] = {}
    waiting: list[Any] = [model]
    while waiting:
        value = waiting.pop()
        if id(value) not in seen:
            seen[id(value)] = value  # kept alive, so that its id stays its own
            waiting += [part for part in _parts(value) if not isinstance(part, _LEAVES)]
        elif type(value) in CONTAINERS:
            shared[id(value)] = value
    return shared


def _parts(value: Any) -> Iterable[Any]:
    """Return what a value holds, as far as it is written down with it."""
    if type(value) in CONTAINERS or isinstance(value, tuple | frozenset):
        return value.values() if isinstance(value, dict) else value
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, nn.Module):
        return vars(unwrapped(value)).values()
    return [*plain_state(value).values(), *(plain_items(value) or ())] if is_plain_object(value) else ()
