"""A state dict is written as `torch.save` writes it since PyTorch 1.6, so that `torch.load(weights_only=True)` opens it.

It is a zip archive: `data.pkl` holds the nesting as a pickle of protocol 2, whose opcodes are emitted here one by one
for the few shapes that a state dict has; each storage is a member of its own under `data/`. Source: the formats that
PyTorch's `torch/serialization.py` and `torch/_utils.py` describe.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from perdure.disk.memory import pieces_of
from perdure.disk.writing import Item
from perdure.errors import UnsupportedTensorError, UnsupportedValueError
from perdure.foreign.zips.writing import write_archive
from perdure.records.manifest import Composed

_ALIGNMENT = 64
_ROOT = "archive"
_MAX_DEPTH = 50

_STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
    "quint8": "QUInt8Storage",
    "qint8": "QInt8Storage",
    "qint32": "QInt32Storage",
}
"""The typed storages of PyTorch; tensors of other types lie in an untyped one."""


class View(NamedTuple):
    """A tensor in a storage: its type as PyTorch names it, its sizes, and stride and offset in elements."""

    storage: Item
    dtype: str
    item_bytes: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0


class Combined(NamedTuple):
    """A sparse or quantized tensor: what it is made of, and what the manifest says about it."""

    record: Composed
    parts: dict[str, View]


def write_state(
    path: Path, tensors: Mapping[str, View | Combined], attached: Mapping[str, Any], extra: Any = None
) -> int:
    """Write a state dict atomically and read back; returns the file's size in bytes.

    Args:
        path: the file.
        tensors: by name; views of one storage share memory when they are loaded.
        attached: the versions of modules, which become `_metadata`; empty for none.
        extra: entries that are no tensors, plain values by name.

    Raises:
        UnsupportedTensorError: a layout that a state dict of PyTorch cannot hold.
        UnsupportedValueError: an entry that `torch.load(weights_only=True)` would not open.
        InputError, DiskFullError, StorageError, PathError: as `write_archive`.
    """
    pickle = _Pickle()
    pickle.state({**tensors, **(extra or {})}, attached)
    first = {
        "data.pkl": pickle.content(),
        ".format_version": b"1",
        ".storage_alignment": str(_ALIGNMENT).encode(),
        "byteorder": b"little",
    }
    items = [_item(name, content) for name, content in first.items()]
    for number, storage in enumerate(pickle.storages.values()):
        items.append(Item(f"{_ROOT}/data/{number}", "", (), storage.n_bytes, storage.pieces))
    return write_archive(path, [*items, _item("version", b"3\n")], _ALIGNMENT)


def _item(name: str, content: bytes) -> Item:
    return Item(f"{_ROOT}/{name}", "", (), len(content), lambda: pieces_of(content))


class _Pickle:
    """Emits the opcodes of a pickle; what comes again by name is taken from its memo.

    Attributes:
        storages: those that were named, by what they are called in the file that is converted, in order.
    """

    def __init__(self) -> None:
        self.storages: dict[str, Item] = {}
        self._out = bytearray(b"\x80\x02")
        self._memo: dict[tuple[str, ...], int] = {}
        self._numbers: dict[str, int] = {}

    def content(self) -> bytes:
        return bytes(self._out) + b"."

    def state(self, entries: Mapping[str, Any], attached: Mapping[str, Any]) -> None:
        """Emit a state dict: an ordered dict, with the modules' versions as its attribute."""
        self._ordered()
        self._out += b"("
        for name, value in entries.items():
            self._text(name)
            self._entry(name, value)
        self._out += b"u"
        if attached:
            self._out += b"}"
            self._text("_metadata")
            self._ordered()
            self._out += b"("
            for module, entry in attached.items():
                self._text(module)
                self._value(dict(entry), f"_metadata[{module!r}]", 0)
            self._out += b"usb"

    def _entry(self, name: str, value: Any) -> None:
        if isinstance(value, View):
            self._tensor(value)
        elif isinstance(value, Combined) and value.record.layout == "quantized":
            self._quantized(value)
        elif isinstance(value, Combined):
            self._sparse(name, value)
        else:
            self._value(value, name, 0)

    def _tensor(self, view: View) -> None:
        """Emit a call of `_rebuild_tensor_v2`, or of `v3` where its storage does not say the type."""
        typed = view.dtype in _STORAGES
        self._named("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self._out += b"("
        self._place(view)
        self._end_of_tensor()
        if not typed:
            self._named("torch", view.dtype)
        self._out += b"tR"

    def _end_of_tensor(self) -> None:
        self._out += b"\x89"  # requires no gradient
        self._ordered()  # has no hooks

    def _place(self, view: View) -> None:
        """Emit where a tensor lies: its storage, offset, sizes and strides."""
        number = self._numbers.setdefault(view.storage.name, len(self._numbers))
        self.storages.setdefault(view.storage.name, view.storage)
        self._out += b"("
        self._text("storage")
        typed = _STORAGES.get(view.dtype)
        self._named(*(("torch", typed) if typed else ("torch.storage", "UntypedStorage")))
        self._text(str(number))
        self._text("cpu")
        self._integer(view.storage.n_bytes // view.item_bytes if typed else view.storage.n_bytes)
        self._out += b"tQ"
        self._integer(view.offset)
        self._integers(view.shape)
        self._integers(view.stride)

    def _quantized(self, value: Combined) -> None:
        record = value.record
        self._named("torch._utils", "_rebuild_qtensor")
        self._out += b"("
        self._place(value.parts["int_repr"]._replace(dtype=record.dtype))
        self._out += b"("
        if "scales" in value.parts:
            self._named("torch", "per_channel_affine")
            self._tensor(value.parts["scales"])
            self._tensor(value.parts["zero_points"])
            self._integer(record.axis)
        else:
            self._named("torch", "per_tensor_affine")
            self._float(record.scale)
            self._integer(record.zero_point)
        self._out += b"t"
        self._end_of_tensor()
        self._out += b"tR"

    def _sparse(self, name: str, value: Combined) -> None:
        if value.record.layout not in _SPARSE:
            raise UnsupportedTensorError(
                f"saving tensor {name!r}: a tensor of layout {value.record.layout} cannot be kept in a .pth file. Convert "
                f"to a .safetensors file."
            )
        self._named("torch._utils", "_rebuild_sparse_tensor")
        self._named("torch.serialization", "_get_layout")
        self._text(f"torch.{value.record.layout}")
        self._out += b"\x85R("
        for part in _SPARSE[value.record.layout]:
            self._tensor(value.parts[part])
        self._named("torch", "Size")
        self._integers(value.record.shape)
        self._out += b"\x85R"
        if value.record.layout == "sparse_coo":
            self._out += b"\x88" if value.record.coalesced else b"\x89"
        self._out += b"t\x86R"

    def _value(self, value: Any, place: str, depth: int) -> None:
        """Emit a plain value."""
        kind = type(value)
        if depth > _MAX_DEPTH:
            raise UnsupportedValueError(f"saving {place[:100]}: it is nested deeper than {_MAX_DEPTH} levels.")
        if value is None or kind is bool:
            self._out += b"N" if value is None else b"\x88" if value else b"\x89"
        elif kind is int:
            self._integer(value)
        elif kind is float:
            self._float(value)
        elif kind is str:
            self._text(value)
        elif kind in (list, tuple):
            self._out += b"](" if kind is list else b"("
            for number, item in enumerate(value):
                self._value(item, f"{place}[{number}]", depth + 1)
            self._out += b"e" if kind is list else b"t"
        elif kind in (dict, OrderedDict):
            if kind is dict:
                self._out += b"}"
            else:
                self._ordered()
            self._out += b"("
            for key, item in value.items():
                self._value(key, f"{place}, a key", depth + 1)
                self._value(item, f"{place}[{key!r}]", depth + 1)
            self._out += b"u"
        else:
            raise UnsupportedValueError(
                f"saving {place[:300]}: torch.load(weights_only=True) opens no {kind.__module__}.{kind.__qualname__}."
            )

    def _ordered(self) -> None:
        self._named("collections", "OrderedDict")
        self._out += b")R"

    def _named(self, module: str, name: str) -> None:
        if not self._known(module, name):
            self._out += f"c{module}\n{name}\n".encode()
            self._remember(module, name)

    def _text(self, text: str) -> None:
        encoded = text.encode("utf-8", "surrogatepass")
        if not self._known(text):
            self._out += b"X" + struct.pack("<I", len(encoded)) + encoded
            self._remember(text)

    def _known(self, *what: str) -> bool:
        """Take something from the memo, where it is there."""
        number = self._memo.get(what)
        if number is None:
            return False
        self._out += b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number)
        return True

    def _remember(self, *what: str) -> None:
        number = self._memo[what] = len(self._memo)
        self._out += b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)

    def _integers(self, numbers: tuple[int, ...]) -> None:
        self._out += b"("
        for number in numbers:
            self._integer(number)
        self._out += b"t"

    def _integer(self, number: int) -> None:
        if 0 <= number < 2**8:
            self._out += b"K" + bytes([number])
        elif -(2**31) <= number < 2**31:
            self._out += b"J" + struct.pack("<i", number)
        else:
            content = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
            if len(content) > _MAX_INTEGER_BYTES:
                raise UnsupportedValueError("saving: an integer of more than 255 bytes cannot be kept in a .pth file.")
            self._out += b"\x8a" + bytes([len(content)]) + content

    def _float(self, number: float) -> None:
        self._out += b"G" + struct.pack(">d", number)


_MAX_INTEGER_BYTES = 255
_BY_ROW = ("crow_indices", "col_indices", "values")
_BY_COLUMN = ("ccol_indices", "row_indices", "values")
_SPARSE = {
    "sparse_coo": ("indices", "values"),
    "sparse_csr": _BY_ROW,
    "sparse_bsr": _BY_ROW,
    "sparse_csc": _BY_COLUMN,
    "sparse_bsc": _BY_COLUMN,
}
"""What a sparse tensor of each layout is rebuilt from, in that order."""
