"""Tensors' bytes are read into memory of their own: large pages, several threads, checksums while the bytes are hot.

The memory comes in arenas of bounded size, so that freeing a tensor frees memory. Every tensor begins at a multiple of
64 bytes in it, wherever it lies in the file. Reading is planned first and run afterwards.
"""

from __future__ import annotations

import itertools
import mmap
import threading
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from perdure.disk.crew import run_in_threads
from perdure.disk.digests import Digesting, Expected
from perdure.disk.memory import PAGE_BYTES, allocate
from perdure.disk.sources import ByteSource
from perdure.disk.stored import StoredFile
from perdure.errors import DigestError

ARENA_BYTES = 64 * 2**20
BLOCK_BYTES = 4 * 2**20
ALIGNMENT = 64
_MAX_VECTORS = 256
_MAX_THREADS = 8


class Want(msgspec.Struct, frozen=True, gc=False):
    """A tensor to be read: its name, the opened file that holds it, and where and how large it is there."""

    name: str
    file: StoredFile
    position: int
    n_bytes: int


def want(name: str, file: StoredFile) -> Want:
    """Ask for a tensor."""
    entry = file.header.entries[name]
    start, stop = entry.data_offsets
    return Want(name, file, file.header.data_start + start, stop - start)


class Slot(msgspec.Struct, frozen=True, gc=False):
    """Where a tensor's bytes are in memory."""

    memory: mmap.mmap
    offset: int


class Check:
    """Compares a tensor that is read in several blocks with its digests, in order, by whichever thread comes next."""

    def __init__(self, want: Want, expected: Expected, full: bool) -> None:
        self._want = want
        self._digesting = Digesting(expected, full)
        self._lock = threading.Lock()
        self._waiting: dict[int, memoryview] = {}
        self._next = 0
        self._busy = False

    def add(self, number: int, view: memoryview) -> None:
        """Take the bytes of a block; returns when all blocks that are due have been digested or are in work."""
        with self._lock:
            self._waiting[number] = view
            if self._busy:
                return
            self._busy = True
        while True:
            with self._lock:
                due = self._waiting.pop(self._next, None)
                if due is None:
                    self._busy = False
                    return
                self._next += 1
            self._digesting.update(due)

    def finish(self) -> None:
        """Raise the error that is due, once all blocks are in."""
        refuse_damaged(self._want, self._digesting.fault())


class Whole(msgspec.Struct, frozen=True, gc=False):
    """A tensor that is read in one block, as most are, and what it is compared with."""

    want: Want
    expected: Expected
    full: bool
    view: memoryview

    def check(self) -> None:
        """Raise the error that is due."""
        digesting = Digesting(self.expected, self.full)
        digesting.update(self.view)
        refuse_damaged(self.want, digesting.fault())


def refuse_damaged(want: Want, kind: str) -> None:
    """Raise the error for a tensor of which that digest is another than was saved, unless it is empty."""
    if kind:
        raise DigestError(
            f"reading {want.file.where}: tensor {want.name!r} is damaged, its {kind} is not the one that was saved. "
            f"Restore the file from a copy; `perdure check` lists every damaged tensor."
        )


class Block(NamedTuple):
    """One read: a stretch of a file, the memory that it goes to, and the tensors and their parts that it brings."""

    source: ByteSource
    offset: int
    views: list[memoryview]
    wholes: list[Whole]
    parts: list[tuple[Check, int, memoryview]]

    def run(self) -> None:
        self.source.read_into(self.offset, self.views)
        for whole in self.wholes:
            whole.check()
        for check, number, view in self.parts:
            check.add(number, view)


class Plan(NamedTuple):
    """What will be read, and where each tensor will be."""

    slots: dict[str, Slot]
    blocks: list[Block]
    checks: list[Check]
    n_bytes: int


def read(wants: list[Want], verify: str | bool) -> dict[str, Slot]:
    """Read tensors into fresh memory.

    Args:
        wants: the tensors.
        verify: `"checksum"` compares XXH3-128, `"full"` BLAKE3 as well, False neither.

    Raises:
        DigestError: a tensor's bytes are not those that were saved.
        CorruptError: a file ends too early.
    """
    plan = plan_reads(wants, verify)
    run_blocks(plan)
    for check in plan.checks:
        check.finish()
    return plan.slots


def plan_reads(wants: list[Want], verify: str | bool) -> Plan:
    """Give each tensor its memory, and divide the reading into blocks of `BLOCK_BYTES`."""
    in_order = sorted(wants, key=lambda want: (want.file.source.where, want.position))
    slots: dict[str, Slot] = {}
    for memory, offsets in _arenas(in_order):
        slots.update({want.name: Slot(memory, offset) for want, offset in offsets})
    checks: list[Check] = []
    blocks = list(_blocks(in_order, slots, checks, verify))
    return Plan(slots, blocks, checks, sum([want.n_bytes for want in wants]))


def _arenas(wants: list[Want]) -> Iterator[tuple[mmap.mmap, list[tuple[Want, int]]]]:
    """Pack tensors, in order, into arenas; one that is larger has an arena of its own.

    An arena begins as far into a page as its first tensor does in the file, so that whole pages can be read in place.
    """
    packed: list[tuple[Want, int]] = []
    end = 0
    for want in wants:
        start = -(-end // ALIGNMENT) * ALIGNMENT if packed else _phase(want)
        if packed and start + want.n_bytes > ARENA_BYTES:
            yield allocate(max(end, 1), want.file.where), packed
            packed, start = [], _phase(want)
        packed.append((want, start))
        end = start + want.n_bytes
    if packed:
        yield allocate(max(end, 1), packed[0][0].file.where), packed


def _phase(want: Want) -> int:
    return want.position % PAGE_BYTES if want.position % ALIGNMENT == 0 else 0


class _Stretch:
    """A block in the making: a stretch of a file, and the runs of an arena that it fills."""

    def __init__(self, source: ByteSource, memory: mmap.mmap, offset: int) -> None:
        self.source, self.memory, self.offset = source, memory, offset
        self.end = offset
        self.runs: list[list[int]] = []
        self.wholes: list[Whole] = []
        self.parts: list[tuple[Check, int, memoryview]] = []

    def takes(self, source: ByteSource, memory: mmap.mmap, position: int) -> bool:
        """Tell whether bytes of a file go on where this stretch ends, within the same `BLOCK_BYTES` of the file."""
        alike = self.end == position and self.memory is memory and self.source is source
        return alike and position // BLOCK_BYTES == self.offset // BLOCK_BYTES and len(self.runs) < _MAX_VECTORS

    def add(self, start: int, n_bytes: int) -> None:
        """Take bytes that go to the arena from `start` on."""
        if self.runs and self.runs[-1][1] == start:
            self.runs[-1][1] += n_bytes
        else:
            self.runs.append([start, start + n_bytes])
        self.end += n_bytes

    def block(self, arena: memoryview) -> Block:
        views = [arena[start:stop] for start, stop in self.runs]
        return Block(self.source, self.offset, views, self.wholes, self.parts)


def _blocks(wants: list[Want], slots: dict[str, Slot], checks: list[Check], verify: str | bool) -> Iterator[Block]:
    stretch: _Stretch | None = None
    arena = memoryview(b"")
    full = verify == "full"
    for want in wants:
        source, position, slot = want.file.source, want.position, slots[want.name]
        expected = want.file.expected(want.name) if verify else None
        if not want.n_bytes:
            if expected:
                Whole(want, expected, full, memoryview(b"")).check()
            continue
        steps = _steps(want)
        check = Check(want, expected, full) if expected and len(steps) > 1 else None
        if check:
            checks.append(check)
        for number, (start, length) in enumerate(steps):
            if stretch is None or not stretch.takes(source, slot.memory, position + start):
                if stretch:
                    yield stretch.block(arena)
                if stretch is None or stretch.memory is not slot.memory:
                    arena = memoryview(slot.memory)
                stretch = _Stretch(source, slot.memory, position + start)
            begin = slot.offset + start
            stretch.add(begin, length)
            if expected:
                view = arena[begin : begin + length]
                if check:
                    stretch.parts.append((check, number, view))
                else:
                    stretch.wholes.append(Whole(want, expected, full, view))
    if stretch:
        yield stretch.block(arena)


def _steps(want: Want) -> list[tuple[int, int]]:
    """Cut a tensor where its file passes a multiple of `BLOCK_BYTES`; gives where each part begins, and its length."""
    stop = want.position + want.n_bytes
    first_cut = (want.position // BLOCK_BYTES + 1) * BLOCK_BYTES
    if stop <= first_cut:
        return [(0, want.n_bytes)]
    edges = [want.position, *range(first_cut, stop, BLOCK_BYTES), stop]
    return [(a - want.position, b - a) for a, b in itertools.pairwise(edges)]


def run_blocks(plan: Plan) -> None:
    """Read all blocks, in several threads where that pays; the first error ends it."""
    sources = {id(block.source): block.source for block in plan.blocks}
    parallel = all(source.parallel for source in sources.values())
    if not parallel or len(plan.blocks) == 1:
        for block in plan.blocks:
            block.run()
        return
    try:
        for source in sources.values():
            source.begin_bulk()
        run_in_threads([block.run for block in plan.blocks], _MAX_THREADS)
    finally:
        for source in sources.values():
            source.end_bulk()
