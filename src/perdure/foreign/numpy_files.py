"""NumPy's files: `.npy` with one array, `.npz` with several; arrays of objects, which are pickles inside, are refused.

Format: numpy.lib.format, versions 1.0, 2.0 and 3.0. The header is a Python literal; a small parser here takes just
those that NumPy writes, so that nothing is evaluated.
"""

from __future__ import annotations

import math
import re
import struct
from typing import NamedTuple

from perdure.disk.faults import broken
from perdure.disk.sources import ByteSource
from perdure.errors import FormatError, LimitError, UnsafeError
from perdure.foreign.byte_order import swapped
from perdure.foreign.inert import Content, Storage, Tensor
from perdure.foreign.zips.archives import Archive
from perdure.foreign.zips.directory import shown

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 2**16
_MAX_DIMENSIONS = 64
_MAX_BYTES = 2**63 - 1

_DTYPES = {
    "b1": ("bool", 1),
    "?": ("bool", 1),
    **{f"i{size}": (f"int{8 * size}", size) for size in (1, 2, 4, 8)},
    **{f"u{size}": (f"uint{8 * size}", size) for size in (1, 2, 4, 8)},
    **{f"f{size}": (f"float{8 * size}", size) for size in (2, 4, 8)},
    "c8": ("complex64", 4),
    "c16": ("complex128", 8),
}
"""PyTorch's name for each type, and the bytes that are turned round together."""

_OTHER_KINDS = {
    "S": "text in bytes",
    "a": "text in bytes",
    "U": "text",
    "T": "text",
    "M": "dates",
    "m": "spans of time",
    "V": "raw bytes, or a type that NumPy does not know, such as bfloat16",
    "f": "floating point numbers of a size that PyTorch lacks",
    "c": "complex numbers of a size that PyTorch lacks",
}

_TOKEN = re.compile(
    r"[ \t\n]*(?:(?P<text>'[^'\\\n]*'|\"[^\"\\\n]*\")|(?P<number>[0-9]{1,20})L?"  # L as Python 2 wrote long integers
    r"|(?P<truth>True|False)|(?P<mark>[{}()\[\]:,]))"
)
_BLANK = re.compile(r"[ \t\n]*")


class Header(NamedTuple):
    """What a `.npy` file says about its array.

    Attributes:
        descr: its type as NumPy writes it (`<f4`).
        fortran_order: its first axis runs fastest.
        shape: its sizes.
    """

    descr: str
    fortran_order: bool
    shape: tuple[int, ...]


def read_npy(source: ByteSource, where: str) -> Content:
    """Read a `.npy` file.

    Returns:
        A content whose value is one `inert.Tensor`.

    Raises:
        CorruptError: it is damaged, cut off, or longer than its array.
        FormatError: its type is one that PyTorch does not have.
        UnsafeError: it holds objects, which are pickles.
        LimitError: its header is longer than the limits allow.
    """
    return Content("NumPy array", _read_array(source, 0, source.n_bytes, where), sources=(source,))


def npz_folder(archive: Archive) -> str | None:
    """Return where the arrays are, which is the archive's own top, if it holds nothing else; None if it does."""
    return "" if archive.members and all(name.endswith(".npy") for name in archive.members) else None


def read_npz(archive: Archive) -> Content:
    """Read the arrays of a `.npz` file.

    Returns:
        A content whose value maps each array's name, without `.npy`, to an `inert.Tensor`, in the file's order.

    Raises:
        CorruptError, FormatError, UnsafeError, LimitError: as `read_npy`, for any of the arrays.
    """
    value: dict[str, Tensor] = {}
    for member in archive.members.values():
        name = member.name.removesuffix(".npy")
        if name in value:
            raise broken(archive.where, f"it has two arrays of the name {shown(name)}.")
        value[name] = _read_array(member.source, member.position, member.n_bytes, member.where)
    return Content("NumPy arrays (.npz)", value, sources=(archive.source,))


def _read_array(source: ByteSource, position: int, n_bytes: int, where: str) -> Tensor:
    text, n_header = _read_header_text(source, position, n_bytes, where)
    header = _Parser(text, where).header()
    dtype, component_bytes, big_endian = _read_dtype(header.descr, where)
    item_bytes = component_bytes * (2 if dtype.startswith("complex") else 1)
    shape, n_data = header.shape, n_bytes - n_header
    if len(shape) > _MAX_DIMENSIONS or math.prod([max(size, 1) for size in shape]) * item_bytes > _MAX_BYTES:
        raise broken(where, f"no array can have the shape {shown(str(shape))}.")
    if math.prod(shape) * item_bytes != n_data:
        raise broken(
            where,
            f"an array of {dtype} and the shape {shape} takes {math.prod(shape) * item_bytes} bytes, and {n_data} are "
            f"there: it was cut off, or something, such as a second array, was added.",
        )
    begin = position + n_header
    storage = swapped(source, begin, n_data, component_bytes) if big_endian else Storage(source, begin, n_data)
    return Tensor(storage, dtype, shape, _strides(shape, header.fortran_order), role="array")


def _strides(shape: tuple[int, ...], fortran_order: bool) -> tuple[int, ...]:
    """Return the steps, in elements, of an array without gaps; as PyTorch has them where a size is 0."""
    strides: list[int] = []
    step = 1
    for size in shape if fortran_order else reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(strides if fortran_order else reversed(strides))


def _read_header_text(source: ByteSource, position: int, n_bytes: int, where: str) -> tuple[str, int]:
    """Return the literal in the header, and how many bytes come before the array."""
    start = source.read(position, min(n_bytes, 12))
    if not start or not start.startswith(MAGIC[: len(start)]):
        raise FormatError(f"reading {where}: a NumPy array was expected, and it does not begin like one.")
    if len(start) < 10:
        raise broken(where, f"it ends after {n_bytes} bytes, within its header: it was cut off.")
    version = tuple(start[6:8])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise FormatError(f"reading {where}: versions 1 to 3 of NumPy's format are read; this is {version}.")
    n_start = 10 if version == (1, 0) else 12
    if len(start) < n_start:
        raise broken(where, f"it ends after {n_bytes} bytes, within its header: it was cut off.")
    (n_text,) = struct.unpack("<H" if n_start == 10 else "<I", start[8:n_start])
    if n_start + n_text > n_bytes:
        raise broken(
            where, f"its header of {n_text} bytes is longer than the {n_bytes} that are there: it was cut off."
        )
    if n_text > MAX_HEADER_BYTES:
        raise LimitError(
            f"reading {where}: its header has {n_text} bytes, and at most {MAX_HEADER_BYTES} are read. Save it again "
            f"as a plain array."
        )
    raw = source.read(position + n_start, n_text)
    try:
        return raw.decode("utf-8" if version == (3, 0) else "latin-1"), n_start + n_text
    except UnicodeDecodeError:
        raise broken(where, "its header is not text.") from None


class _Parser:
    """Parses the literal `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }` of a header."""

    def __init__(self, text: str, where: str) -> None:
        self._text, self._where = text, where
        self._place = 0

    def header(self) -> Header:
        found: dict[str, str | bool | tuple[int, ...]] = {}
        self._expect("{")
        while not self._found("}"):
            key = self._next("text", "the name of a field")[1:-1]
            self._expect(":")
            if key in found:
                raise self._broken(f"one {key!r}")
            found[key] = self._value(key)
            if not self._found(","):
                self._expect("}")
                break
        if len(found) != len(Header._fields):
            raise self._broken("the fields descr, fortran_order and shape")
        if _BLANK.fullmatch(self._text, self._place) is None:
            raise self._broken("nothing more")
        return Header(**found)  # type: ignore[arg-type]

    def _value(self, key: str) -> str | bool | tuple[int, ...]:
        if key == "descr":
            if self._found("[") or self._found("("):
                raise FormatError(
                    f"reading {self._where}: its elements are records of several fields, which PyTorch does not have. Save "
                    f"each field as an array of its own."
                )
            return self._next("text", "a type")[1:-1]
        if key == "fortran_order":
            return self._next("truth", "True or False") == "True"
        if key == "shape":
            return self._shape()
        raise self._broken("descr, fortran_order or shape")

    def _shape(self) -> tuple[int, ...]:
        sizes: list[int] = []
        self._expect("(")
        while not self._found(")"):
            sizes.append(int(self._next("number", "a size")))
            if not self._found(","):
                if len(sizes) == 1:
                    raise self._broken("a comma, as in (3,)")
                self._expect(")")
                break
        return tuple(sizes)

    def _found(self, mark: str) -> bool:
        """Tell whether a mark comes next, and if so go past it."""
        token = _TOKEN.match(self._text, self._place)
        if token is None or token["mark"] != mark:
            return False
        self._place = token.end()
        return True

    def _expect(self, mark: str) -> None:
        if not self._found(mark):
            raise self._broken(repr(mark))

    def _next(self, kind: str, expected: str) -> str:
        token = _TOKEN.match(self._text, self._place)
        if token is None or token[kind] is None:
            raise self._broken(expected)
        self._place = token.end()
        return token[kind]

    def _broken(self, expected: str) -> Exception:
        there = self._text[self._place : self._place + 40]
        return broken(self._where, f"at character {self._place} of its header {expected} was expected, not {there!r}.")


def _read_dtype(descr: str, where: str) -> tuple[str, int, bool]:
    """Return PyTorch's name of a type, the bytes that are turned round together, and whether they have to be."""
    order, kind = (descr[0], descr[1:]) if descr[:1] in ("<", ">", "|", "=") else ("", descr)
    if kind.startswith("O"):
        raise UnsafeError(
            f"reading {where}: it is an array of objects, which NumPy unpickles; that could run anything, and nothing was "
            f"run. Save numbers, or one array for each object."
        )
    if kind not in _DTYPES:
        what = _OTHER_KINDS.get(kind[:1], "a type that is not known")
        raise FormatError(
            f"reading {where}: its elements are {shown(descr)} ({what}), which PyTorch does not have. Convert the array "
            f"with NumPy, and save it again."
        )
    dtype, component_bytes = _DTYPES[kind]
    return dtype, component_bytes, order == ">"
