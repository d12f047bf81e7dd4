"""Zip archives put together field by field, so that their parts can contradict each other."""

from __future__ import annotations

import dataclasses
import struct
import zlib


@dataclasses.dataclass
class Part:
    """An entry of an archive: what its directory says, and what its local header says where that differs."""

    name: str
    content: bytes
    method: int = 0
    crc: int | None = None
    flags: int = 0
    n_bytes: int | None = None
    stored: bytes | None = None
    extra: bytes = b""
    attributes: int = 0
    local_name: str | None = None
    local_flags: int | None = None
    local_method: int | None = None
    local_n_bytes: int | None = None
    offset: int | None = None
    listed: bool = True
    padding: bytes = b""
    comment: bytes = b""

    @property
    def packed(self) -> bytes:
        if self.stored is not None:
            return self.stored
        if self.method != 8:
            return self.content
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        return squeeze.compress(self.content) + squeeze.flush()


def archive(
    parts: list[Part],
    *,
    prefix: bytes = b"",
    shifted: bool = True,
    between: bytes = b"",
    trailing: bytes = b"",
    comment: bytes = b"",
    n_entries: int | None = None,
    directory_at: int | None = None,
    zip64: bytes = b"",
) -> bytes:
    """Return an archive.

    Args:
        parts: its entries.
        prefix: what stands before them.
        shifted: offsets count the prefix.
        between: what stands between the entries and the directory.
        trailing: what stands behind the end record.
        comment: the archive's.
        n_entries: how many the end record claims.
        directory_at: where the end record claims that the directory is.
        zip64: what stands before the end record.
    """
    body, entries = prefix, b""
    shift = 0 if shifted else len(prefix)
    for part in parts:
        offset = len(body) - shift if part.offset is None else part.offset
        name, packed = part.name.encode(), part.packed
        local = name if part.local_name is None else part.local_name.encode()
        crc = zlib.crc32(part.content) if part.crc is None else part.crc
        n_bytes = len(part.content) if part.n_bytes is None else part.n_bytes
        body += struct.pack(
            "<4s5H3I2H", b"PK\3\4", 20,
            part.flags if part.local_flags is None else part.local_flags,
            part.method if part.local_method is None else part.local_method,
            0, 0x21, crc, len(packed), n_bytes if part.local_n_bytes is None else part.local_n_bytes, len(local),
            len(part.extra),
        )  # fmt: skip
        body += local + part.extra + packed + part.padding
        if part.listed:
            entries += struct.pack(
                "<4s6H3I5H2I", b"PK\1\2", 20, 20, part.flags, part.method, 0, 0x21, crc, len(packed), n_bytes,
                len(name), len(part.extra), len(part.comment), 0, 0, part.attributes, offset,
            ) + name + part.extra + part.comment  # fmt: skip
    body += between
    count = sum(part.listed for part in parts) if n_entries is None else n_entries
    start = len(body) - shift if directory_at is None else directory_at
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(entries), start, len(comment))
    return body + entries + zip64 + end + comment + trailing


def torch_parts(pickle: bytes, storages: dict[str, bytes] | None = None, folder: str = "archive/") -> list[Part]:
    """Return the entries of an archive of torch.save."""
    data = {"0": bytes(16)} if storages is None else storages
    return [
        Part(f"{folder}data.pkl", pickle),
        Part(f"{folder}byteorder", b"little"),
        *(Part(f"{folder}data/{key}", content) for key, content in data.items()),
        Part(f"{folder}version", b"3\n"),
    ]


def torch_zip(pickle: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    return archive(torch_parts(pickle, storages))
