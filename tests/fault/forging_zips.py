"""Zip archives made byte by byte, so that each of their fields can lie."""

from __future__ import annotations

import struct
import zlib
from typing import Any

STREAMED, UTF8 = 0x0008, 0x0800
FAR = 0xFFFFFFFF


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def zip64(*values: int) -> bytes:
    """Return a zip64 extra field."""
    return extra(1, struct.pack(f"<{len(values)}Q", *values))


def extra(kind: int, content: bytes) -> bytes:
    return struct.pack("<2H", kind, len(content)) + content


class Forged:
    """An entry; whatever is given replaces what would be true.

    Args:
        name: its name.
        content: what it holds.
        packed: what stands in the archive for it, where that is not the content.
        local: fields of its local header that lie; `behind` is what follows the content, `magic` the signature.
        **fields: fields of both headers, or of the directory's alone (`attributes`, `disk`, `offset`, `comment`).
    """

    def __init__(
        self, name: str | bytes, content: bytes = b"", packed: bytes | None = None, local: Any = None, **fields: Any
    ) -> None:
        self.content = content if packed is None else packed
        raw = name.encode() if isinstance(name, str) else name
        true = {
            "magic": b"PK\1\2", "name": raw, "flags": 0 if raw.isascii() else UTF8, "method": 0 if packed is None else 8,
            "crc": zlib.crc32(content), "stored": len(self.content), "size": len(content), "extra": b"",
            "needs": 20, "attributes": 0, "disk": 0, "comment": b"",
        }  # fmt: skip
        self.directory: dict[str, Any] = {**true, **fields}
        self.local: dict[str, Any] = {
            **self.directory,
            "magic": b"PK\3\4",
            "extra": b"",
            "behind": b"",
            **(local or {}),
        }

    def header(self) -> bytes:
        field = self.local
        sizes = [field[name] for name in ("crc", "stored", "size")]
        name, more = field["name"], field["extra"]
        lengths = struct.pack("<2H", len(name), field.get("n_extra", len(more)))
        return (
            field["magic"]
            + struct.pack("<5H3I", 20, field["flags"], field["method"], 0, 0, *sizes)
            + lengths
            + name
            + more
        )

    def whole(self) -> bytes:
        return self.header() + self.content + self.local["behind"]

    def listed(self, offset: int) -> bytes:
        field = self.directory
        numbers = (
            788,
            field["needs"],
            field["flags"],
            field["method"],
            0,
            0,
            field["crc"],
            field["stored"],
            field["size"],
        )
        name, more, comment = field["name"], field["extra"], field["comment"]
        rest = (len(name), len(more), len(comment), field["disk"], 0, field["attributes"], field.get("offset", offset))
        return field["magic"] + struct.pack("<6H3I5H2I", *numbers, *rest) + name + more + comment


def end(count: int, size: int, offset: int, comment: bytes = b"", **fields: int) -> bytes:
    """Return an end record."""
    counts = (fields.get("disk", 0), fields.get("first_disk", 0), fields.get("here", count), count)
    n_comment = fields.get("n_comment", len(comment))
    return b"PK\5\6" + struct.pack("<4H2IH", *counts, size, offset, n_comment) + comment


def end64(count: int, size: int, offset: int, **fields: int) -> bytes:
    """Return the two zip64 records that stand before an end record."""
    numbers = (
        fields.get("length", 44),
        45,
        45,
        fields.get("disk", 0),
        0,
        fields.get("here", count),
        count,
        size,
        offset,
    )
    place = fields.get("place", offset + size)
    locator = struct.pack("<IQI", fields.get("locator_disk", 0), place, fields.get("n_disks", 1))
    return b"PK\6\6" + struct.pack("<Q2H2I4Q", *numbers) + b"PK\6\7" + locator


def parts(*entries: Forged, before: bytes = b"", between: bytes = b"") -> tuple[bytes, bytes]:
    """Return the entries one after another, and their directory."""
    content, listing = before, b""
    for number, entry in enumerate(entries):
        content += between if number else b""
        listing += entry.listed(len(content))
        content += entry.whole()
    return content, listing


def archive(*entries: Forged, comment: bytes = b"", before: bytes = b"", between: bytes = b"", **fields: int) -> bytes:
    """Return an archive; `fields` are those of its end record."""
    content, listing = parts(*entries, before=before, between=between)
    count, size = fields.pop("count", len(entries)), fields.pop("size", len(listing))
    return content + listing + end(count, size, fields.pop("offset", len(content)), comment, **fields)


def archive64(*entries: Forged, narrow: tuple[int, int, int] | None = None, **fields: int) -> bytes:
    """Return an archive with zip64 records; `narrow` is what its end record says (count, size, offset)."""
    content, listing = parts(*entries)
    true = (len(entries), len(listing), len(content))
    return content + listing + end64(*true, **fields) + end(*(narrow or true))
