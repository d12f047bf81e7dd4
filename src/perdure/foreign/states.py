"""Where the state dict is in what a file holds: a mapping of tensors, a part of a checkpoint, or a whole model."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping, Set
from typing import Any

from perdure.errors import CorruptError, LimitError, MissingTensorError
from perdure.foreign.inert import ComposedTensor, Made, Ordered, Tensor
from perdure.foreign.modules import is_module, walk

AnyTensor = Tensor | ComposedTensor

MAIN = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "model_state",
    "state",
)
"""What people call the state dict of a checkpoint; the first one that is there is it."""

EXTRA_STATE = "_extra_state"
"""The last part of the keys under which modules keep what they choose themselves."""

MAX_COPIES = 100_000
"""Names that tensors may have beyond the first, where parts of a nesting stand at several places."""

MAX_DEPTH = 100
_MAX_PATH = 5
_AVERAGES = ("ema", "averaged", "swa")


@dataclasses.dataclass
class State:
    """A state dict and what else a file holds.

    Attributes:
        tensors: by name.
        rest: the nesting without them; None where there is nothing else.
        versions: its `_metadata`, by module.
        classes: of a whole model, the class of each module by its name.
        path: the keys that lead to it.
        roles: `"parameter"` or `"buffer"`, where that is known.
        extra_states: what modules' `get_extra_state` gave, where that is no tensor, by its key of the state dict.
        volatile: of a whole model, the buffers that are not persistent, by name; they are none of `tensors`.
        same: of a whole model, the modules that stand at another name before, with that name.
    """

    tensors: dict[str, AnyTensor]
    rest: Any = None
    versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes: dict[str, str] = dataclasses.field(default_factory=dict)
    path: tuple[str, ...] = ()
    roles: dict[str, str] = dataclasses.field(default_factory=dict)
    extra_states: dict[str, Any] = dataclasses.field(default_factory=dict)
    volatile: dict[str, AnyTensor] = dataclasses.field(default_factory=dict)
    same: dict[str, str] = dataclasses.field(default_factory=dict)


def find_state(value: Any, where: str) -> State:
    """Find the state dict of a file; where several stand side by side, all are it, under the names of their places.

    Raises:
        LimitError: the nesting has more tensors than any file has.
    """
    return _state_below(value, _evident(value), where)


def state_under(value: Any, prefix: str, where: str) -> tuple[State, str] | None:
    """Find the state dict that a prefix leads to; gives it with what is left of the prefix, or None where there is none.

    Raises:
        LimitError: as `find_state`.
    """
    parts = prefix.rstrip(".").split(".")
    path: tuple[str, ...] = ()
    inner = value
    while parts and isinstance(inner, dict):
        taken = next((n for n in range(1, len(parts) + 1) if _is_group(inner.get(".".join(parts[:n])))), 0)
        if not taken:
            break
        path += (".".join(parts[:taken]),)
        inner, parts = inner[path[-1]], parts[taken:]
    return (_state_below(value, path, where), ".".join(parts)) if path else None


def _is_group(value: object) -> bool:
    return isinstance(value, dict) or is_module(value)


def _evident(value: Any) -> tuple[str, ...]:
    """Return the keys that lead to what is evidently the state dict."""
    path: tuple[str, ...] = ()
    bearing = _bearing(value)
    while type(value) in (dict, Ordered) and len(path) < _MAX_PATH:
        chosen = _main_of(value, bearing)
        if chosen is None:
            break
        path += (chosen,)
        value = value[chosen]
    return path


def _main_of(value: Mapping[Any, Any], bearing: Set[int]) -> str | None:
    """Return the key of a checkpoint under which its weights are; None where there is none, or several might be it."""
    groups = _groups(value, bearing)
    mains = [key for key in MAIN if key in groups]
    if mains or _has_tensors(value):
        return mains[0] if mains else None
    current = [key for key in groups if not any(word in key.lower() for word in _AVERAGES)] or groups
    return current[0] if len(current) == 1 else None


def _groups(value: Mapping[Any, Any], bearing: Set[int]) -> list[str]:
    """Return the keys under which weights are: a module, or a mapping that holds some or leads to some."""
    return [key for key, inner in value.items() if isinstance(key, str) and (id(inner) in bearing or is_module(inner))]


def _has_tensors(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(inner, AnyTensor) for inner in value.values())


def _bearing(value: Any) -> set[int]:
    """Return the `id` of each mapping below a value that holds weights or leads to some; states of optimizers do not.

    Each is looked at once, however many places it stands at.
    """
    holders: dict[int, list[int]] = {}
    found: list[int] = []
    seen: set[int] = set()
    waiting = list(value.values()) if isinstance(value, dict) else []
    while waiting:
        inner = waiting.pop()
        if not _is_nested(inner) or id(inner) in seen:
            continue
        seen.add(id(inner))
        contents = [content for key, content in inner.items() if isinstance(key, str)]
        if any(isinstance(content, AnyTensor) or is_module(content) for content in contents):
            found.append(id(inner))
        for content in contents:
            if isinstance(content, dict):
                holders.setdefault(id(content), []).append(id(inner))
                waiting.append(content)
    bearing: set[int] = set()
    while found:
        one = found.pop()
        if one not in bearing:
            bearing.add(one)
            found += holders.get(one, ())
    return bearing


def _state_below(value: Any, path: tuple[str, ...], where: str) -> State:
    """Take what keys lead to as a state dict; all beside it is the rest."""
    found = _state_at(_follow(value, path), where)
    found.rest = _without(value, path, found.rest)
    found.path = path
    return found


def _state_at(value: Any, where: str) -> State:
    """Take a value as a state dict."""
    if isinstance(value, AnyTensor):
        return State({"tensor": value})
    if is_module(value):
        walked = walk(value, where)
        found = State(walked.tensors, classes=walked.classes, roles=walked.roles)
        found.volatile, found.same = walked.volatile, walked.same
        return found
    state = State({})
    if isinstance(value, Ordered) and isinstance(metadata := value.attributes.get("_metadata"), dict):
        state.versions = metadata
    counted = _Count(where)
    if isinstance(value, dict):
        state.rest = _take(value, "", state, counted, where, ())
    elif isinstance(value, list | tuple):
        state.rest = _take(dict(enumerate(value)), "", state, counted, where, ())
    else:
        state.rest = value
    return state


class _Count:
    """Counts what is visited again, and refuses what shares parts so often that it has no end."""

    def __init__(self, where: str) -> None:
        self._where, self._n_copies = where, 0
        self._seen: set[int] = set()

    def visit(self, value: Mapping[Any, Any]) -> None:
        if id(value) in self._seen:
            self._n_copies += len(value) + 1
        self._seen.add(id(value))
        if self._n_copies > MAX_COPIES:
            raise LimitError(f"reading {self._where}: parts of it stand at more than {MAX_COPIES} places.")


def _take(
    value: Mapping[Any, Any], start: str, state: State, counted: _Count, where: str, above: tuple[int, ...]
) -> Any:
    """Take the tensors of a mapping under names that begin with `start`; returns the mapping without them, or None.

    Those that it stands in (`above`) are not gone through again where it contains one of them.
    """
    if len(above) > MAX_DEPTH:
        raise LimitError(f"reading {where}: it is nested deeper than {MAX_DEPTH} levels, at {start[:100]!r}.")
    counted.visit(value)
    above = (*above, id(value))
    rest: dict[Any, Any] = {}
    for key, inner in value.items():
        name = f"{start}{key}" if isinstance(key, str | int) else None
        if name is not None and isinstance(inner, AnyTensor):
            _add(state, name, inner, where)
        elif name is not None and name.rpartition(".")[2] == EXTRA_STATE:
            state.extra_states[name] = rest[key] = inner
        elif name is not None and _is_nested(inner) and id(inner) not in above:
            left = _take(inner, f"{name}.", state, counted, where, above)
            if left is not None:
                rest[key] = left
        elif name is not None and is_module(inner):
            walked = walk(inner, where, f"{name}.")
            counted.visit(walked.tensors)
            for inner_name, tensor in walked.tensors.items():
                _add(state, inner_name, tensor, where)
            state.classes |= walked.classes
            state.roles |= walked.roles
            state.volatile |= walked.volatile
            state.same |= walked.same
        else:
            rest[key] = inner
    return rest or None


def _add(state: State, name: str, tensor: AnyTensor, where: str) -> None:
    if name in state.tensors:
        raise CorruptError(f"reading {where}: two of its tensors have the name {name[:200]!r}.")
    state.tensors[name] = tensor


def _is_nested(value: object) -> bool:
    """Tell a mapping within which tensors may be weights; those of an optimizer's state are not."""
    return type(value) in (dict, Ordered) and "param_groups" not in value  # type: ignore[operator]


def _follow(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _without(value: Any, path: tuple[str, ...], rest: Any) -> Any:
    """Return a nesting in which `rest` stands for what the path leads to; nothing, if that is None."""
    if not path:
        return rest
    outer = {key: inner for key, inner in value.items() if key != path[0]}
    inner = _without(value[path[0]], path[1:], rest)
    if inner is not None:
        outer[path[0]] = inner
    return outer or None


def tensors_in(value: Any) -> Iterator[AnyTensor]:
    """Give the tensors of a nesting, each once; what is nested in itself is gone through once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if id(inner) in seen:
            continue
        if isinstance(inner, AnyTensor):
            seen.add(id(inner))
            yield inner
        elif isinstance(inner, _NESTINGS):
            seen.add(id(inner))
            waiting.extend(_inside(inner))


_NESTINGS = (dict, list, tuple, set, frozenset, deque, Made)


def _inside(value: Any) -> Iterator[Any]:
    """Give what stands in a nesting, last first; keys too, which may be tensors, as in the state of an optimizer."""
    if isinstance(value, Made):
        yield from reversed([*value.args, *value.kwargs.values(), value.state, *value.appended])
        yield from (part for pair in value.items for part in pair)
    else:
        if isinstance(value, Ordered):
            yield value.attributes
        yield from reversed([*value.values()] if isinstance(value, dict) else [*value])
        if isinstance(value, dict):
            yield from (key for key in value if not isinstance(key, str))


def missing_under(prefix: str, value: Any, where: str) -> MissingTensorError:
    """Return the error for a prefix that leads to nothing; it names the keys that lead to something."""
    keys = [key[:40] for key in _groups(value, _bearing(value))] if isinstance(value, dict) else []
    held = f" Weights are under {', '.join(keys[:10])}." if keys else ""
    return MissingTensorError(f"reading {where}: no tensor's name begins with {prefix.rstrip('.') + '.'!r}.{held}")
