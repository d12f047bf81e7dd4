"""Arrays and scalars of NumPy as plain data and tensors, and back."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from perdure.errors import CorruptError, UnsupportedValueError
from perdure.records.values import TAG

_PLAIN_DTYPE = re.compile(r"[<>|=][bBiufcmMSUV]\d{1,9}(\[\d{0,9}[a-zA-Zμ]{1,7}\])?")
_LAST_LETTER = 0x10FFFF
_TORCH_TYPES = frozenset(
    ["bool", "float16", "float32", "float64", "complex64", "complex128"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


def take_apart(array: np.ndarray, place: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return an array's content as a tensor, and what else is needed to have the array back.

    Raises:
        UnsupportedValueError: it holds objects or records.
    """
    dtype = array.dtype
    if dtype.hasobject or dtype.names or np.dtype(dtype.str) != dtype:
        raise UnsupportedValueError(f"saving {place}: an array of type {dtype} is not plain data. Save its columns.")
    if dtype.isnative and dtype.name in _TORCH_TYPES:
        return _as_tensor(array), {}
    content = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8).copy()
    return torch.from_numpy(content), {"dtype": dtype.str, "shape": list(array.shape)}


def put_together(tensor: torch.Tensor, record: dict[str, Any], where: str) -> np.ndarray:
    """Return the array that was taken apart, in the tensor's memory.

    Raises:
        CorruptError: the record does not fit the tensor.
    """
    array = tensor.numpy()
    if "dtype" not in record:
        return array
    dtype = _plain_dtype(record["dtype"], where)
    _check_text(array, dtype, where)
    return array.view(dtype).reshape(record["shape"])


def encode_scalar(value: np.generic, place: str) -> dict[str, Any]:
    """Write a scalar down.

    Raises:
        UnsupportedValueError: it is an object or a record, or of a type that depends on the machine.
    """
    if value.dtype.kind in "OV" or type(value).__name__.endswith("longdouble"):
        raise UnsupportedValueError(f"saving {place}: a scalar of type {value.dtype} is not plain data.")
    return {TAG: "scalar", "dtype": value.dtype.str, "of": value.tobytes().hex()}


def decode_scalar(record: dict[str, Any], where: str) -> Any:
    """Return the scalar that was written down.

    Raises:
        CorruptError: it is none.
    """
    dtype = _plain_dtype(record["dtype"], where)
    content = bytes.fromhex(record["of"])
    _check_text(np.frombuffer(content, np.uint8), dtype, where)
    return np.frombuffer(content, dtype)[0] if dtype.itemsize else np.zeros(1, dtype)[0]


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    usable = array.flags.writeable and all(step >= 0 and step % array.itemsize == 0 for step in array.strides)
    return torch.from_numpy(np.asarray(array) if usable else np.array(array, order="C"))


def _check_text(content: np.ndarray, dtype: np.dtype, where: str) -> None:
    """See that text of NumPy's consists of letters, which NumPy itself believes."""
    if dtype.kind == "U" and dtype.itemsize and content.size:
        letters = content.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if letters.max() > _LAST_LETTER:
            raise CorruptError(f"reading {where}: an array of text holds what are no letters.")


def _plain_dtype(text: Any, where: str) -> np.dtype:
    if not _PLAIN_DTYPE.fullmatch(str(text)):
        raise CorruptError(f"reading {where}: {str(text)[:40]!r} is no type of an array of plain data.")
    dtype = np.dtype(str(text))
    if dtype.hasobject or dtype.names:
        raise CorruptError(f"reading {where}: an array of type {str(text)[:40]!r} is not plain data.")
    return dtype
