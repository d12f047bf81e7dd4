"""The header of a safetensors file: read with every rule of the format checked, and built for writing.

A file is eight bytes (the header's length, little-endian), a header of JSON, and the tensors' bytes without a hole.
Nothing here allocates more than the header itself, and nothing is believed before it is checked.
"""

from __future__ import annotations

import json
import math
import re
import struct
from typing import Annotated, Any, NamedTuple

import msgspec

from perdure.disk.faults import broken
from perdure.errors import CorruptError, FormatError, InputError, LimitError
from perdure.records.counting import count_outside_strings
from perdure.records.dtypes import BITS, byte_size

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""

DATA_ALIGNMENT = 4096
"""The data of a file that perdure writes begins on a page."""

METADATA_KEY = "__metadata__"
MAX_DIMENSIONS = 64
_MAX_SIZE = 2**63 - 1


Size = Annotated[int, msgspec.Meta(ge=0, le=_MAX_SIZE)]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One tensor as the header has it: its safetensors type, its shape and its bytes `[start, stop)` within the data."""

    dtype: str
    shape: Annotated[tuple[Size, ...], msgspec.Meta(max_length=MAX_DIMENSIONS)]
    data_offsets: tuple[Size, Size]

    @property
    def start(self) -> int:
        return self.data_offsets[0]

    @property
    def n_bytes(self) -> int:
        return self.data_offsets[1] - self.data_offsets[0]


class Header(NamedTuple):
    """A validated header: the tensors in the header's order, the metadata, and where the data begins in the file."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    data_start: int
    data_bytes: int


def read_length(first: bytes, file_bytes: int, where: str) -> int:
    """Return the header's length from the first eight bytes of a file of `file_bytes` bytes."""
    if file_bytes == 0:
        raise broken(where, "the file is empty.")
    if len(first) < 8:
        raise broken(
            where,
            f"the file has {file_bytes} bytes; a safetensors file has at least 8. It was cut off, or "
            f"it is no safetensors file.",
        )
    (length,) = struct.unpack("<Q", first)
    if length > min(file_bytes - 8, MAX_HEADER_BYTES):
        _refuse_other_kinds(first, where)
    if length > file_bytes - 8:
        raise broken(
            where,
            f"the header should take {length} bytes, but only {file_bytes - 8} follow. The file was "
            f"cut off, or it is no safetensors file.",
        )
    if length > MAX_HEADER_BYTES:
        raise LimitError(f"reading {where}: a header of {length} bytes; the limit is {MAX_HEADER_BYTES}.")
    return length


_CONVERT = "open it with perdure.open, or convert it with `perdure convert`"
_OTHER_KINDS = (
    (b"PK\x03\x04", f"a zip archive, as torch.save writes it: {_CONVERT}"),
    (b"\x80", f"a pickle: {_CONVERT}"),
    (b"GGUF", f"a GGUF file: {_CONVERT}"),
    (b"\x93NUMPY", f"a NumPy array: {_CONVERT}"),
    (b"version ", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive: unpack it with gunzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it with zstd -d"),
    (b"\xfd7zXZ\0", "an xz archive: unpack it with unxz"),
    (b"BZh", "a bzip2 archive: unpack it with bunzip2"),
    (b"x\x9c", "compressed by zlib, as joblib does: save it again without compression"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\x89HDF", "an HDF5 file: read it with its own library, save it with save_weights"),
)


_PAGES = (b"<!", b"<?xml", b"<htm", b"<head", b'{"error', b'{"messa', b'{"detai')


def _refuse_other_kinds(first: bytes, where: str) -> None:
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if len(text) > 1 and any(page.startswith(text) or text.startswith(page) for page in _PAGES):
        raise FormatError(
            f"reading {where}: this is the answer of a server (HTML, XML or JSON), so the download went wrong: download it "
            f"again; a safetensors file was expected."
        )
    for start, kind in _OTHER_KINDS:
        if first.startswith(start):
            raise FormatError(f"reading {where}: this is {kind}; a safetensors file was expected.")


def parse(raw: bytes, file_bytes: int, where: str) -> Header:
    """Read and validate the JSON of a header.

    Args:
        raw: the header's bytes, without the eight of its length.
        file_bytes: size of the whole file.
        where: names the file in messages.

    Raises:
        CorruptError: any rule of the format is broken.
    """
    found = _read_canonical(raw) or _read(raw, where)
    for name, entry in found.entries.items():
        _check_entry(name, entry, where)
    data_bytes = file_bytes - 8 - len(raw)
    _check_coverage(found.entries, data_bytes, where)
    return Header(found.entries, found.metadata, 8 + len(raw), data_bytes)


class _Content(NamedTuple):
    entries: dict[str, Entry]
    metadata: dict[str, str]


_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entries_decoder = msgspec.json.Decoder(dict[str, Entry])
_metadata_decoder = msgspec.json.Decoder(dict[str, str])
_METADATA_START = f'{{"{METADATA_KEY}":'.encode()


def _read_canonical(raw: bytes) -> _Content | None:
    """Read a header in the form in which perdure and safetensors write it, many times faster than any other.

    Writing what was read gives the same bytes again, so no key occurs twice and nothing was passed over. None where
    that does not hold: then the header is of another writer or at fault, and is read with care.
    """
    text = raw.rstrip(b" ")
    metadata: dict[str, str] = {}
    try:
        if text.startswith(_METADATA_START):
            start = bytes(_raw_decoder.decode(text)[METADATA_KEY])
            metadata = _metadata_decoder.decode(start)
            before = b"".join((_METADATA_START, start, b","))
            if not text.startswith(before) or msgspec.json.encode(metadata) != start:
                return None
            text = b"{" + text[len(before) :]
        entries = _entries_decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return _Content(entries, metadata) if msgspec.json.encode(entries) == text else None


def _read(raw: bytes, where: str) -> _Content:
    """Read a header of any writer, and say what is wrong with it."""
    content = load_json(raw, where)
    metadata = content.pop(METADATA_KEY, None)
    metadata = {} if metadata is None else metadata
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        raise broken(where, f"the header's {METADATA_KEY} must map text to text.")
    entries = {name: _entry(name, value, where) for name, value in content.items()}
    if any(_HALVES.search(name) for name in entries if not name.isascii()):
        raise broken(where, "a tensor's name is not valid Unicode.")
    return _Content(entries, metadata)


_HALVES = re.compile("[\ud800-\udfff]")
"""Halves of letters, which no text has."""

_BYTES_PER_BRACKET = 16
"""An entry has three brackets in 50 bytes or more: an object, and the lists of its sizes and its offsets."""

_SLACK_BRACKETS = 1000


def load_json(raw: bytes, where: str) -> dict[str, Any]:
    """Read JSON in which no key may occur twice; all that is wrong with it is a CorruptError."""
    if not raw.startswith(b"{"):
        raise broken(where, "the header does not begin with '{'; it is damaged or not safetensors.")
    room = _SLACK_BRACKETS + len(raw) // _BYTES_PER_BRACKET
    if count_outside_strings(raw, b"[{", room) > room:
        raise broken(where, "the header is nested too deeply, with lists and objects where there may be none.")
    try:
        text = raw.decode("utf-8")
        parse_int = _integer if "-0" in text else None
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=parse_int)
    except UnicodeDecodeError as error:
        raise broken(where, f"the header is not UTF-8 (byte {8 + error.start}).") from None
    except RecursionError:
        raise broken(where, "the header is nested too deeply.") from None
    except ValueError as error:
        raise broken(where, f"the header is not valid JSON ({str(error)[:200]}).") from None
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:80]!r} occurs twice")
            seen.add(key)
    return found


def _integer(text: str) -> int:
    if text == "-0":
        raise ValueError("-0 is no size")
    return int(text)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _entry(name: str, value: Any, where: str) -> Entry:
    if type(value) is not dict or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise broken(where, f"the entry of tensor {name[:200]!r} must have dtype, shape and data_offsets and no more.")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(dtype) is not str:
        raise _unknown(name, dtype, where)
    if type(shape) is not list:
        raise broken(where, f"the shape of tensor {name[:200]!r} must be a list of sizes.")
    if len(shape) > MAX_DIMENSIONS:
        raise broken(where, f"tensor {name[:200]!r} has {len(shape)} sizes; PyTorch has at most {MAX_DIMENSIONS}.")
    for size in shape:
        if type(size) is not int or not 0 <= size <= _MAX_SIZE:
            raise broken(where, f"the shape of tensor {name[:200]!r} must be a list of sizes ≥ 0.")
    if type(offsets) is not list or len(offsets) != 2 or type(offsets[0]) is not int or type(offsets[1]) is not int:
        raise broken(where, f"data_offsets of tensor {name[:200]!r} must be two sizes.")
    if not all(0 <= offset <= _MAX_SIZE for offset in offsets):
        raise broken(where, f"data_offsets of tensor {name[:200]!r} must be two sizes ≥ 0.")
    return Entry(dtype, tuple(shape), (offsets[0], offsets[1]))


def _unknown(name: str, dtype: object, where: str) -> CorruptError:
    return broken(where, f"tensor {name[:200]!r} has the unknown type {str(dtype)[:40]!r}.")


def _check_entry(name: str, entry: Entry, where: str) -> None:
    """See that the bytes of a tensor are those that its type and shape need."""
    dtype, shape, (start, stop) = entry.dtype, entry.shape, entry.data_offsets
    if dtype not in BITS:
        raise _unknown(name, dtype, where)
    if start > stop:
        raise broken(where, f"data_offsets of tensor {name[:200]!r} must be two sizes in order.")
    if 0 in shape and math.prod(filter(None, shape)) > _MAX_SIZE:
        raise broken(where, f"the shape of tensor {name[:200]!r} is beyond all memory.")
    n_bytes = byte_size(dtype, shape)
    if n_bytes != stop - start:
        raise broken(
            where,
            f"tensor {name[:200]!r} has {stop - start} bytes; {dtype} of shape {str(list(shape))[:100]} needs "
            f"{'whole bytes' if n_bytes is None else n_bytes}.",
        )


def _check_coverage(entries: dict[str, Entry], data_bytes: int, where: str) -> None:
    position = 0
    for (start, stop), name in sorted([(entry.data_offsets, name) for name, entry in entries.items()]):
        if start != position:
            fault = "overlaps the tensor before it" if start < position else "leaves a hole before it"
            raise broken(
                where,
                f"tensor {name[:200]!r} begins at byte {start} of the data and {fault} (which ends at {position}).",
            )
        position = stop
    if position > data_bytes:
        raise broken(where, f"the tensors need {position} bytes of data, the file has {data_bytes}: it was cut off. ")
    if position < data_bytes:
        raise broken(where, f"{data_bytes - position} bytes follow the last tensor; none may.")


def place(sizes: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Give each tensor its bytes in the data, so that all whose size allows it begin at a multiple of 64.

    Tensors of a multiple of 64 bytes go first, then those of 32, 16 and so on: each then begins at a multiple of its
    own element size, and nothing is left between them.
    """
    order = sorted(sizes, key=lambda name: -(sizes[name] & -sizes[name] if sizes[name] % 64 else 64))
    offsets: dict[str, tuple[int, int]] = {}
    position = 0
    for name in order:
        offsets[name] = (position, position + sizes[name])
        position += sizes[name]
    return offsets


def build(metadata: dict[str, str], entries: dict[str, Entry]) -> bytes:
    """Return the eight length bytes and the header, padded with spaces so that the data begins on a page."""
    text = msgspec.json.encode({METADATA_KEY: metadata, **entries})
    if len(text) > MAX_HEADER_BYTES - DATA_ALIGNMENT:
        raise InputError(
            f"saving: the header would take {len(text)} bytes; at most {MAX_HEADER_BYTES} are read. Save fewer tensors, or "
            f"shorter notes."
        )
    padded = text.ljust(-(-(8 + len(text)) // DATA_ALIGNMENT) * DATA_ALIGNMENT - 8)
    return struct.pack("<Q", len(padded)) + padded
