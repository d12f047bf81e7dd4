"""The local headers of a zip archive: each says what the directory says, and entry follows entry without a gap."""

from __future__ import annotations

import itertools
import struct

from perdure.disk.faults import broken
from perdure.disk.sources import ByteSource
from perdure.foreign.zips.directory import SIZE_ELSEWHERE, STREAMED, Entry, read_extra, shown

_LOCAL = struct.Struct("<4s5H3I2H")
_ZIP64_FORMS = {8: "<Q", 16: "<2Q", 24: "<3Q", 28: "<3QI"}
_DESCRIPTORS = {12: "<3I", 16: "<4x3I", 20: "<I2Q", 24: "<4xI2Q"}
_SMALL_ENTRY_BYTES = 16 * 2**10
_USUAL_EXTRA_BYTES = 96
_AHEAD_BYTES, _FAR_AHEAD_BYTES = 512, 256 * 2**10


def find_contents(source: ByteSource, where: str, entries: list[Entry], end: int) -> dict[int, int]:
    """Compare every local header with the directory.

    Args:
        source: the archive.
        where: names it in messages.
        entries: of its directory.
        end: where the directory begins, which is where the last entry ends.

    Returns:
        Where the content of each entry begins, by the offset of its local header.

    Raises:
        CorruptError: a header contradicts the directory, entries overlap, or there are bytes that belong to none.
    """
    found: dict[int, int] = {}
    headers = _Headers(source, end, end // max(len(entries), 1) < _SMALL_ENTRY_BYTES)
    in_order = sorted(entries, key=lambda entry: entry.offset)
    starts = [entry.offset for entry in in_order] + [end]
    if starts[0]:
        raise broken(where, f"{starts[0]} bytes that belong to no entry were put before its first one.")
    for entry, (offset, following) in zip(in_order, itertools.pairwise(starts), strict=True):
        begin = _read_local(headers, where, entry)
        stop = begin + entry.stored_bytes
        n_more = following - stop
        if n_more < 0:
            raise broken(where, f"entry {shown(entry.name)} reaches to byte {stop}, over what begins at {following}.")
        if entry.flags & STREAMED:
            _check_descriptor(headers.read(stop, min(n_more, 24)), n_more, where, entry)
        elif n_more:
            raise broken(where, f"{n_more} bytes behind entry {shown(entry.name)} belong to no entry.")
        found[offset] = begin
    return found


class _Headers:
    """Reads what lies between the contents: in large steps where these are small, otherwise one header at a time."""

    def __init__(self, source: ByteSource, end: int, far: bool) -> None:
        self._source, self._end = source, end
        self._ahead_bytes = _FAR_AHEAD_BYTES if far else _AHEAD_BYTES
        self._buffer = bytearray(self._ahead_bytes)
        self._start = self._stop = 0

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return bytes that lie before the directory; fewer where that comes before."""
        stop = min(offset + n_bytes, self._end)
        if offset < self._start or stop > self._stop:
            if n_bytes > self._ahead_bytes:
                return self._source.read(offset, max(0, stop - offset))
            self._start, self._stop = offset, min(offset + self._ahead_bytes, self._end)
            self._source.read_into(offset, [memoryview(self._buffer)[: max(0, self._stop - offset)]])
        return bytes(self._buffer[offset - self._start : stop - self._start])


def _read_local(headers: _Headers, where: str, entry: Entry) -> int:
    """Compare the local header of an entry with the directory; returns where its content begins."""
    header = headers.read(entry.offset, _LOCAL.size + len(entry.raw_name) + _USUAL_EXTRA_BYTES)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
        raise broken(where, f"the header of entry {shown(entry.name)} was expected at byte {entry.offset}, and is not.")
    _, _, flags, method, _, _, crc, stored_bytes, n_bytes, n_name, n_extra = _LOCAL.unpack_from(header)
    name_end = _LOCAL.size + n_name
    size = name_end + n_extra
    if size > len(header):
        header = headers.read(entry.offset, size)
        if len(header) < size:
            raise broken(where, f"the header of entry {shown(entry.name)} reaches over the directory.")
    name = header[_LOCAL.size : name_end]
    if (name, flags, method) != (entry.raw_name, entry.flags, entry.method):
        _compare(where, entry, name=name, flags=flags, method=method)
    zip64 = read_extra(header[name_end:size], entry.raw_name, where) if n_extra else b""
    sizes = crc, stored_bytes, n_bytes
    if zip64 or ((any(sizes) or not flags & STREAMED) and sizes != (entry.crc, entry.stored_bytes, entry.n_bytes)):
        _check_sizes(sizes, zip64, where, entry)
    return entry.offset + size


def _check_sizes(sizes: tuple[int, int, int], zip64: bytes, where: str, entry: Entry) -> None:
    """Compare the sizes of a local header; a writer that does not know them yet puts zeros there.

    Its zip64 field has both or none. PyTorch writes the offset into it too, where that is large.
    """
    crc, stored_bytes, n_bytes = sizes
    streamed = bool(entry.flags & STREAMED)
    form = _ZIP64_FORMS.get(len(zip64))
    if zip64 and form is None:
        raise broken(where, f"the zip64 field of entry {shown(entry.name)} has {len(zip64)} bytes, which it cannot.")
    wide = struct.unpack(form, zip64) if form else ()
    if len(wide) > 1:
        _compare(where, entry, streamed, size=wide[0], stored_size=wide[1])
        n_bytes = wide[0] if n_bytes == SIZE_ELSEWHERE else n_bytes
        stored_bytes = wide[1] if stored_bytes == SIZE_ELSEWHERE else stored_bytes
    if len(wide) != 2 and wide:
        _compare(where, entry, offset=wide[0 if len(wide) == 1 else 2], volume=wide[3] if len(wide) == 4 else 0)
    _compare(where, entry, streamed, crc=crc, stored_size=stored_bytes, size=n_bytes)


def _check_descriptor(content: bytes, n_bytes: int, where: str, entry: Entry) -> None:
    """Compare the values that a writer put behind the content, because it did not know them before."""
    form = _DESCRIPTORS.get(n_bytes)
    signed = n_bytes in (16, 24)
    if form is None or len(content) != n_bytes or (signed and not content.startswith(b"PK\7\x08")):
        raise broken(
            where,
            f"between entry {shown(entry.name)} and what follows, its sizes were expected in 12, 16, 20 or 24 bytes; "
            f"{n_bytes} bytes are there.",
        )
    crc, stored_bytes, size = struct.unpack(form, content)
    if (crc, stored_bytes, size) != (entry.crc, entry.stored_bytes, entry.n_bytes):
        _compare(where, entry, crc=crc, stored_size=stored_bytes, size=size)


def _compare(where: str, entry: Entry, streamed: bool = False, **said: bytes | int) -> None:
    """Compare what is said beside an entry with the directory; where it was streamed, zero does as well."""
    expected = {
        "name": entry.raw_name,
        "flags": entry.flags,
        "method": entry.method,
        "crc": entry.crc,
        "stored_size": entry.stored_bytes,
        "size": entry.n_bytes,
        "offset": entry.offset,
        "volume": 0,
    }
    for what, value in said.items():
        if value != expected[what] and not (streamed and value == 0):
            there, here = [shown(text) if isinstance(text, bytes) else text for text in (value, expected[what])]
            raise broken(
                where,
                f"entry {shown(entry.name)} contradicts the directory: its {what.replace('_', ' ')} is {there} beside it, "
                f"{here} in the directory.",
            )
