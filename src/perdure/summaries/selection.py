"""Which tensors of a file are its model's, and under which names: those of its state dict, or under a prefix."""

from __future__ import annotations

import dataclasses
from typing import Any

from perdure.disk.blobs import unpack
from perdure.disk.sources import BytesSource
from perdure.disk.stored import StoredTensors
from perdure.errors import InputError, MissingTensorError
from perdure.foreign.inert import Storage, Tensor
from perdure.foreign.placed import ForeignStored
from perdure.foreign.states import find_state
from perdure.records import values


@dataclasses.dataclass(frozen=True)
class Selection:
    """What of a file is summarised.

    Attributes:
        names: the names in the file, by the names in the summary.
        start: how the names in the file begin that are left out of those in the summary, its dot included.
        prefix: the keys that lead to the state dict.
        beside: what a checkpoint holds besides, by its outermost keys.
    """

    names: dict[str, str]
    start: str = ""
    prefix: str = ""
    beside: tuple[str, ...] = ()


def select(stored: StoredTensors, prefix: str | None) -> Selection:
    """Choose the tensors as `perdure.open` does; of a checkpoint of perdure's, those of its evident state dict.

    Raises:
        InputError: the prefix is no text.
        MissingTensorError: no name begins with it.
    """
    if not isinstance(prefix, str | None):
        raise InputError(f"summarizing: prefix must be the beginning of names, such as 'encoder', not {prefix!r}.")
    if not prefix and stored.manifest and stored.manifest.kind == "checkpoint":
        return _evident(stored)
    left = stored.select(prefix)
    start = f"{left.rstrip('.')}." if left else ""
    names = {name[len(start) :]: name for name in stored.tensor_names() if name.startswith(start)}
    if start and not names:
        raise MissingTensorError(f"reading {stored.where}: no tensor's name begins with {start!r}.")
    if not isinstance(stored, ForeignStored):
        return Selection(names, start, prefix or "")
    state = stored.state
    beside = _keys(state.rest)
    return Selection(names, start, ".".join((*map(str, state.path), *([left] if left else []))), beside)


def _keys(rest: Any) -> tuple[str, ...]:
    return tuple(str(key)[:100] for key in rest) if isinstance(rest, dict) else ()


def _evident(stored: StoredTensors) -> Selection:
    """Take what is evidently the state dict of a checkpoint, and all tensors where there is none."""
    everything = Selection({name: name for name in stored.tensor_names()})
    content = unpack(stored.metadata, "values", stored.where)
    if content is None:
        return everything
    collected = _Collected()
    value = values.decode(values.from_text(content, stored.where), stored.where, collected.hook)
    state = find_state(_plain(value), stored.where)
    if not state.tensors:
        return everything
    start = "".join(f"{key}." for key in state.path)
    names: dict[str, str] = {}
    for name, tensor in state.tensors.items():
        own = f"{start}{name}"
        names[name] = own if own in everything.names else collected.name_of(tensor)
    if set(names.values()) - everything.names.keys():
        return everything
    return Selection(names, prefix=start[:-1], beside=_keys(state.rest))


def _plain(value: Any) -> Any:
    """Return a nesting in which all mappings are plain ones, as the readers of other files give them."""
    outermost = [value]
    waiting: list[Any] = [outermost]
    while waiting:
        holder = waiting.pop()
        for key, inner in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            if isinstance(inner, dict):
                holder[key] = dict(inner)
            if isinstance(inner, dict | list):
                waiting.append(holder[key])
    return outermost[0]


class _Collected:
    """Stands records in for the tensors of encoded values, without a look at them."""

    def __init__(self) -> None:
        self._storage = Storage(BytesSource(b"", "nothing"), 0, 0)
        self._tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}

    def hook(self, tagged: dict[str, Any]) -> Any:
        if tagged.get(values.TAG) not in ("tensor", "ndarray"):
            return None
        name = str(tagged.get("name"))
        if name not in self._tensors:
            self._tensors[name] = Tensor(self._storage, "uint8", (0,), (1,))
            self._names[id(self._tensors[name])] = name
        return self._tensors[name]

    def name_of(self, tensor: object) -> str:
        return self._names[id(tensor)]
