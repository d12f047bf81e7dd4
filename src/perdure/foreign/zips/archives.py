"""Zip archives, checked whole before anything in them is believed; none of the standard library's readers does that.

What an archive holds must be the same for whoever reads it: by its directory, by its local headers, or from its
beginning to its end. So entries fill it without a gap, each is described twice in the same words, and nothing stands
before, between or behind them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import msgspec

from perdure.disk.crew import run_in_threads
from perdure.disk.digests import crc32
from perdure.disk.faults import enough_memory
from perdure.disk.sources import ByteSource
from perdure.errors import DigestError
from perdure.foreign.zips.deflated import DeflatedSource, Kept
from perdure.foreign.zips.directory import DEFLATED, Entry, read_directory, shown
from perdure.foreign.zips.layout import find_contents

_BLOCK_BYTES = 2**20
_MAX_THREADS = 8


class Member(msgspec.Struct, frozen=True, gc=False):
    """A file in an archive.

    Attributes:
        name: its name.
        where: names it in messages.
        source: where its content can be read: the archive's own source where it is stored as it is, so that it can be
            mapped and read by several threads; otherwise one that inflates it when it is first read.
        position: where its content begins in `source`.
        n_bytes: the size of its content.
        crc: CRC-32 of its content, as the archive says.
    """

    name: str
    where: str
    source: ByteSource
    position: int
    n_bytes: int
    crc: int

    @property
    def has_crc(self) -> bool:
        """Tell whether there is a checksum; PyTorch writes 0 where it was told not to compute one, or skipped the data."""
        return bool(self.crc) or not self.n_bytes

    def read(self) -> bytes:
        """Return the content."""
        return self.source.read(self.position, self.n_bytes)

    def check_crc(self, progress: Callable[[int], None] | None = None) -> None:
        """Read the content and compare it with its checksum, if it has one.

        Args:
            progress: told, as they are read, how many bytes more were.

        Raises:
            DigestError: it is not what was saved.
            CorruptError: it is compressed, and its size is another or it is damaged.
        """
        crc = 0
        with enough_memory(self.where):
            for block in self._blocks():
                crc = crc32(block, crc)
                if progress:
                    progress(len(block))
        if self.has_crc and crc != self.crc:
            raise DigestError(
                f"reading {self.where}: it is damaged, its CRC-32 is {crc:08x} and {self.crc:08x} was saved. Restore the "
                f"file from a copy, or download it again."
            )

    def _blocks(self) -> Iterator[bytes | memoryview]:
        if isinstance(self.source, DeflatedSource):
            yield from self.source.blocks()
            return
        buffer = memoryview(bytearray(min(self.n_bytes, _BLOCK_BYTES)))
        for begin in range(0, self.n_bytes, _BLOCK_BYTES):
            block = buffer[: min(_BLOCK_BYTES, self.n_bytes - begin)]
            self.source.read_into(self.position + begin, [block])
            yield block


class Archive(msgspec.Struct, frozen=True):
    """An archive whose form has been checked.

    Attributes:
        source: its bytes.
        where: names it in messages.
        members: its files by their names, in the order of its directory; folders are left out.
    """

    source: ByteSource
    where: str
    members: dict[str, Member]

    def verify(self, progress: Callable[[int, int], None] | None = None) -> tuple[str, ...]:
        """Compare every member with its checksum.

        Args:
            progress: called from any thread as `progress(n_bytes, total_bytes)` when that many bytes more were read.

        Returns:
            The names of members that have none.

        Raises:
            CorruptError: one is damaged; a `DigestError` where its checksum tells.
        """
        total = sum([member.n_bytes for member in self.members.values()])
        report = (lambda n_bytes: progress(n_bytes, total)) if progress else None
        waiting = iter(list(self.members.values()))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    member = next(waiting, None)
                if member is None:
                    return
                member.check_crc(report)

        if self.source.parallel and total > _BLOCK_BYTES:
            run_in_threads([work] * _MAX_THREADS, _MAX_THREADS)
        else:
            work()
        return tuple([name for name, member in self.members.items() if not member.has_crc])


def read_zip(source: ByteSource, where: str) -> Archive:
    """Read what an archive says about itself, and check all of it; contents are read later.

    Args:
        source: its bytes, from its first to its last.
        where: names it in messages.

    Raises:
        CorruptError: it is damaged, cut off, or can be read in more than one way; a name leads elsewhere.
        FormatError: encrypted, in several volumes, or packed by a method other than deflate.
        LimitError: more entries than the limits allow, or they would inflate to too much.
    """
    with enough_memory(where):
        entries, end = read_directory(source, where)
        begins = find_contents(source, where, entries, end)
        kept = Kept()
        members = {
            entry.name: _member(source, where, entry, begins[entry.offset], kept)
            for entry in entries
            if not entry.is_folder
        }
    return Archive(source, where, members)


def _member(source: ByteSource, where: str, entry: Entry, begin: int, kept: Kept) -> Member:
    name = f"{where}, entry {shown(entry.name)}"
    if entry.method == DEFLATED and entry.stored_bytes:
        source, begin = DeflatedSource(source, begin, entry.stored_bytes, entry.n_bytes, name, kept), 0
    return Member(entry.name, name, source, begin, entry.n_bytes, entry.crc)
