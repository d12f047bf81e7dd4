"""Where bytes come from: a file by its path, a bytes object, or an open binary file; all read at any offset."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import stat
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from perdure.disk import capabilities
from perdure.disk.faults import enough_memory, translated
from perdure.disk.held import HeldDescriptor
from perdure.disk.memory import PAGE_BYTES, address_of
from perdure.errors import ConflictError, CorruptError, FormatError, InputError, MissingFileError, PathError

_READ_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK"))
_DIRECT_FROM_BYTES = 32 * 2**20
_SAMPLES = 16
_NO_DUPLICATE: dict[str, bool] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
_MAP_NORESERVE: int | None = vars(mmap).get("MAP_NORESERVE")


class ByteSource(ABC):
    """Bytes that can be read at any offset, from several threads.

    Attributes:
        where: names the source in messages.
        n_bytes: its size when it was opened.
        parallel: reading in several threads is faster than in one.
        prefers_mapping: its bytes can be mapped, and that is the fast way to them.
    """

    where: str
    n_bytes: int
    parallel = False
    prefers_mapping = False

    @abstractmethod
    def read_some(self, offset: int, views: list[memoryview]) -> int:
        """Fill the views with bytes from `offset` on; returns how many bytes came, 0 at the end."""

    def read_into(self, offset: int, views: list[memoryview]) -> None:
        """Fill all views.

        Raises:
            CorruptError: the source ends before; it was cut while it was open.
        """
        while views:
            n_bytes = self.read_some(offset, views)
            if n_bytes == 0:
                raise CorruptError(
                    f"reading {self.where}: it ends at byte {offset}, though it had {self.n_bytes} when opened."
                )
            offset += n_bytes
            while views and n_bytes >= len(views[0]):
                n_bytes -= len(views[0])
                views = views[1:]
            if views and n_bytes:
                views = [views[0][n_bytes:], *views[1:]]

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return `n_bytes` bytes from `offset` on."""
        with enough_memory(self.where, n_bytes):
            buffer = bytearray(n_bytes)
            if n_bytes:
                self.read_into(offset, [memoryview(buffer)])
            return bytes(buffer)

    def begin_bulk(self) -> None:
        """Get ready for reading much; `end_bulk` follows."""
        return None

    def end_bulk(self) -> None:
        """End what `begin_bulk` began."""
        return None

    def map(self) -> mmap.mmap:
        """Map the whole source, privately and writable: what is written to the memory never reaches the source."""
        raise InputError(f"reading {self.where}: it cannot be mapped")

    def close(self) -> None:
        """Give back what the source holds; maps that were handed out stay."""
        return None


MAX_OPEN_SHARDS = 64
_open_shards: deque[weakref.ref[PathSource]] = deque()


class PathSource(ByteSource):
    """A file of the file system.

    Args:
        path: the file.
        where: names it in messages, where that is not the path itself.
        one_of_many: it may be one of thousands of files. Then only the `MAX_OPEN_SHARDS` that were opened last are kept
            open, and the others opened again when they are read.
    """

    def __init__(self, path: Path, where: str = "", *, one_of_many: bool = False) -> None:
        self.where = where or str(path)
        self._path = path.absolute()
        self._one_of_many = one_of_many
        self._closed = False
        self._direct = HeldDescriptor()
        self._lock = threading.Lock()
        self._held: HeldDescriptor | None = None
        held = self._open()
        with translated("reading", self.where):
            status = os.fstat(held.descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PathError(f"reading {self.where}: it is not a regular file.")
        self.n_bytes = status.st_size
        self._identity = _identity(status)
        self._keep(held)
        self.parallel = capabilities.VECTOR_READS

    def _open(self) -> HeldDescriptor:
        held = HeldDescriptor()
        with translated("reading", self.where):
            held.descriptor = os.open(self._path, _READ_FLAGS)
        return held

    def _keep(self, held: HeldDescriptor) -> None:
        """Hold an open file; one that is let go for it is closed as soon as no thread reads it any more."""
        self._held = held
        if self._one_of_many:
            _open_shards.append(weakref.ref(self))
            if len(_open_shards) > MAX_OPEN_SHARDS:
                oldest = _open_shards.popleft()()
                if oldest is not None and oldest is not self:
                    oldest._let_go()

    def _let_go(self) -> None:
        self._held = None
        self._direct = HeldDescriptor()

    def _file(self) -> HeldDescriptor:
        """Return the open file; whoever reads it keeps this object meanwhile.

        Raises:
            ConflictError: it was let go, and meanwhile another file has taken its place.
        """
        if self._closed:
            raise InputError(f"reading {self.where}: it was closed. Open it again.")
        held = self._held
        if held is None:
            try:
                held = self._open()
            except MissingFileError:
                raise self._replaced() from None
            if _identity(os.fstat(held.descriptor)) != self._identity:
                raise self._replaced()
            self._keep(held)
        return held

    def _replaced(self) -> ConflictError:
        return ConflictError(f"reading {self.where}: it was saved anew meanwhile. Open the model again.")

    @property
    def prefers_mapping(self) -> bool:
        return self.n_bytes > 0 and not capabilities.on_network(self._file().descriptor)

    def read_some(self, offset: int, views: list[memoryview]) -> int:
        file = self._file()
        with translated("reading", self.where):
            if capabilities.VECTOR_READS:
                return os.preadv(file.descriptor, views, offset)
            with self._lock:
                os.lseek(file.descriptor, offset, os.SEEK_SET)
                content = os.read(file.descriptor, len(views[0]))
            views[0][: len(content)] = content
            return len(content)

    def begin_bulk(self) -> None:
        """Go past the page cache where the file is not in it: that is faster than through it, and takes fewer pages."""
        if capabilities.DIRECT_IO and self.n_bytes >= _DIRECT_FROM_BYTES and self._is_cold():
            direct = HeldDescriptor()
            with contextlib.suppress(OSError):
                direct.descriptor = os.open(self._path, _READ_FLAGS | os.O_DIRECT)
                if _identity(os.fstat(direct.descriptor)) == self._identity:
                    self._direct = direct  # else another file has taken its place

    def end_bulk(self) -> None:
        self._direct = HeldDescriptor()

    def _is_cold(self) -> bool:
        """Tell whether most of the file is not in the page cache, from a few samples."""
        if not capabilities.RESIDENCY:
            return False
        file = self._file()
        n_absent = 0
        for number in range(_SAMPLES):
            try:
                os.preadv(file.descriptor, [bytearray(1)], self.n_bytes * number // _SAMPLES, os.RWF_NOWAIT)
            except BlockingIOError:
                n_absent += 1
            except OSError:
                return False
        return n_absent > _SAMPLES // 2

    def read_into(self, offset: int, views: list[memoryview]) -> None:
        direct = self._direct
        if direct.descriptor >= 0 and len(views) == 1:
            view = views[0]
            low = -(-offset // PAGE_BYTES) * PAGE_BYTES - offset
            high = (offset + len(view)) // PAGE_BYTES * PAGE_BYTES - offset
            if high > low and (address_of(view) + low) % PAGE_BYTES == 0:
                done = _read_direct(direct, offset + low, view[low:high])
                views = [view[:low]] if low else []
                rest = view[low + done :]
                if views:
                    super().read_into(offset, views)
                if len(rest):
                    super().read_into(offset + low + done, [rest])
                return
        super().read_into(offset, views)

    def map(self) -> mmap.mmap:
        file = self._file()
        with translated("mapping", self.where):
            if _MAP_NORESERVE is not None:
                flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
                protection = mmap.PROT_READ | mmap.PROT_WRITE
                return mmap.mmap(file.descriptor, self.n_bytes, flags=flags, prot=protection, **_NO_DUPLICATE)
            return mmap.mmap(file.descriptor, self.n_bytes, access=mmap.ACCESS_COPY)

    def close(self) -> None:
        self._closed = True
        self._let_go()


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_size


def _read_direct(file: HeldDescriptor, offset: int, view: memoryview) -> int:
    """Read whole pages past the page cache; returns how many bytes came, 0 where the system does not take it."""
    try:
        return os.preadv(file.descriptor, [view], offset)
    except OSError:
        return 0


class BytesSource(ByteSource):
    """Bytes in memory."""

    def __init__(self, content: bytes | bytearray | memoryview, where: str = "bytes") -> None:
        self.where = where
        self._view = memoryview(content).cast("B")
        self.n_bytes = len(self._view)

    def read_some(self, offset: int, views: list[memoryview]) -> int:
        n_bytes = min(len(views[0]), self.n_bytes - offset)
        views[0][:n_bytes] = self._view[offset : offset + n_bytes]
        return max(n_bytes, 0)


class FileSource(ByteSource):
    """An open, seekable binary file, from its present position to its end; it stays at that position."""

    def __init__(self, file: BinaryIO) -> None:
        self.where = name_of(file)
        self._file = file
        self._lock = threading.Lock()
        with usable("reading", file):
            if not file.seekable():
                raise InputError(f"reading {self.where}: the file object is not seekable. Give its path, or its bytes.")
            if not getattr(file, "readable", lambda: True)():
                raise InputError(
                    f"reading {self.where}: the file object was opened for writing. Open it with mode 'rb'."
                )
            self._start = file.tell()
            self.n_bytes = file.seek(0, io.SEEK_END) - self._start
            file.seek(self._start)

    def read_some(self, offset: int, views: list[memoryview]) -> int:
        with self._lock, usable("reading", self._file):
            self._file.seek(self._start + offset)
            content = self._file.read(len(views[0]))
            self._file.seek(self._start)
        views[0][: len(content)] = content
        return len(content)


def name_of(origin: object) -> str:
    """Return how messages and reports call what a verb was given: its path, or what kind of thing it is."""
    if isinstance(origin, (str, os.PathLike)):
        return str(os.fspath(origin))
    if isinstance(origin, (bytes, bytearray, memoryview)):
        return "bytes"
    return str(getattr(origin, "name", "") or f"<{type(origin).__name__}>")


@contextlib.contextmanager
def usable(doing: str, file: object, needed_bytes: int = 0) -> Iterator[None]:
    """Turn what a file object says that is closed, or that fails, into an error of perdure's."""
    with translated(doing, name_of(file), needed_bytes):
        try:
            yield
        except ValueError as error:  # also what a file says that was opened the other way
            raise InputError(
                f"{doing} {name_of(file)}: the file object cannot be used ({error}). Open it anew, with mode "
                f"{'rb' if doing == 'reading' else 'wb'!r}."
            ) from None


def usable_path(origin: str | os.PathLike[str]) -> Path:
    """Return what was given as a path.

    Raises:
        PathError: it cannot be the path of anything.
    """
    name = os.fspath(origin)
    if not isinstance(name, str) or not name or "\0" in name or not _is_encodable(name):
        raise PathError(f"{name!r} is not the path of a file. Give the name of one.")
    return Path(name)


def _is_encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def open_source(origin: object) -> ByteSource:
    """Open what the verbs take: a path, bytes, or a seekable binary file.

    Raises:
        InputError: none of these.
        StorageError: the system refused.
    """
    if isinstance(origin, ByteSource):
        return origin
    if isinstance(origin, (bytes, bytearray, memoryview)):
        return BytesSource(origin)
    if isinstance(origin, (str, os.PathLike)):
        return PathSource(usable_path(origin))
    if hasattr(origin, "read") and hasattr(origin, "seek"):
        if isinstance(origin, io.TextIOBase):
            raise FormatError(f"reading {origin!r}: it was opened as text; open it with mode 'rb'.")
        return FileSource(origin)  # type: ignore[arg-type]
    raise InputError(f"opening {type(origin).__name__}: a path, bytes or a seekable binary file was expected.")
