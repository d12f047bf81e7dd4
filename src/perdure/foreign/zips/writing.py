"""Zip archives of uncompressed members are written: streamed, with checksums, aligned data and room beyond 4 GiB.

The layout is known before a byte is written; only the checksums (CRC-32) are put into the headers afterwards. Source:
the .ZIP File Format Specification (APPNOTE 6.3.10), sections 4.3 to 4.5.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from perdure.disk.atomic import replacing
from perdure.disk.digests import crc32
from perdure.disk.files import preallocate
from perdure.disk.memory import pieces_of
from perdure.disk.writing import (
    DigestStream,
    Item,
    PlainSink,
    check_written,
    open_direct,
    read_back,
    write_all,
    write_streaming,
)
from perdure.errors import InputError

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_UTF_8 = 0x0800
_DATE = (
    (1980 - 1980) << 9 | 1 << 5 | 1
)  # the first day that a zip file can name, so that equal content gives equal files
_PLAIN_VERSION, _ZIP64_VERSION = 20, 45
_PADDING_ID, _ZIP64_ID = 0x4246, 0x0001
_MAX_32, _MAX_16 = 2**32 - 1, 2**16 - 1


class Member(NamedTuple):
    """One member in its place: where its header and its data begin, and its checksum once that is known."""

    item: Item
    encoded: bytes
    start: int
    data_start: int
    crc: int = 0

    @property
    def is_large(self) -> bool:
        return self.item.n_bytes >= _MAX_32

    @property
    def stop(self) -> int:
        return self.data_start + self.item.n_bytes


def write_archive(path: Path, items: list[Item], alignment: int = 1) -> int:
    """Write an archive atomically and durably, read back before it takes its place; returns its size in bytes.

    Args:
        path: the file.
        items: its members: the name, the size and the bytes of each.
        alignment: the data of every member begins at a multiple of this.

    Raises:
        InputError: a name that a zip file cannot hold.
        DiskFullError: there is no room.
        StorageError, PathError: the system refused, or gave back other bytes than were written; nothing was changed.
    """
    where = str(path)
    members = place(items, alignment)
    end = members[-1].stop if members else 0
    total = end + len(_directory(members, end))
    with replacing(path, total, where) as (descriptor, temporary):
        preallocate(descriptor, total)
        checksums, crcs = DigestStream(xxhash.xxh3_128), DigestStream(_Crc)
        parts = list(_parts(members))
        sink = open_direct(temporary, descriptor, end) or PlainSink(descriptor)
        try:
            write_streaming(parts, sink, 0, where, checksums, crcs)
            read_back(parts, checksums.hexdigests(), sink.descriptor, 0, where)
        finally:
            sink.close()
        os.ftruncate(descriptor, total)  # what goes past the page cache is written in whole pages
        found = crcs.hexdigests()
        members = [member._replace(crc=int(found.get(member.item.name, "0"), 16)) for member in members]
        written = [(member.start, _local_header(member)) for member in members]
        for offset, content in [*written, (end, _directory(members, end))]:
            view = memoryview(content)
            write_all(descriptor, [view], offset)
            check_written(descriptor, [view], where, offset)
    return total


def place(items: list[Item], alignment: int) -> list[Member]:
    """Give each member its place."""
    members: list[Member] = []
    position = 0
    for item in items:
        encoded = _encoded(item.name)
        room = _LOCAL.size + len(encoded) + (20 if item.n_bytes >= _MAX_32 else 0)
        data_start = -(-(position + room) // alignment) * alignment
        if 0 < data_start - position - room < 4:  # an extra field takes four bytes at least
            data_start += alignment if alignment >= 4 else 4
        members.append(Member(item, encoded, position, data_start))
        position = data_start + item.n_bytes
    return members


def _encoded(name: str) -> bytes:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or len(encoded) > _MAX_16 or "\0" in name:
        raise InputError(f"saving: a zip file cannot hold the name {name[:80]!r}. Rename it.")
    return encoded


class _Crc:
    """CRC-32 in the form in which digests are computed here."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, view: memoryview) -> None:
        self._value = crc32(view, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _parts(members: list[Member]) -> Iterator[Item]:
    """Give all bytes in order: each member's header, its checksum still nought, and its data."""
    for member in members:
        header = _local_header(member)
        name = f"\0header of {member.item.name}"  # which no member can be called
        yield Item(name, "", (), len(header), lambda header=header: pieces_of(header))
        yield member.item


def _local_header(member: Member) -> bytes:
    size = _MAX_32 if member.is_large else member.item.n_bytes
    extra = struct.pack("<2H2Q", _ZIP64_ID, 16, *[member.item.n_bytes] * 2) if member.is_large else b""
    padding = member.data_start - member.start - _LOCAL.size - len(member.encoded) - len(extra)
    if padding:
        extra += struct.pack("<2H", _PADDING_ID, padding - 4) + b"Z" * (padding - 4)
    version = _ZIP64_VERSION if member.is_large else _PLAIN_VERSION
    lengths = len(member.encoded), len(extra)
    start = _LOCAL.pack(b"PK\x03\x04", version, _UTF_8, 0, 0, _DATE, member.crc, size, size, *lengths)
    return start + member.encoded + extra


def _directory(members: list[Member], offset: int) -> bytes:
    """Return the central directory, which begins at `offset`, and the records that end the archive."""
    entries = b"".join(map(_central_header, members))
    count, large = len(members), b""
    if count >= _MAX_16 or len(entries) >= _MAX_32 or offset >= _MAX_32:
        at = offset + len(entries)
        versions = _ZIP64_VERSION, _ZIP64_VERSION
        large = _END_64.pack(b"PK\x06\x06", _END_64.size - 12, *versions, 0, 0, count, count, len(entries), offset)
        large += _LOCATOR_64.pack(b"PK\x06\x07", 0, at, 1)
    shown = min(count, _MAX_16)
    end = _END.pack(b"PK\x05\x06", 0, 0, shown, shown, min(len(entries), _MAX_32), min(offset, _MAX_32), 0)
    return entries + large + end


def _central_header(member: Member) -> bytes:
    size, offset, extra = member.item.n_bytes, member.start, b""
    if member.is_large:
        extra, size = struct.pack("<2Q", size, size), _MAX_32
    if offset >= _MAX_32:
        extra, offset = extra + struct.pack("<Q", offset), _MAX_32
    if extra:
        extra = struct.pack("<2H", _ZIP64_ID, len(extra)) + extra
    version = _ZIP64_VERSION if extra else _PLAIN_VERSION
    start = (b"PK\x01\x02", version, version, _UTF_8, 0, 0, _DATE, member.crc, size, size)
    return _CENTRAL.pack(*start, len(member.encoded), len(extra), 0, 0, 0, 0, offset) + member.encoded + extra
