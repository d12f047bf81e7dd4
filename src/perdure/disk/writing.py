"""Tensors' bytes go to disk: cut into segments of the file, written and digested at the same time.

A segment is an aligned stretch of the file and the pieces of memory that fill it. Segments are copied into a small ring of
aligned buffers; big ones go past the page cache where the file system takes that (`DirectSink`), others through it
(`PlainSink`). Two threads compute the digests of the very bytes that are written.
"""

from __future__ import annotations

import collections
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, Protocol

import msgspec
import xxhash
from blake3 import blake3

from perdure.disk import capabilities
from perdure.disk.crew import Crew, Outcome, finish
from perdure.disk.digests import EMPTY, Digests
from perdure.disk.memory import Piece, address_of, allocate, copy
from perdure.errors import StorageError

SEGMENT_BYTES = 4 * 2**20
RING_SEGMENTS = 10
DIRECT_FROM_BYTES = 32 * 2**20
_WRITERS = 8
_PAGE = 4096
_MAX_VECTORS = 512
_READ_BACK_BYTES = 2**20
_READERS = 4


class Item(msgspec.Struct, frozen=True, gc=False):
    """One tensor to be stored: its safetensors type and shape, its size, and its bytes, made piece by piece."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    pieces: Callable[[], Iterable[Piece]]


class Segment(NamedTuple):
    """A stretch of the file, beginning at `offset`, and what fills it: pieces with the names of their tensors."""

    offset: int
    n_bytes: int
    pieces: list[tuple[str, Piece]]


def segments(items: Iterable[Item], data_start: int) -> Iterator[Segment]:
    """Cut the bytes of items, in the file's order, into segments of `SEGMENT_BYTES`."""
    offset, filled, pieces = data_start, 0, []
    for item in items:
        for piece in item.pieces():
            done = 0
            while done < piece.n_bytes:
                step = min(piece.n_bytes - done, SEGMENT_BYTES - filled)
                pieces.append((item.name, piece.part(done, done + step)))
                done, filled = done + step, filled + step
                if filled == SEGMENT_BYTES:
                    yield Segment(offset, filled, pieces)
                    offset, filled, pieces = offset + filled, 0, []
    if pieces:
        yield Segment(offset, filled, pieces)


class Ring:
    """A few aligned buffers into which segments are copied one after another.

    What is written and digested is the copy, so a file never contradicts itself, whatever becomes of its tensors
    meanwhile.
    """

    def __init__(self, n_segments: int, where: str) -> None:
        self._memory = allocate(n_segments * SEGMENT_BYTES, where, "saving")
        self._address = address_of(self._memory)
        self._n_segments = n_segments
        self._next = 0

    def stage(self, segment: Segment) -> Segment:
        """Copy a segment into the next buffer; the caller sees to it that the buffer is free."""
        start = self._address + self._next * SEGMENT_BYTES
        self._next = (self._next + 1) % self._n_segments
        staged, position = [], start
        for name, piece in segment.pieces:
            copy(position, piece)
            staged.append((name, Piece(position, piece.n_bytes, self._memory)))
            position += piece.n_bytes
        return Segment(segment.offset, segment.n_bytes, staged)


class PlainSink:
    """Writes segments through the page cache, and starts their writing back at once."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def write(self, segment: Segment) -> None:
        write_all(self.descriptor, [_whole(segment, segment.n_bytes)], segment.offset)
        capabilities.start_writeback(self.descriptor, segment.offset, segment.n_bytes)

    def close(self) -> None:
        pass


class DirectSink:
    """Writes segments past the page cache, whole pages of them."""

    def __init__(self, descriptor: int, plain: int) -> None:
        self.descriptor, self._plain = descriptor, plain

    def write(self, segment: Segment) -> None:
        """Write whole pages; the last segment of a file is padded, and the file is cut to its size afterwards."""
        room = -(-segment.n_bytes // _PAGE) * _PAGE
        try:
            if os.pwrite(self.descriptor, _whole(segment, room), segment.offset) == room:
                return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        # Where room ends within a page, only the plain way can say so in the system's own words.
        write_all(self._plain, [_whole(segment, segment.n_bytes)], segment.offset)

    def close(self) -> None:
        os.close(self.descriptor)


def _whole(segment: Segment, n_bytes: int) -> memoryview:
    """Return the bytes from the beginning of a staged segment on, whose pieces lie one behind another."""
    first = segment.pieces[0][1]
    return Piece(first.address, n_bytes, first.owner).view()


def open_direct(path: os.PathLike[str], plain: int, n_bytes: int) -> DirectSink | None:
    """Return a sink that goes past the page cache, or None where the file is small or the system does not take it."""
    if not capabilities.DIRECT_IO or n_bytes < DIRECT_FROM_BYTES:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError:
        return None
    try:
        os.pwrite(descriptor, allocate(_PAGE, str(path), "saving"), 0)  # the header's place, written last
    except OSError:
        os.close(descriptor)
        return None
    return DirectSink(descriptor, plain)


def write_items(
    items: list[Item], descriptor: int, path: os.PathLike[str], data_start: int, where: str, *, verify: bool = False
) -> dict[str, Digests]:
    """Write the items' bytes in order from `data_start` on and return their digests; `where` names the file in messages.

    Args:
        items: what is written.
        descriptor: the open file.
        path: the file's path.
        data_start: where the first item goes.
        where: names the file in messages.
        verify: read everything back afterwards, from the disk itself where it was written past the page cache.

    Raises:
        OSError: the system refused.
        StorageError: what was read back is not what was written.
    """
    n_bytes = sum(item.n_bytes for item in items)
    direct = open_direct(path, descriptor, n_bytes)
    sink: PlainSink | DirectSink = direct or PlainSink(descriptor)
    identities = DigestStream(lambda: blake3(max_threads=max(1, capabilities.n_processors() // 2)))
    checksums = DigestStream(xxhash.xxh3_128)
    try:
        write_streaming(items, sink, data_start, where, identities, checksums)
        if verify:
            read_back(items, checksums.hexdigests(), sink.descriptor, data_start, where)
    finally:
        sink.close()
    if direct:
        os.ftruncate(descriptor, data_start + n_bytes)
    found = {item.name: EMPTY for item in items}
    for name, identity in identities.hexdigests().items():
        found[name] = Digests(identity, checksums.hexdigests()[name])
    return found


def read_back(items: list[Item], checksums: Mapping[str, str], descriptor: int, data_start: int, where: str) -> None:
    """Read what was written and compare it with its checksums (XXH3-128); items without one had no bytes.

    Args:
        items: what was written, from `data_start` on.
        checksums: by name.
        descriptor: the open file; one that goes past the page cache reads from the disk itself.
        data_start: a multiple of a page.
        where: names the file in messages.

    Raises:
        StorageError: it is not what was written.
    """
    found = DigestStream(xxhash.xxh3_128)
    memory = allocate(_READERS * SEGMENT_BYTES, where, "saving")
    view, address = memoryview(memory), address_of(memory)
    stretches = _stretches(items, data_start)
    reading: collections.deque[tuple[Segment, Outcome]] = collections.deque()
    with Crew(_READERS) as readers:
        for number, (offset, n_bytes, parts) in enumerate(stretches):
            if len(reading) == _READERS:
                _take(reading, found)
            start = number % _READERS * SEGMENT_BYTES
            pieces = [(name, Piece(address + start + low, high - low, memory)) for name, low, high in parts]
            job = partial(_read_whole, descriptor, view[start : start + SEGMENT_BYTES], offset, n_bytes)
            reading.append((Segment(offset, n_bytes, pieces), readers.submit(job)))
        while reading:
            _take(reading, found)
    read = found.hexdigests()
    for item in items:
        if read.get(item.name) != checksums.get(item.name):
            raise _not_as_written(where, repr(item.name))


def _take(reading: collections.deque[tuple[Segment, Outcome]], found: DigestStream) -> None:
    segment, outcome = reading.popleft()
    finish([outcome])
    found.update(segment)


def _stretches(items: Iterable[Item], data_start: int) -> Iterator[tuple[int, int, list[tuple[str, int, int]]]]:
    """Cut a file into stretches of `SEGMENT_BYTES`: where each begins, its size, and which bytes of it are whose."""
    offset, filled, parts = data_start, 0, []
    for item in items:
        left = item.n_bytes
        while left:
            step = min(left, SEGMENT_BYTES - filled)
            parts.append((item.name, filled, filled + step))
            left, filled = left - step, filled + step
            if filled == SEGMENT_BYTES:
                yield offset, filled, parts
                offset, filled, parts = offset + filled, 0, []
    if parts:
        yield offset, filled, parts


def _read_whole(descriptor: int, view: memoryview, offset: int, n_bytes: int) -> None:
    """Read some bytes, whole pages of them; where the file ends too early, what was not read shows in the digest."""
    room = min(len(view), -(-n_bytes // _PAGE) * _PAGE)
    done = 0
    while done < n_bytes:
        step = _read_some(descriptor, view[done:room], offset + done)
        if not step:
            view[done:n_bytes] = bytes(n_bytes - done)
            return
        done += step


def check_written(descriptor: int, views: list[memoryview], where: str, offset: int = 0) -> None:
    """Read back the bytes that were written from `offset` on and compare them.

    Raises:
        StorageError: they are not those.
    """
    buffer = memoryview(bytearray(_READ_BACK_BYTES))
    for view in views:
        done = 0
        while done < len(view):
            n_bytes = _read_some(descriptor, buffer[: len(view) - done], offset + done)
            if not n_bytes or buffer[:n_bytes] != view[done : done + n_bytes]:
                raise _not_as_written(where, f"byte {offset + done}")
            done += n_bytes
        offset += done


def _not_as_written(where: str, what: str) -> StorageError:
    return StorageError(
        f"saving {where}: {what} was read back and is not what was written, so the disk or the memory is at fault. "
        f"Nothing was changed; save to another disk."
    )


def _read_some(descriptor: int, view: memoryview, offset: int) -> int:
    if capabilities.VECTOR_READS:
        return os.preadv(descriptor, [view], offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    content = os.read(descriptor, len(view))
    view[: len(content)] = content
    return len(content)


def digest_pieces(pieces_of: Mapping[str, Iterable[Piece]]) -> dict[str, Digests]:
    """Return the digests of tensors given by their pieces."""
    return {name: _digests_of_pieces(pieces) for name, pieces in pieces_of.items()}


def _digests_of_pieces(pieces: Iterable[Piece]) -> Digests:
    identity, checksum = blake3(), xxhash.xxh3_128()
    for piece in pieces:
        view = piece.view()
        identity.update(view)
        checksum.update(view)
    return Digests(identity.hexdigest(), checksum.hexdigest())


def write_streaming(
    items: Iterable[Item],
    sink: PlainSink | DirectSink,
    data_start: int,
    where: str,
    first: DigestStream,
    second: DigestStream,
) -> None:
    """Stage segments in this thread while others write them and compute two digests of each item.

    At most `RING_SEGMENTS` are under way, which bounds the memory. Errors of the other threads are raised here.
    """
    n_writers = _WRITERS if capabilities.VECTOR_WRITES else 1
    ring = Ring(RING_SEGMENTS, where)
    under_way: collections.deque[list[Outcome]] = collections.deque()
    with Crew(1) as one, Crew(1) as other, Crew(n_writers) as writers:
        for segment in segments(items, data_start):
            if len(under_way) == RING_SEGMENTS:
                finish(under_way.popleft())
            staged = ring.stage(segment)
            under_way.append(
                [
                    one.submit(partial(first.update, staged)),
                    other.submit(partial(second.update, staged)),
                    writers.submit(partial(sink.write, staged)),
                ]
            )
        for outcomes in under_way:
            finish(outcomes)


class Digester(Protocol):
    """What computes a digest of bytes that come one after another."""

    def update(self, view: memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


class DigestStream:
    """One digest per tensor over segments that come in the file's order."""

    def __init__(self, new: Callable[[], Digester]) -> None:
        self._new = new
        self._name: str | None = None
        self._state: Digester | None = None
        self._done: dict[str, str] = {}

    def update(self, segment: Segment) -> None:
        for name, piece in segment.pieces:
            if name != self._name:
                self._close()
                self._name, self._state = name, self._new()
            assert self._state is not None
            self._state.update(piece.view())

    def _close(self) -> None:
        if self._name is not None and self._state is not None:
            self._done[self._name] = self._state.hexdigest()
        self._name = None

    def hexdigests(self) -> dict[str, str]:
        """Return the digests by name, once all segments are in."""
        self._close()
        return self._done


def write_all(descriptor: int, views: list[memoryview], offset: int) -> None:
    """Write all bytes of several views to a file from `offset` on, however few each call takes."""
    for start in range(0, len(views), _MAX_VECTORS):
        batch = views[start : start + _MAX_VECTORS]
        while batch:
            written = _write_some(descriptor, batch, offset)
            if written == 0:
                raise OSError(0, "the system wrote nothing")
            offset += written
            while batch and written >= len(batch[0]):
                written -= len(batch.pop(0))
            if batch and written:
                batch[0] = batch[0][written:]


def _write_some(descriptor: int, views: list[memoryview], offset: int) -> int:
    if capabilities.VECTOR_WRITES:
        return os.pwritev(descriptor, views, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.write(descriptor, views[0])
