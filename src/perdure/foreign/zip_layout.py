"""The local headers of a zip archive: each says what the directory says, and entry follows entry without a gap."""

from __future__ import annotations

import itertools
import struct

from perdure.disk.faults import broken
from perdure.disk.sources import ByteSource
from perdure.foreign.zip_directory import SIZE_ELSEWHERE, STREAMED, Entry, read_extra, shown

_LOCAL = struct.Struct("<4s5H3I2H")
_ZIP64_FORMS = {8: "<Q", 16: "<2Q", 24: "<3Q", 28: "<3QI"}
_DESCRIPTORS = {12: "<3I", 16: "<4x3I", 20: "<I2Q", 24: "<4xI2Q"}
_SMALL_ENTRY_BYTES = 16 * 2**10
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
    """Reads what lies between the contents: in large steps where these are small, otherwise one header a time."""

    def __init__(self, source: ByteSource, end: int, far: bool) -> None:
        self._source, self._end = source, end
        self._ahead_bytes = _FAR_AHEAD_BYTES if far else _AHEAD_BYTES
        self._start, self._content = 0, b""

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return bytes that lie before the directory; fewer where that comes before."""
        begin = offset - self._start
        if begin < 0 or begin + n_bytes > len(self._content):
            ahead = max(n_bytes, self._ahead_bytes)
            self._content = self._source.read(offset, max(0, min(ahead, self._end - offset)))
            self._start, begin = offset, 0
        return self._content[begin : begin + n_bytes]


def _read_local(headers: _Headers, where: str, entry: Entry) -> int:
    """Compare the local header of an entry with the directory; returns where its content begins."""
    header = headers.read(entry.offset, _LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
        raise broken(where, f"the header of entry {shown(entry.name)} was expected at byte {entry.offset}, and is not.")
    _, _, flags, method, _, _, crc, stored_bytes, n_bytes, n_name, n_extra = _LOCAL.unpack(header)
    begin = entry.offset + _LOCAL.size + n_name + n_extra
    more = headers.read(entry.offset + _LOCAL.size, n_name + n_extra)
    if len(more) < n_name + n_extra:
        raise broken(where, f"the header of entry {shown(entry.name)} reaches over the directory.")
    zip64 = read_extra(more[n_name:], entry.raw_name, where) if n_extra else b""
    said = {"name": more[:n_name], "flags": flags, "method": method}
    _compare(said, entry, where)
    sizes = {"CRC-32": crc, "stored size": stored_bytes, "size": n_bytes}
    if zip64:
        _compare(_read_zip64(zip64, where, entry), entry, where, (0,) if flags & STREAMED else ())
        sizes = {what: value for what, value in sizes.items() if value != SIZE_ELSEWHERE or len(zip64) < 16}
    _compare(sizes, entry, where, (0,) if flags & STREAMED else ())
    return begin


def _read_zip64(field: bytes, where: str, entry: Entry) -> dict[str, int]:
    """Read the zip64 field of a local header; PyTorch writes the offset into it too, where that is large."""
    form = _ZIP64_FORMS.get(len(field))
    if form is None:
        raise broken(where, f"the zip64 field of entry {shown(entry.name)} has {len(field)} bytes, which it cannot.")
    values = struct.unpack(form, field)
    return dict(
        zip(("offset",) if len(values) == 1 else ("size", "stored size", "offset", "volume"), values, strict=False)
    )


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
    _compare({"CRC-32": crc, "stored size": stored_bytes, "size": size}, entry, where)


def _compare(said: dict[str, bytes | int], entry: Entry, where: str, instead: tuple[int, ...] = ()) -> None:
    """Compare what is said elsewhere with the directory; it may also be one of `instead`."""
    expected = {
        "name": entry.raw_name,
        "flags": entry.flags,
        "method": entry.method,
        "CRC-32": entry.crc,
        "stored size": entry.stored_bytes,
        "size": entry.n_bytes,
        "offset": entry.offset,
        "volume": 0,
    }
    for what, value in said.items():
        if value != expected[what] and value not in instead:
            raise broken(
                where,
                f"entry {shown(entry.name)} contradicts the directory: its {what} is {value!r} there, "
                f"{expected[what]!r} in the directory.",
            )
