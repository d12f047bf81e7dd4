"""NumPy's `.npz` is written: a zip archive of uncompressed arrays, each with the header of the `.npy` format, version 1.0.

Source: numpy.lib.format, "Format Specification".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perdure.disk.memory import Piece, pieces_of
from perdure.disk.writing import Item
from perdure.errors import UnsupportedTensorError
from perdure.foreign.zips.writing import write_archive

TYPES = {
    "bool": "|b1",
    "uint8": "|u1",
    "int8": "|i1",
    **{f"{name}{bits}": f"<{kind}{bits // 8}" for name, kind in (("int", "i"), ("uint", "u")) for bits in (16, 32, 64)},
    **{f"float{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"complex{bits}": f"<c{bits // 8}" for bits in (64, 128)},
}
"""The types of PyTorch that NumPy has as well, as `.npy` headers call them."""

_MAGIC = b"\x93NUMPY\x01\x00"
_ALIGNMENT = 64


def write_arrays(path: Path, items: list[Item]) -> int:
    """Write arrays, given with PyTorch's names of their types, atomically and read back; returns the file's size.

    Raises:
        UnsupportedTensorError: NumPy has no such type.
        InputError, DiskFullError, StorageError, PathError: as `write_archive`.
    """
    return write_archive(path, [_member(item) for item in items], _ALIGNMENT)


def _member(item: Item) -> Item:
    header = array_header(item)

    def pieces() -> Iterator[Piece]:
        yield from pieces_of(header)
        yield from item.pieces()

    return Item(f"{item.name}.npy", "", (), len(header) + item.n_bytes, pieces)


def array_header(item: Item) -> bytes:
    """Return the bytes before an array's own.

    Raises:
        UnsupportedTensorError: NumPy has no such type.
    """
    if item.dtype not in TYPES:
        raise UnsupportedTensorError(
            f"saving tensor {item.name!r}: NumPy has no type {item.dtype}. Give another one (dtype='float32', --dtype "
            f"float32), or convert to a .safetensors file."
        )
    text = f"{{'descr': '{TYPES[item.dtype]}', 'fortran_order': False, 'shape': {item.shape!r}, }}"
    room = len(_MAGIC) + 2
    length = -(-(room + len(text) + 1) // _ALIGNMENT) * _ALIGNMENT - room
    return _MAGIC + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"
