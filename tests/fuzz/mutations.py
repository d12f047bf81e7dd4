"""Small changes to bytes, each drawn from a generator of random numbers and from nothing else."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
"""Takes the generator, the content and all seeds of the reader; returns other content."""

NUMBERS = tuple(
    sorted(
        {
            sign * (1 << bits) + more
            for bits in (0, 4, 7, 8, 15, 16, 20, 31, 32, 40, 62, 63)
            for more in (-1, 0, 1)
            for sign in (1, -1)
        }
    )
)
"""Where counters overflow, signs change and memory ends."""

_WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _place(random: random.Random, content: bytes) -> int:
    """Draw a place; those at either end, where headers and directories are, more often."""
    n = len(content)
    drawn = random.random()
    if drawn < 0.25:
        return random.randrange(min(n, 64))
    if drawn < 0.4:
        return n - 1 - random.randrange(min(n, 64))
    return random.randrange(n)


def flip_bit(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    at = _place(random, content)
    return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]


def set_byte(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    at = _place(random, content)
    return content[:at] + bytes([random.randrange(256)]) + content[at + 1 :]


def set_number(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Write a number of note over one, two, four or eight bytes."""
    at, width = _place(random, content), random.choice((1, 2, 4, 8))
    value = random.choice(NUMBERS) & (1 << 8 * width) - 1
    return content[:at] + struct.pack(random.choice("<>") + _WIDTHS[width], value) + content[at + width :]


def add_number(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Add a little to the number that one, two, four or eight bytes are."""
    at, width = _place(random, content), random.choice((1, 2, 4, 8))
    if at + width > len(content):
        return content[:-1]
    form = random.choice("<>") + _WIDTHS[width]
    (value,) = struct.unpack_from(form, content, at)
    changed = struct.pack(form, (value + random.randint(-35, 35)) & (1 << 8 * width) - 1)
    return content[:at] + changed + content[at + width :]


def _piece(random: random.Random, content: bytes) -> tuple[int, int]:
    start = _place(random, content)
    return start, min(len(content), start + 1 + int(random.expovariate(1 / 12)))


def delete(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, stop = _piece(random, content)
    return content[:start] + content[stop:]


def duplicate(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, stop = _piece(random, content)
    times = random.choice((1, 1, 1, 2, 8, 200))
    return content[:stop] + content[start:stop] * times + content[stop:]


def insert(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    at = _place(random, content)
    return content[:at] + random.randbytes(1 + random.randrange(8)) + content[at:]


def move(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, stop = _piece(random, content)
    piece, rest = content[start:stop], content[:start] + content[stop:]
    at = random.randrange(len(rest) + 1)
    return rest[:at] + piece + rest[at:]


def truncate(random: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    return content[: random.randrange(len(content))]


def extend(random: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    tail = random.choice(seeds) if random.random() < 0.3 else random.randbytes(random.randrange(64))
    return content + tail if random.random() < 0.8 else tail + content


def splice(random: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Put a piece of another seed over a piece of this one."""
    other = random.choice(seeds)
    start, stop = sorted((random.randrange(len(other) + 1), random.randrange(len(other) + 1)))
    at = random.randrange(len(content) + 1)
    return content[:at] + other[start:stop] + content[at + (stop - start) * random.randrange(2) :]


BYTES: tuple[Mutation, ...] = (
    flip_bit, flip_bit, set_byte, set_byte, set_number, set_number, add_number, add_number, delete, duplicate, insert, move,
    truncate, extend, splice,
)  # fmt: skip


def mutate(random: random.Random, content: bytes, seeds: Sequence[bytes], mutations: Sequence[Mutation]) -> bytes:
    """Apply one mutation, often more."""
    for _ in range(random.choice((1, 1, 1, 1, 1, 2, 3, 5))):
        content = random.choice(mutations)(random, content, seeds) if content else random.choice(seeds)
    return content
