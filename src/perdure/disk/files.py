"""One perdure file is written: laid out, streamed, digested, sealed, and put in place whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import xxhash

from perdure.disk import capabilities
from perdure.disk.atomic import replacing
from perdure.disk.digests import Digests, digests_of
from perdure.disk.header import Entry, build, place
from perdure.disk.memory import allocate
from perdure.disk.seal import BLANK, DIGEST_KEY, seal
from perdure.disk.sources import usable
from perdure.disk.writing import SEGMENT_BYTES, Item, check_written, digest_pieces, write_all, write_items
from perdure.errors import InputError, StorageError

Describe = Callable[[dict[str, Digests]], dict[str, str]]
"""Makes the metadata of a file from its tensors' digests; its length must not depend on their values. It has a blank
seal, or none for a file without anything of perdure's."""

_BLANK_DIGESTS = Digests(BLANK, BLANK[:32])


class Written(NamedTuple):
    """A file that was written: its size and its root digest."""

    n_bytes: int
    digest: str


class Layout(NamedTuple):
    """Where everything goes: the header's entries in the caller's order, the items in the file's."""

    entries: dict[str, Entry]
    ordered: list[Item]
    data_bytes: int


def lay_out(items: list[Item]) -> Layout:
    """Give each item its place in the data."""
    offsets = place({item.name: item.n_bytes for item in items})
    entries = {item.name: Entry(item.dtype, item.shape, offsets[item.name]) for item in items}
    by_name = {item.name: item for item in items}
    return Layout(entries, [by_name[name] for name in offsets], sum(item.n_bytes for item in items))


def write_file(
    path: Path,
    items: list[Item],
    describe: Describe,
    *,
    where: str = "",
    like: Path | None = None,
    verify: bool = False,
) -> Written:
    """Write a file atomically and durably.

    Args:
        path: the file.
        items: what it holds.
        describe: makes its metadata.
        where: names it in messages, where that is not the path.
        like: the file whose mode it gets, where there is none yet at the path.
        verify: read the new file back before it takes the place of the old one.

    Raises:
        DiskFullError: there is no room; known before a byte is written where space can be allocated.
        StorageError, PathError: the system refused; nothing was changed.
    """
    layout = lay_out(items)
    if layout.data_bytes <= SEGMENT_BYTES:
        return _write_small(path, layout, describe, where, like, verify)
    room = len(build(describe(dict.fromkeys(layout.entries, _BLANK_DIGESTS)), layout.entries))
    total = room + layout.data_bytes
    with replacing(path, total, where, like) as (descriptor, temporary):
        preallocate(descriptor, total)
        digests = write_items(layout.ordered, descriptor, temporary, room, where or str(path), verify=verify)
        header, digest = _header(describe(digests), layout.entries)
        if len(header) != room:
            raise AssertionError(f"the header took {len(header)} bytes, not the {room} foreseen")
        write_all(descriptor, [memoryview(header)], 0)
        if verify:
            check_written(descriptor, [memoryview(header)], where or str(path))
    return Written(total, digest)


def _write_small(
    path: Path, layout: Layout, describe: Describe, where: str, like: Path | None, verify: bool
) -> Written:
    """Write from one copy of all bytes, so that a file is whole even if its tensors change meanwhile."""
    content = memoryview(allocate(max(layout.data_bytes, 1), where or str(path), "saving"))
    digests: dict[str, Digests] = {}
    position = 0
    for item in layout.ordered:
        start = position
        for piece in item.pieces():
            content[position : position + piece.n_bytes] = piece.view()
            position += piece.n_bytes
        digests[item.name] = digests_of(content[start:position])
    header, digest = _header(describe(digests), layout.entries)
    total = len(header) + layout.data_bytes
    with replacing(path, total, where, like) as (descriptor, _):
        preallocate(descriptor, total)
        views = [memoryview(header), content[:position]]
        write_all(descriptor, views, 0)
        if verify:
            check_written(descriptor, views, where or str(path))
    return Written(total, digest)


def _header(metadata: dict[str, str], entries: dict[str, Entry]) -> tuple[bytes, str]:
    """Return a header and its root digest; none where the metadata, a plain file's, has no place for it."""
    raw = build(metadata, entries)
    return seal(raw) if DIGEST_KEY in metadata else (raw, "")


def preallocate(descriptor: int, n_bytes: int) -> None:
    """Take all the room that a file needs, where that can be done.

    Raises:
        OSError: there is not so much.
    """
    if capabilities.PREALLOCATION and not capabilities.on_network(descriptor):
        try:
            os.posix_fallocate(descriptor, 0, n_bytes)
        except OSError as error:
            if error.errno not in capabilities.NOT_SUPPORTED:
                raise


def write_stream(file: BinaryIO, items: list[Item], describe: Describe) -> Written:
    """Write the same bytes to an open binary file, which need not be seekable; not atomic.

    The digests stand before the data, so they are computed in a pass of their own, and compared in the second.

    Raises:
        StorageError: the file took fewer bytes than it was given.
        InputError: a tensor changed meanwhile, so that what was written is of no use.
    """
    layout = lay_out(items)
    digests = digest_pieces({item.name: item.pieces() for item in layout.ordered})
    header, digest = seal(build(describe(digests), layout.entries))
    with usable("saving to", file, len(header) + layout.data_bytes):
        _write_view(file, memoryview(header))
        for item in layout.ordered:
            checksum = xxhash.xxh3_128()
            for piece in item.pieces():
                for start in range(0, piece.n_bytes, SEGMENT_BYTES):
                    part = piece.part(start, min(start + SEGMENT_BYTES, piece.n_bytes))
                    content = bytes(part.view())
                    _write_view(file, memoryview(content))
                    checksum.update(content)
            if checksum.hexdigest() != digests[item.name].xxh3:
                raise InputError(
                    f"saving to {file!r}: tensor {item.name!r} changed while it was saved. Save it from a copy, or to a "
                    f"path: there it is copied as it is read."
                )
    return Written(len(header) + layout.data_bytes, digest)


def _write_view(file: BinaryIO, view: memoryview) -> None:
    while len(view):
        written = file.write(view)
        if not written:
            raise StorageError(f"saving to {file!r}: it took none of the {len(view)} bytes that were left.")
        view = view[written:]
