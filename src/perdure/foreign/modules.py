"""Whole models that were pickled: their modules are walked, as data, to a state dict and the names of their classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from perdure.errors import CorruptError, LimitError
from perdure.foreign.inert import ComposedTensor, Made, Named, Tensor

MAX_COPIES = 100_000
"""Places that modules may have beyond the first."""

_MAX_DEPTH = 200
_TENSORS = (Tensor, ComposedTensor)


@dataclasses.dataclass
class Walked:
    """What a walk found.

    Attributes:
        tensors: those of the state dict, by name.
        roles: `"parameter"` or `"buffer"`, where that is known.
        classes: of each module, by its name.
        volatile: buffers that are not persistent, by name.
        same: modules that stand at another name before, with that name.
    """

    tensors: dict[str, Tensor | ComposedTensor] = dataclasses.field(default_factory=dict)
    roles: dict[str, str] = dataclasses.field(default_factory=dict)
    classes: dict[str, str] = dataclasses.field(default_factory=dict)
    volatile: dict[str, Tensor | ComposedTensor] = dataclasses.field(default_factory=dict)
    same: dict[str, str] = dataclasses.field(default_factory=dict)


def is_module(value: object) -> bool:
    """Tell whether a value is a pickled `nn.Module`, or one of TorchScript."""
    if not isinstance(value, Made) or _attributes(value) is None:
        return False
    return _is_plain(value) or is_script(value)


_COMPILED = Named("torch._dynamo.eval_frame", "OptimizedModule")


def _attributes(module: Made) -> dict[Any, Any] | None:
    """Return the attributes of an object; a compiled module is pickled as a call, whose argument is the module within."""
    if module.what == _COMPILED and module.args:
        return {"_parameters": {}, "_buffers": {}, "_modules": {"_orig_mod": module.args[0]}}
    return module.state if isinstance(module.state, dict) else None


def _is_plain(value: Made) -> bool:
    attributes = _attributes(value) or {}
    return all(isinstance(attributes.get(key), dict) for key in ("_parameters", "_buffers", "_modules"))


def is_script(value: object) -> bool:
    """Tell whether a value is an object of TorchScript, whose attributes are parameters, buffers and modules alike."""
    return isinstance(value, Made) and getattr(value.what, "module", "").startswith("__torch__")


def walk(model: Made, where: str, start: str = "") -> Walked:
    """Walk a model's modules; a module at several places has its tensors at each.

    Args:
        model: what `is_module` tells to be one.
        where: names the file in messages.
        start: how the names begin.

    Raises:
        CorruptError: a module contains itself, or a name in it is no name.
        LimitError: modules stand at more places, or deeper, than in any model.
    """
    walked = Walked()
    seen: dict[int, str] = {}
    n_copies = 0
    waiting: list[tuple[str, Made, tuple[int, ...]]] = [(start, model, ())]
    while waiting:
        prefix, module, above = waiting.pop()
        if id(module) in above:
            raise CorruptError(f"reading {where}: the module {prefix[:100]!r} contains itself.")
        if id(module) in seen:
            n_copies += 1 + len(_attributes(module) or ())
            walked.same[prefix.rstrip(".")] = seen[id(module)]
        seen.setdefault(id(module), prefix.rstrip("."))
        if n_copies > MAX_COPIES or len(above) > _MAX_DEPTH:
            raise LimitError(f"reading {where}: its modules stand at more places, or deeper, than those of any model.")
        walked.classes[prefix.rstrip(".")] = str(module.what)
        for key, tensor, role in _own(module):
            _check_name(key, prefix, where)
            if role == _VOLATILE:
                walked.volatile[prefix + key] = tensor
            else:
                walked.tensors[prefix + key] = tensor
                walked.roles[prefix + key] = role
        inner = list(_children(module))
        for key, child in reversed(inner):
            _check_name(key, prefix, where)
            waiting.append((f"{prefix}{key}.", child, (*above, id(module))))
    return walked


def _check_name(key: object, prefix: str, where: str) -> None:
    if not isinstance(key, str):
        raise CorruptError(
            f"reading {where}: the module {prefix[:100]!r} has the name {str(key)[:40]!r}, which is no text."
        )


def _own(module: Made) -> Iterator[tuple[str, Tensor | ComposedTensor, str]]:
    """Give the tensors of a module itself, in the order of `state_dict`, and what they are."""
    state = _attributes(module) or {}
    if not _is_plain(module):
        for key, value in state.items():
            if isinstance(value, _TENSORS):
                yield key, value, ("parameter" if value.requires_grad else "")
        return
    volatile = state.get("_non_persistent_buffers_set", ())
    for key, value in state["_parameters"].items():
        if isinstance(value, _TENSORS):
            yield key, value, "parameter"
    for key, value in state["_buffers"].items():
        if isinstance(value, _TENSORS):
            beside = isinstance(volatile, set | list | tuple) and key in volatile
            yield key, value, _VOLATILE if beside else "buffer"


_VOLATILE = "volatile"


def _children(module: Made) -> Iterator[tuple[str, Made]]:
    attributes = _attributes(module) or {}
    inner = attributes["_modules"] if _is_plain(module) else attributes
    for key, child in inner.items():
        if is_module(child):
            yield key, child
