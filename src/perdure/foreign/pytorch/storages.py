"""How PyTorch's pickles name the bytes of tensors: the types of storages, and the persistent ids that stand for them."""

from __future__ import annotations

from typing import Any, NamedTuple

from perdure.errors import CorruptError
from perdure.foreign.inert import Named
from perdure.foreign.pickles.torch_names import ELEMENT_BYTES

DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}
"""The type of each class of storages."""

ITEM_BYTES = {**ELEMENT_BYTES, "quint4x2": 1, "quint2x4": 1}
"""Bytes per element of a storage of each type; of the two smallest quantized types, several numbers are one element."""


def number_bytes(dtype: str) -> int:
    """Return the bytes of one number of a type; a complex element has two."""
    return ITEM_BYTES[dtype] // (2 if dtype.startswith("complex") else 1)


class StorageId(NamedTuple):
    """What a persistent id of PyTorch says: which storage, of which type, and how many elements it has.

    `view` is the part that an id of the formats before 1.6 may name: the key, the first element and the number of them.
    """

    key: str
    dtype: str
    n_elements: int
    view: tuple[str, int, int] | None = None


def storage_id(pid: Any, where: str) -> StorageId:
    """Read a persistent id.

    Raises:
        CorruptError: it is none that PyTorch writes.
    """
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise CorruptError(
            f"reading {where}: its pickle has the persistent id {str(pid)[:80]!r}, which names no storage."
        )
    kind, key, n_elements = pid[1], pid[2], pid[4]
    dtype = DTYPES.get(kind.name) if isinstance(kind, Named) and kind.module.split(".")[0] == "torch" else None
    if dtype is None:
        raise CorruptError(
            f"reading {where}: its pickle names a storage of the class {str(kind)[:80]!r}, which is none."
        )
    if not isinstance(key, str | int) or type(n_elements) is not int or not 0 <= n_elements < 2**62:
        raise CorruptError(f"reading {where}: its pickle names a storage without a key or size: {str(pid)[:80]!r}.")
    return StorageId(str(key), dtype, n_elements, _view(pid[5]) if len(pid) > 5 else None)


def _view(found: Any) -> tuple[str, int, int] | None:
    if not isinstance(found, tuple) or len(found) != 3 or not all(type(number) is int for number in found[1:]):
        return None
    return str(found[0]), found[1], found[2]
