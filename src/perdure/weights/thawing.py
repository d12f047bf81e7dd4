"""What other writers' files hold beside tensors becomes plain values; objects of classes stay inert records."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from perdure.disk.faults import broken
from perdure.errors import LimitError
from perdure.foreign.inert import ComposedTensor, Made, Named, Ordered, Storage, Tensor, TypedStorage
from perdure.records.dtypes import ENCODED_BYTES
from perdure.weights.dtypes import by_name

PLAIN_OBJECTS = {
    ("argparse", "Namespace"),
    ("types", "SimpleNamespace"),
}
"""Classes whose objects are no more than their attributes; they become dicts."""


def thaw(value: Any, tensor_of: Callable[[Tensor | ComposedTensor], torch.Tensor], where: str) -> Any:
    """Return a nesting with real tensors and NumPy arrays; what is one object stays one, and may contain itself.

    Args:
        value: what a reader gave.
        tensor_of: gives the tensor for a record.
        where: names the file in messages.

    Returns:
        Dicts (ordered ones with their attributes, such as `_metadata`), lists, tuples, sets, plain values, tensors (a bare
        storage is the flat one of its elements), arrays, types, devices; and the records of what is none of these.

    Raises:
        LimitError: the values are nested deeper than any that are meant to be read.
    """
    return _Thawing(tensor_of, where).run(value)


class _Thawing:
    """Makes the values of a nesting, each object once."""

    def __init__(self, tensor_of: Callable[[Tensor | ComposedTensor], torch.Tensor], where: str) -> None:
        self._tensor_of, self._where = tensor_of, where
        self._made: dict[int, Any] = {}
        self._held: list[Any] = []

    def run(self, value: Any) -> Any:
        return self._thawed(value, 0)

    def _thawed(self, value: Any, depth: int) -> Any:
        if isinstance(value, _LEAVES) or value is None:
            return value
        if id(value) in self._made:
            return self._made[id(value)]
        if depth > _MAX_DEPTH:
            raise LimitError(f"reading {self._where}: its values are nested deeper than {_MAX_DEPTH} levels.")
        self._held.append(value)
        return self._make(value, depth + 1)

    def _make(self, value: Any, depth: int) -> Any:
        if isinstance(value, list | deque):
            made = deque(maxlen=value.maxlen) if isinstance(value, deque) else []
            return self._fill(value, made, lambda: made.extend(self._thawed(item, depth) for item in value))
        if isinstance(value, Ordered):
            return self._ordered(value, depth)
        if isinstance(value, dict):
            return self._dict(value, value.items(), depth, Counter() if isinstance(value, Counter) else {})
        if isinstance(value, tuple):
            made = tuple(self._thawed(item, depth) for item in value)
        elif isinstance(value, set | frozenset):
            made = type(value)(self._key(item, depth) for item in value)
        elif isinstance(value, Tensor | ComposedTensor):
            made = self._tensor(value)
        elif isinstance(value, Named):
            made = _value_of(value, self._where)
        elif isinstance(value, Storage):
            made = value.source.read(value.position, value.n_bytes)
        elif isinstance(value, TypedStorage):
            made = self._elements_of(value)
        elif isinstance(value, Made):
            return self._object(value, depth)
        else:
            made = value
        self._made[id(value)] = made
        return made

    def _fill(self, value: Any, made: Any, fill: Callable[[], object]) -> Any:
        self._made[id(value)] = made
        fill()
        return made

    def _ordered(self, value: Ordered, depth: int) -> Any:
        made = self._dict(value, value.items(), depth, OrderedDict())
        attributes = {key: item for key, item in value.attributes.items() if isinstance(key, str)}
        vars(made).update({key: self._thawed(item, depth) for key, item in attributes.items()})
        return made

    def _dict(self, value: Any, pairs: Any, depth: int, made: dict[Any, Any]) -> Any:
        def fill() -> None:
            for key, item in pairs:
                made[self._key(key, depth)] = self._thawed(item, depth)

        return self._fill(value, made, fill)

    def _key(self, value: Any, depth: int) -> Any:
        """Return the key of a dict or the member of a set; a record that would become a dict stays one."""
        made = self._thawed(value, depth)
        try:
            hash(made)
        except TypeError:
            if isinstance(value, Made):
                return value
            raise broken(self._where, f"a value of type {type(made).__name__} is a key, which it cannot be.") from None
        return made

    def _object(self, value: Made, depth: int) -> Any:
        name = (value.what.module, value.what.name) if isinstance(value.what, Named) else ()
        if name in PLAIN_OBJECTS and not value.args and isinstance(value.state, dict):
            return self._dict(value, {**value.kwargs, **value.state}.items(), depth, {})
        if value.items and not value.args and value.state is None:
            return self._dict(value, value.items, depth, {})
        if name == ("torch", "device") and (device := _device_of(value.args)):
            return device
        made = Made(value.what, called=value.called)

        def fill() -> None:
            made.args = tuple(self._thawed(item, depth) for item in value.args)
            made.kwargs = {key: self._thawed(item, depth) for key, item in value.kwargs.items()}
            made.state = self._thawed(value.state, depth)
            made.items = [(self._thawed(key, depth), self._thawed(item, depth)) for key, item in value.items]
            made.appended = [self._thawed(item, depth) for item in value.appended]

        return self._fill(value, made, fill)

    def _tensor(self, value: Tensor | ComposedTensor) -> Any:
        tensor = self._tensor_of(value)
        if value.role == "array":
            return tensor.numpy()
        if value.role == "parameter":
            return nn.Parameter(tensor, value.requires_grad)
        return tensor.requires_grad_() if value.requires_grad else tensor

    def _elements_of(self, value: TypedStorage) -> torch.Tensor:
        """Return a storage that stands for itself as a flat tensor; one of a quantized type as its bytes."""
        storage = value.storage
        content = bytearray(storage.source.read(storage.position, storage.n_bytes))
        dtype = getattr(torch, value.dtype) if value.dtype in ENCODED_BYTES else torch.uint8
        if len(content) % dtype.itemsize:
            raise broken(
                self._where, f"a storage of {value.dtype} has {len(content)} bytes, which are no whole elements."
            )
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


_LEAVES = (bool, int, float, complex, str, bytes, bytearray, range, slice)
_MAX_DEPTH = 100


def _device_of(args: tuple[Any, ...]) -> torch.device | None:
    """Return a device; None where this PyTorch knows none of that name."""
    try:
        return torch.device(*args)
    except (RuntimeError, TypeError, ValueError):
        return None


def _value_of(named: Named, where: str) -> Any:
    """Return the type of PyTorch that a name means; any other name stays one."""
    if (
        named.module == "torch"
        and named.name.isidentifier()
        and isinstance(getattr(torch, named.name, None), torch.dtype)
    ):
        return by_name(named.name, where)
    return named
