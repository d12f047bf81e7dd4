"""The end of a zip archive: its end records and its central directory, each value checked before it is believed.

Format: APPNOTE.TXT 6.3.10 of PKWARE, sections 4.3 to 4.5. What that leaves to the reader's taste, and what has let
archives say one thing to one reader and another to the next, is refused here.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from typing import NamedTuple

import msgspec

from perdure.disk.faults import broken
from perdure.disk.sources import ByteSource
from perdure.errors import FormatError, LimitError

MAX_ENTRIES = 2**18
MAX_DIRECTORY_BYTES = 64 * 2**20
MAX_INFLATED_BYTES = 4 * 2**30
MAX_RATIO = 1000
"""What inflates to more than both of these is refused: more bytes, and more than so many times its stored size."""

SIZE_ELSEWHERE = 0xFFFFFFFF
"""Stands where a value is in the zip64 record or field instead."""

STREAMED, UTF8 = 0x0008, 0x0800
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_KNOWN_FLAGS = STREAMED | UTF8 | 0x0006  # two bits say how hard the writer tried
STORED, DEFLATED = 0, 8
_METHODS = {1: "shrunk", 6: "imploded", 9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz", 99: "AES"}
_NEWEST_VERSION = 63
_FOLDER = 0x10  # in the attributes of MS-DOS
_ZIP64, _UNICODE_NAME = 0x0001, 0x7075
_MOST_PER_BYTE = 1032  # 258 bytes for two bits: what deflate can do at most

_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_SIGNATURES = re.compile(rb"PK(\x01\x02|\x03\x04|\x05\x05|\x05\x06|\x06\x06|\x06\x07|\x07\x08)")
_DRIVE = re.compile(r"[A-Za-z]:(?!\d)")  # "b:0" is what TensorFlow calls a variable
_SPECIAL_FILES = {0o120000: "a symbolic link", 0o020000: "a device", 0o060000: "a device", 0o010000: "a pipe"}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What the central directory says about one entry.

    Attributes:
        name: its name.
        raw_name: the name's bytes.
        flags: its general purpose flags.
        method: `STORED` or `DEFLATED`.
        crc: CRC-32 of its content; 0 as well where the writer computed none.
        stored_bytes: the size of its content in the archive.
        n_bytes: the size of its content.
        offset: where its local header begins.
    """

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    stored_bytes: int
    n_bytes: int
    offset: int

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")


class Extent(NamedTuple):
    """Where the central directory is, and how many entries it has."""

    start: int
    n_bytes: int
    n_entries: int


def read_directory(source: ByteSource, where: str) -> tuple[list[Entry], int]:
    """Read the central directory.

    Returns:
        Its entries in its order, and where it begins.

    Raises:
        CorruptError: it is damaged, cut off, or says different things in different places.
        FormatError: encrypted, in several volumes, or packed by a method other than deflate.
        LimitError: it has more entries than the limits allow, or they would inflate to too much.
    """
    extent = _find(source, where)
    if extent.n_entries > MAX_ENTRIES or extent.n_bytes > MAX_DIRECTORY_BYTES:
        raise LimitError(
            f"reading {where}: its directory has {extent.n_entries} entries in {extent.n_bytes} bytes; at most "
            f"{MAX_ENTRIES} in {MAX_DIRECTORY_BYTES} are read. Divide what it holds among several files."
        )
    content = source.read(extent.start, extent.n_bytes)
    entries: list[Entry] = []
    place = 0
    for _ in range(extent.n_entries):
        entry, place = _read_entry(content, place, len(entries), where)
        if entry.offset + 30 + len(entry.raw_name) + entry.stored_bytes > extent.start:
            raise broken(where, f"entry {shown(entry.name)} would reach beyond the directory at byte {extent.start}.")
        entries.append(entry)
    if place != len(content):
        raise broken(where, f"its directory has {len(content) - place} bytes more than its {len(entries)} entries.")
    _refuse_bomb(entries, where)
    _refuse_alike(entries, where)
    return entries, extent.start


def _find(source: ByteSource, where: str) -> Extent:
    """Find the directory through the end records, which must stand right behind it and end the file."""
    n_bytes = source.n_bytes
    start = max(0, n_bytes - _END.size - 0xFFFF)
    tail = source.read(start, n_bytes - start)
    place = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
    if place < 0:
        raise broken(where, "the end record of a zip archive was expected at its end and is not there: it was cut off.")
    _, disk, first_disk, n_here, n_entries, size, offset, n_comment = _END.unpack_from(tail, place)
    comment = tail[place + _END.size :]
    if len(comment) != n_comment:
        raise broken(
            where,
            f"behind its last end record {n_comment} bytes were expected and {len(comment)} are there: it was cut off, "
            f"or something was added to it.",
        )
    if _SIGNATURES.search(comment):
        raise broken(where, "its comment holds parts of another zip archive.")
    said = (disk, first_disk, n_here, n_entries, size, offset)
    end = start + place
    if tail[max(0, place - _LOCATOR.size) :].startswith(b"PK\6\7"):
        end, said = _read_zip64(source, where, end, said)
    disk, first_disk, n_here, n_entries, size, offset = said
    if disk or first_disk or n_here != n_entries:
        raise FormatError(f"reading {where}: it is one volume of a zip archive in several. Join them first.")
    if offset + size != end:
        raise broken(
            where,
            f"its directory should lie in the bytes {offset} to {offset + size}, and its end record begins at {end}: "
            f"something was cut out, or put before or between.",
        )
    if n_entries * _ENTRY.size > size:
        raise broken(where, f"its directory of {size} bytes is too short for {n_entries} entries.")
    return Extent(offset, size, n_entries)


def _read_zip64(source: ByteSource, where: str, end: int, said: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Read the zip64 records before the end record; returns where they begin, and the values that hold."""
    start = end - _LOCATOR.size - _END64.size
    if start < 0:
        raise broken(where, "its zip64 end record is cut off.")
    records = source.read(start, _END64.size + _LOCATOR.size)
    _, disk, offset, n_disks = _LOCATOR.unpack_from(records, _END64.size)
    signature, size, _, _, *wide = _END64.unpack_from(records)
    if disk or n_disks > 1:
        raise FormatError(f"reading {where}: it is one volume of a zip archive in several. Join them first.")
    if signature != b"PK\6\6" or offset != start or size != _END64.size - 12:
        raise broken(where, f"its zip64 end record was expected at byte {start}, of {_END64.size} bytes, and is not.")
    limits = (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, SIZE_ELSEWHERE, SIZE_ELSEWHERE)
    for narrow, true, limit in zip(said, wide, limits, strict=True):
        if narrow not in (true, limit):
            raise broken(where, f"its two end records contradict each other: {narrow} against {true}.")
    return start, tuple(wide)


def _read_entry(content: bytes, place: int, number: int, where: str) -> tuple[Entry, int]:
    if len(content) - place < _ENTRY.size:
        raise broken(where, f"its directory ends within entry {number}.")
    fields = _ENTRY.unpack_from(content, place)
    signature, _, needed, flags, method, _, _, crc, stored_bytes, n_bytes, n_name, n_extra, n_comment = fields[:13]
    disk, _, attributes, offset = fields[13:]
    name_end = place + _ENTRY.size + n_name
    end = name_end + n_extra + n_comment
    if signature != b"PK\1\2" or end > len(content):
        raise broken(where, f"entry {number} of its directory is not whole.")
    raw_name = content[name_end - n_name : name_end]
    name = _read_name(raw_name, flags, where)
    _refuse_unreadable(name, needed, flags, method, attributes, where)
    extra = read_extra(content[name_end : name_end + n_extra], raw_name, where) if n_extra else b""
    if extra or SIZE_ELSEWHERE in (n_bytes, stored_bytes, offset):
        n_bytes, stored_bytes, offset = _widened((n_bytes, stored_bytes, offset), extra, name, where)
    if disk:
        raise FormatError(f"reading {where}: entry {shown(name)} is in another volume. Join the volumes first.")
    if method == STORED and stored_bytes != n_bytes:
        raise broken(where, f"entry {shown(name)} is not compressed, yet {n_bytes} bytes take {stored_bytes}.")
    if name.endswith("/") and n_bytes:
        raise broken(where, f"entry {shown(name)} is a folder, yet has {n_bytes} bytes.")
    return Entry(name, raw_name, flags, method, crc, stored_bytes, n_bytes, offset), end


def _read_name(raw: bytes, flags: int, where: str) -> str:
    """Decode a name, and refuse one that could lead elsewhere, or that two readers would read differently."""
    try:
        name = raw.decode("utf-8" if flags & UTF8 else "ascii")
    except UnicodeDecodeError:
        expected = "UTF-8" if flags & UTF8 else "ASCII, or marked as UTF-8"
        raise broken(where, f"the name of entry {shown(raw)} should be {expected}, and is not.") from None
    if not name or name[0] == "/" or "\\" in name or "\0" in name or _DRIVE.match(name) or ".." in name.split("/"):
        raise broken(where, f"the name of entry {shown(name)} is not a plain relative path.")
    return name


def _refuse_unreadable(name: str, needed: int, flags: int, method: int, attributes: int, where: str) -> None:
    if flags & _ENCRYPTED or method == 99:
        raise FormatError(
            f"reading {where}: entry {shown(name)} is encrypted. Decrypt it with the program that made it."
        )
    if method not in (STORED, DEFLATED):
        raise FormatError(
            f"reading {where}: entry {shown(name)} is compressed by method {method} ({_METHODS.get(method, 'unknown')}); "
            f"stored and deflated ones are read. Pack it again with one of these."
        )
    if needed & 0xFF > _NEWEST_VERSION:  # the other byte says which system it needs
        raise FormatError(
            f"reading {where}: entry {shown(name)} needs version {(needed & 0xFF) / 10} of the zip format, and versions to "
            f"{_NEWEST_VERSION / 10} are read. Pack it again with another program."
        )
    if flags & ~_KNOWN_FLAGS:
        raise broken(where, f"entry {shown(name)} has flags that mean nothing here ({flags:#06x}).")
    kind = attributes >> 16 & 0o170000
    special = _SPECIAL_FILES.get(kind)
    if (attributes & _FOLDER or kind == 0o040000) and not name.endswith("/"):
        special = "a folder by its attributes, though not by its name"  # PyTorch's reader then reads nothing
    if special:
        raise broken(where, f"entry {shown(name)} is {special}; a file was expected.")


def read_extra(raw: bytes, raw_name: bytes, where: str) -> bytes:
    """Walk the fields of an extra field.

    Returns:
        The zip64 field's content, empty where there is none.

    Raises:
        CorruptError: the fields do not fill it, there are two zip64 fields, or another name is in it.
    """
    found: bytes | None = None
    place = 0
    while place < len(raw):
        if len(raw) - place < 4:
            raise broken(where, f"the extra field of entry {shown(raw_name)} ends within a field.")
        kind, size = struct.unpack_from("<2H", raw, place)
        field = raw[place + 4 : place + 4 + size]
        place += 4 + size
        if place > len(raw):
            raise broken(where, f"the extra field of entry {shown(raw_name)} ends within a field.")
        if kind == _ZIP64:
            if found is not None or not field:
                raise broken(where, f"entry {shown(raw_name)} should have one zip64 field, and has none or several.")
            found = field
        elif kind == _UNICODE_NAME and field[5:] != raw_name:
            raise broken(where, f"entry {shown(raw_name)} has another name as well.")
    return found or b""


def _widened(values: tuple[int, int, int], extra: bytes, name: str, where: str) -> tuple[int, ...]:
    """Replace the values that stand elsewhere by those of the zip64 field, which holds these and no others."""
    if len(extra) != 8 * values.count(SIZE_ELSEWHERE):
        raise broken(
            where, f"the zip64 field of entry {shown(name)} does not hold what its directory entry leaves to it."
        )
    wide = iter(struct.unpack(f"<{len(extra) // 8}Q", extra))
    return tuple([next(wide) if value == SIZE_ELSEWHERE else value for value in values])


def _refuse_bomb(entries: list[Entry], where: str) -> None:
    n_bytes = stored_bytes = 0
    for entry in entries:
        if entry.method == DEFLATED:
            n_bytes += entry.n_bytes
            stored_bytes += entry.stored_bytes
            if entry.n_bytes > MAX_INFLATED_BYTES and entry.n_bytes > MAX_RATIO * entry.stored_bytes:
                raise _bomb(f"entry {shown(entry.name)}", entry.n_bytes, entry.stored_bytes, where)
            if entry.n_bytes > _MOST_PER_BYTE * entry.stored_bytes:
                raise broken(
                    where, f"{entry.stored_bytes} bytes of entry {shown(entry.name)} cannot become {entry.n_bytes}."
                )
    if n_bytes > MAX_INFLATED_BYTES and n_bytes > MAX_RATIO * stored_bytes:
        raise _bomb("all together", n_bytes, stored_bytes, where)


def _bomb(what: str, n_bytes: int, stored_bytes: int, where: str) -> LimitError:
    return LimitError(
        f"reading {where}: {stored_bytes} bytes ({what}) would become {n_bytes}, more than {MAX_RATIO} times as many; "
        f"what is over {MAX_INFLATED_BYTES} may not. If you trust it, unpack it with another program."
    )


def _refuse_alike(entries: list[Entry], where: str) -> None:
    """Refuse two entries of one name, or of names that some file system takes for one."""
    seen: dict[str, str] = {}
    for entry in entries:
        folded = _folded(entry.name)
        if folded in seen:
            raise broken(where, f"it has two entries of one name, {shown(seen[folded])} and {shown(entry.name)}.")
        seen[folded] = entry.name


def _folded(name: str) -> str:
    """Return what is the same for names that a file system may not tell apart.

    Arrays of NumPy are never written under their names, and `savez(X=…, x=…)` is ordinary.
    """
    if name.endswith(".npy"):
        return name
    if "//" in name or "./" in name or name.endswith("/"):
        name = "/".join([part for part in name.split("/") if part not in ("", ".")])
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name.casefold())


def shown(name: str | bytes) -> str:
    """Return a name as messages show it."""
    text = repr(name)
    return text if len(text) <= 120 else text[:100] + "…" + text[-10:]
