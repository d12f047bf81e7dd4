"""GGUF files, those of ggml and llama.cpp: a header of metadata and tensors, then the tensors' bytes.

Written from the format's definition (docs/gguf.md of ggml-org/ggml), versions 1 to 3. What is checked goes beyond what
llama.cpp checks: every tensor lies where the ones before it end, and nothing but padding follows the last.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

from perdure.disk.faults import broken, enough_memory
from perdure.disk.sources import ByteSource
from perdure.errors import FormatError
from perdure.foreign.byte_order import ReorderedSource
from perdure.foreign.gguf.header import UINT32, HeaderCursor, quoted
from perdure.foreign.gguf.types import GGUF_TYPES, REMOVED_TYPES, GgufType
from perdure.foreign.inert import ComposedTensor, Content, Storage, Tensor

MAGIC = b"GGUF"
MAX_TENSORS = 2**15
MAX_KEYS = 2**15
MAX_AXES = 8
"""ggml itself has four; those who convert video models write five."""

MAX_ALIGNMENT = 2**20
MAX_TRAILING_BYTES = 2**16
"""Zeros after the last tensor that are taken for padding."""

_ALIGNMENT_KEY = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_VERSIONS = (1, 2, 3)
_MIN_PAIR_BYTES = 4 + 4 + 1  # of a key of no letters, in version 1
_MIN_INFO_BYTES = 4 + 4 + 4 + 8  # of a tensor of no letters and axes, in version 1
_MAX_ELEMENTS = 2**63 - 1


class _Info(NamedTuple):
    """A tensor as the header describes it; `offset` counts from where the data begin."""

    name: str
    shape: tuple[int, ...]
    type: GgufType
    offset: int
    n_bytes: int


def read_gguf(source: ByteSource, where: str) -> Content:
    """Read the header of a GGUF file; the tensors stay in the file.

    Args:
        source: the file.
        where: names it in messages.

    Returns:
        Its tensors by name, axes in PyTorch's order, the outermost first. Plain numbers are a `Tensor`; blocks a
        `ComposedTensor` of the block format's layout, whose part `"blocks"` has the bytes as uint8, in shape
        (…, bytes per row), and which becomes float32. `facts` has `version`, `byte_order`, `alignment` and `metadata`.

    Raises:
        FormatError: it is no GGUF file, or of a later version, or a tensor has a type that perdure does not read.
        CorruptError: it was cut off, or its header contradicts itself or the file.
        LimitError: its header has more than the limits allow.
    """
    with enough_memory(where):
        cursor = HeaderCursor(source, where)
        version, big_endian = _read_version(cursor, where)
        cursor.set_form(big_endian=big_endian, short_counts=version == 1)
        n_tensors = cursor.count("tensors", _MIN_INFO_BYTES, MAX_TENSORS)
        n_keys = cursor.count("keys", _MIN_PAIR_BYTES, MAX_KEYS)
        metadata = _read_metadata(cursor, n_keys, where)
        alignment = _alignment(metadata, where)
        infos = _read_infos(cursor, n_tensors, where)
        data_start = _aligned(cursor.position, alignment)
        _check_places(infos, data_start, alignment, source.n_bytes, where)
        data_stop = data_start + max(info.offset + info.n_bytes for info in infos) if infos else cursor.position
        _check_trailing(source, data_stop, where)
    return Content(
        format=f"GGUF file, version {version}",
        value={info.name: _tensor(info, source, data_start, big_endian) for info in infos},
        facts={
            "version": version,
            "byte_order": "big" if big_endian else "little",
            "alignment": alignment,
            "metadata": metadata,
        },
        sources=(source,),
    )


def _read_version(cursor: HeaderCursor, where: str) -> tuple[int, bool]:
    """Return the version, and whether the file comes from a big-endian machine, which only shows in that number."""
    magic = cursor.take(len(MAGIC))
    if magic != MAGIC:
        raise FormatError(
            f"reading {where}: it begins with {magic!r}; a GGUF file, which begins with {MAGIC!r}, was expected."
        )
    raw = cursor.take(4)
    version, swapped = int.from_bytes(raw, "little"), int.from_bytes(raw, "big")
    if swapped == 3:  # earlier versions know of no other byte order
        return swapped, True
    if version not in _VERSIONS:
        raise FormatError(
            f"reading {where}: it is a GGUF file of version {min(version, swapped)}; perdure reads {_VERSIONS[0]} to "
            f"{_VERSIONS[-1]}. Convert it with llama.cpp, or upgrade perdure."
        )
    return version, False


def _read_metadata(cursor: HeaderCursor, n_keys: int, where: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = cursor.name("key")
        if not key:
            raise broken(where, "a key of the metadata is empty.")
        if key in metadata:
            raise broken(where, f"the key {quoted(key)} stands twice in the metadata.")
        (kind,) = cursor.numbers("I")
        if key == _ALIGNMENT_KEY and kind != UINT32:
            raise broken(where, f"{_ALIGNMENT_KEY} is of the type {kind}, not of {UINT32} (32 bits, unsigned).")
        metadata[key] = cursor.value(kind, key)
    return metadata


def _alignment(metadata: dict[str, Any], where: str) -> int:
    found = metadata.get(_ALIGNMENT_KEY, _DEFAULT_ALIGNMENT)
    if not 0 < found <= MAX_ALIGNMENT or found & (found - 1):
        raise broken(where, f"{_ALIGNMENT_KEY} is {found}, not a power of two up to {MAX_ALIGNMENT}.")
    return found


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _read_infos(cursor: HeaderCursor, n_tensors: int, where: str) -> list[_Info]:
    infos: dict[str, _Info] = {}
    for _ in range(n_tensors):
        name = cursor.name("tensor")
        if name in infos:
            raise broken(where, f"two tensors have the name {quoted(name)}.")
        (n_axes,) = cursor.numbers("I")
        if n_axes > MAX_AXES:
            raise broken(where, f"tensor {quoted(name)} has {n_axes} axes; the most are {MAX_AXES}.")
        *sizes, number, offset = cursor.numbers("N" * n_axes + "IQ")
        shape = tuple(reversed(sizes))  # ggml names the innermost axis first
        type = _type_of(number, name, where)
        infos[name] = _Info(name, shape, type, offset, _size_of(name, type, shape, where))
    return list(infos.values())


def _type_of(number: int, name: str, where: str) -> GgufType:
    found = GGUF_TYPES.get(number)
    if found is None:
        known = REMOVED_TYPES.get(number)
        which = f"{known}, which GGUF has given up" if known else f"number {number}, which perdure does not know"
        raise FormatError(
            f"reading {where}: tensor {quoted(name)} is of the type {which}. Quantize the model anew into another type, "
            f"or upgrade perdure."
        )
    return found


def _size_of(name: str, type: GgufType, shape: tuple[int, ...], where: str) -> int:
    """Return the bytes that a tensor takes."""
    if math.prod(filter(None, shape)) > _MAX_ELEMENTS:
        raise broken(where, f"tensor {quoted(name)} has more elements than can be counted: {list(shape)}.")
    row = shape[-1] if shape else 1
    if row % type.n_elements:
        raise broken(
            where, f"tensor {quoted(name)} has rows of {row}, not of whole {type.name} blocks of {type.n_elements}."
        )
    return math.prod(shape) // type.n_elements * type.n_bytes


def _check_places(infos: list[_Info], data_start: int, alignment: int, file_bytes: int, where: str) -> None:
    """Check that the tensors lie one after the other, each on the next aligned byte, and within the file."""
    stop = 0
    for info in sorted(infos, key=lambda info: (info.offset, info.n_bytes)):
        if info.offset != _aligned(stop, alignment):
            fault = "overlaps another" if info.offset < stop else f"does not begin on the next multiple of {alignment}"
            raise broken(
                where,
                f"tensor {quoted(info.name)}, at {info.offset} of the data, {fault}; the one before ends at {stop}.",
            )
        stop = info.offset + info.n_bytes
        if data_start + stop > file_bytes:
            raise broken(
                where,
                f"tensor {quoted(info.name)} ends at byte {data_start + stop}, but the file has {file_bytes}: it was cut.",
            )


def _check_trailing(source: ByteSource, data_stop: int, where: str) -> None:
    n_bytes = source.n_bytes - data_stop
    if n_bytes > MAX_TRAILING_BYTES or any(source.read(data_stop, n_bytes)):
        raise broken(where, f"{n_bytes} bytes follow the last tensor, and are more than padding.")


def _tensor(info: _Info, source: ByteSource, data_start: int, big_endian: bool) -> Tensor | ComposedTensor:
    position = data_start + info.offset
    if big_endian:
        source, position = ReorderedSource(source, position, info.n_bytes, info.type.reversed_fields), 0
    storage = Storage(source, position, info.n_bytes)
    if info.type.dtype:
        return _dense(storage, info.type.dtype, info.shape)
    row_bytes = info.shape[-1] // info.type.n_elements * info.type.n_bytes
    blocks = _dense(storage, "uint8", (*info.shape[:-1], row_bytes))
    return ComposedTensor(info.type.name, info.shape, {"blocks": blocks}, dtype="float32")


def _dense(storage: Storage, dtype: str, shape: tuple[int, ...]) -> Tensor:
    steps = itertools.accumulate(reversed(shape[1:]), lambda step, size: step * max(size, 1), initial=1)
    return Tensor(storage, dtype, shape, tuple(reversed(list(steps))) if shape else ())
