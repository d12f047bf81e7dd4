"""Tensors and arrays inside nested values: collected under names of their own on saving, put back on loading."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import Any

import numpy as np
import torch
from torch import nn

from perdure.errors import CorruptError, UnsupportedValueError
from perdure.records.values import TAG, EncodeHook
from perdure.weights.dtypes import by_name, short_name
from perdure.weights.storing import refuse

_STEP = re.compile(r"\[('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\]]*)\]")


_LARGE_BYTES = 64 * 1024
"""Bytes that are longer are kept as a tensor: a header has little room."""

_PLAIN_DTYPE = re.compile(r"[<>|=][bBiufcmMSUV]\d{1,9}(\[\d{0,9}[a-zA-Zμ]{1,7}\])?")


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
            return _scalar(value, place)
        if type(value) in (np.ndarray, np.memmap):
            return self._collect_array(value, place, root)
        return None

    def _collect_array(self, value: np.ndarray, place: str, root: str) -> dict[str, Any]:
        dtype = value.dtype
        if dtype.hasobject or dtype.names or np.dtype(dtype.str) != dtype:
            raise UnsupportedValueError(
                f"saving {place}: an array of type {dtype} is not plain data. Save its columns."
            )
        if _has_torch_type(dtype):
            return {TAG: "ndarray", "name": self._add(_as_tensor(value), place, root)}
        content = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8).copy()
        name = self._add(torch.from_numpy(content), place, root)
        return {TAG: "ndarray", "name": name, "dtype": dtype.str, "shape": list(value.shape)}

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


def _has_torch_type(dtype: np.dtype) -> bool:
    return dtype.isnative and dtype.name in _NUMPY_TYPES


_NUMPY_TYPES = frozenset(
    ["bool", "float16", "float32", "float64", "complex64", "complex128"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    usable = array.flags.writeable and all(step >= 0 and step % array.itemsize == 0 for step in array.strides)
    return torch.from_numpy(np.asarray(array) if usable else np.array(array, order="C"))


def _scalar(value: np.generic, place: str) -> dict[str, Any]:
    if value.dtype.kind in "OV" or type(value).__name__.endswith("longdouble"):
        raise UnsupportedValueError(f"saving {place}: a scalar of type {value.dtype} is not plain data.")
    return {TAG: "scalar", "dtype": value.dtype.str, "of": value.tobytes().hex()}


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
                self._built[key] = self._tensor(tagged) if tag == "tensor" else self._array(tagged)
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
            return self._scalar(tagged)
        raise CorruptError(f"reading {self._where}: its values have the unknown tag {tag[:40]!r}.")

    def _scalar(self, tagged: dict[str, Any]) -> Any:
        dtype = _plain_dtype(tagged["dtype"], self._where)
        content = bytes.fromhex(tagged["of"])
        _check_text(np.frombuffer(content, np.uint8), dtype, self._where)
        return np.frombuffer(content, dtype)[0] if dtype.itemsize else np.zeros(1, dtype)[0]

    def _tensor(self, tagged: dict[str, Any]) -> torch.Tensor:
        tensor = self._tensors(tagged["name"])
        gradient = tagged.get("requires_grad") is True
        if tagged.get("parameter") is True:
            return nn.Parameter(tensor, gradient)
        return tensor.requires_grad_() if gradient else tensor

    def _array(self, tagged: dict[str, Any]) -> Any:
        array = self._tensors(tagged["name"]).numpy()
        if "dtype" not in tagged:
            return array
        dtype = _plain_dtype(tagged["dtype"], self._where)
        _check_text(array, dtype, self._where)
        return array.view(dtype).reshape(tagged["shape"])


def _check_text(content: np.ndarray, dtype: np.dtype, where: str) -> None:
    """See that text of NumPy's consists of letters, which NumPy itself believes."""
    if dtype.kind == "U" and dtype.itemsize and content.size:
        letters = content.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if letters.max() > _LAST_LETTER:
            raise CorruptError(f"reading {where}: an array of text holds what are no letters.")


_LAST_LETTER = 0x10FFFF


def _plain_dtype(text: Any, where: str) -> np.dtype:
    if not _PLAIN_DTYPE.fullmatch(str(text)):
        raise CorruptError(f"reading {where}: {str(text)[:40]!r} is no type of an array of plain data.")
    dtype = np.dtype(str(text))
    if dtype.hasobject or dtype.names:
        raise CorruptError(f"reading {where}: an array of type {str(text)[:40]!r} is not plain data.")
    return dtype
