"""Tensors and arrays inside nested values: collected under names of their own on saving, put back on loading."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import Any

import numpy as np
import torch
from torch import nn

from perdure.errors import CorruptError
from perdure.records.values import TAG, EncodeHook
from perdure.weights.arrays import decode_scalar, encode_scalar, put_together, take_apart
from perdure.weights.dtypes import by_name, short_name
from perdure.weights.storing import refuse

_STEP = re.compile(r"\[('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\]]*)\]")


_LARGE_BYTES = 64 * 1024
"""Bytes that are longer are kept as a tensor: a header has little room."""


class TensorCollector:
    """Collects the tensors that an encoding meets, each object once.

    Args:
        taken: names that they must not get.
        every_place: a tensor at several places gets a name for each, as long as that costs no more than an alias.
    """

    def __init__(self, taken: Container[str] = (), *, every_place: bool = True) -> None:
        self._every_place = every_place
        self.tensors: dict[str, torch.Tensor] = {}
        self._taken = taken
        self._seen: dict[int, tuple[object, dict[str, Any]]] = {}

    def hook(self, root: str) -> EncodeHook:
        """Return the hook for values that stand under `root`; the tensors' names begin with it."""

        def collect(value: Any, place: str) -> dict[str, Any] | None:
            seen = self._seen.get(id(value))
            if seen:
                if self._every_place and isinstance(value, torch.Tensor) and _is_dense(value):
                    self._add(value, place, root)
                return seen[1]
            tagged = self._collect(value, place, root)
            if tagged is not None and "name" in tagged:
                self._seen[id(value)] = (value, tagged)
            return tagged

        return collect

    def _collect(self, value: Any, place: str, root: str) -> dict[str, Any] | None:
        if isinstance(value, torch.Tensor):
            refuse(place, value)
            name = self._add(value, place, root)
            parameter = {"parameter": True} if isinstance(value, nn.Parameter) else {}
            gradient = {"requires_grad": True} if value.requires_grad else {}
            return {TAG: "tensor", "name": name, **parameter, **gradient}
        if isinstance(value, torch.Size):
            return {TAG: "size", "of": list(value)}
        if isinstance(value, torch.dtype):
            return {TAG: "dtype", "of": short_name(value)}
        if isinstance(value, torch.device):
            return {TAG: "device", "of": str(value)}
        if type(value) in (bytes, bytearray) and len(value) > _LARGE_BYTES:
            content = torch.from_numpy(np.frombuffer(value, np.uint8).copy())
            return {TAG: f"{type(value).__name__} of tensor", "name": self._add(content, place, root)}
        if isinstance(value, np.generic):
            return encode_scalar(value, place)
        if type(value) in (np.ndarray, np.memmap):
            tensor, record = take_apart(value, place)
            return {TAG: "ndarray", "name": self._add(tensor, place, root), **record}
        return None

    def _add(self, tensor: torch.Tensor, place: str, root: str) -> str:
        wanted = tensor_name(place, root)
        name, number = wanted, 1
        while name in self.tensors or name in self._taken or name == "__metadata__" or not name:
            number += 1
            name = f"{wanted}#{number}"
        self.tensors[name] = tensor
        return name


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized


def tensor_name(place: str, root: str) -> str:
    """Turn a place such as `state['model'][0]` into a name such as `model.0`."""
    steps = [step.strip("'\"") for step in _STEP.findall(place)]
    inner = ".".join(step.encode("utf-8", "replace").decode() for step in steps)
    return ".".join(part for part in (root, inner) if part)


_OF_TENSORS = ("tensor", "ndarray", "bytes of tensor", "bytearray of tensor")


def names_in(encoded: Any) -> list[str]:
    """Return the names of the tensors that encoded values refer to."""
    names: dict[str, None] = {}
    waiting = [encoded]
    while waiting:
        value = waiting.pop()
        if type(value) is dict and value.get(TAG) in _OF_TENSORS:
            names[str(value.get("name"))] = None
        elif type(value) is dict:
            waiting.extend(value.values())
        elif type(value) is list:
            waiting.extend(value)
    return list(names)


class TensorRestorer:
    """Puts tensors back where an encoding met them; one tensor object for each that was saved."""

    def __init__(self, tensors: Callable[[str], torch.Tensor], where: str) -> None:
        self._tensors = tensors
        self._where = where
        self._built: dict[tuple[str, ...], Any] = {}

    def hook(self, tagged: dict[str, Any]) -> Any:
        """Build the value of a tagged object.

        Raises:
            CorruptError: an unknown tag, or content that does not fit it.
        """
        tag = str(tagged[TAG])
        if tag in ("tensor", "ndarray"):
            key = (tag, str(tagged.get("name")))
            if key not in self._built:
                self._built[key] = self._build(tag, tagged)
            return self._built[key]
        if tag in _OF_TENSORS:
            content = self._tensors(tagged["name"]).numpy().tobytes()
            return content if tag.startswith("bytes") else bytearray(content)
        if tag == "size":
            return torch.Size(tagged["of"])
        if tag == "dtype":
            return by_name(str(tagged["of"]), self._where)
        if tag == "device":
            return torch.device(str(tagged["of"]))
        if tag == "scalar":
            return decode_scalar(tagged, self._where)
        raise CorruptError(f"reading {self._where}: its values have the unknown tag {tag[:40]!r}.")

    def _build(self, tag: str, tagged: dict[str, Any]) -> Any:
        if tag == "tensor":
            return self._tensor(tagged)
        return put_together(self._tensors(tagged["name"]), tagged, self._where)

    def _tensor(self, tagged: dict[str, Any]) -> torch.Tensor:
        tensor = self._tensors(tagged["name"])
        gradient = tagged.get("requires_grad") is True
        if tagged.get("parameter") is True:
            return nn.Parameter(tensor, gradient)
        return tensor.requires_grad_() if gradient else tensor
