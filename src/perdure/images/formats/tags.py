"""The directory of tags that TIFF files begin with, and that EXIF is."""

from __future__ import annotations

import struct
from typing import NamedTuple

ORIENTATION = 274
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 16: "Q"}


class Entry(NamedTuple):
    """A tag.

    Attributes:
        type: of its values, by TIFF's number.
        n_values: how many there are.
        at: the byte where they begin.
    """

    type: int
    n_values: int
    at: int


class Directory(NamedTuple):
    """The first directory of a file.

    Attributes:
        order: of bytes, `<` or `>`.
        big: it is BigTIFF.
        entries: by tag; of two with one tag the first. What lies outside of the file is left out.
        outside: the tags that were left out for it.
    """

    order: str
    big: bool
    entries: dict[int, Entry]
    outside: frozenset[int]

    def number(self, content: bytes, tag: int) -> int | None:
        """Return the first value of a tag that holds whole numbers; None where there is none."""
        return next(iter(self.numbers(content, tag, 1)), None)

    def numbers(self, content: bytes, tag: int, most: int) -> tuple[int, ...]:
        """Return the values of a tag that holds whole numbers, so many at most; empty where there are none."""
        entry = self.entries.get(tag)
        if entry is None or entry.type not in _WHOLE:
            return ()
        return struct.unpack_from(f"{self.order}{min(entry.n_values, most)}{_WHOLE[entry.type]}", content, entry.at)


def directory(content: bytes) -> Directory:
    """Read the first directory.

    Raises:
        ValueError: there is none.
        struct.error: it ends too early.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2], "")
    magic = struct.unpack_from(order + "H", content, 2)[0] if order else 0
    if magic not in (42, 43):
        raise ValueError("it has no header of TIFF")
    big = magic == 43
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
    first, each, inline = (start + 8, 20, 8) if big else (start + 2, 12, 4)
    if first > len(content):
        raise ValueError(f"its first directory lies at byte {start} of {len(content)}")
    (n_entries,) = struct.unpack_from(order + ("Q" if big else "H"), content, start)
    if n_entries > (len(content) - first) // each:
        raise ValueError(f"its first directory has {n_entries} entries, more than the file")
    entries: dict[int, Entry] = {}
    outside = set()
    for at in range(first, first + n_entries * each, each):
        tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), content, at)
        n_bytes = SIZES.get(kind, 0) * count
        value_at = at + each - inline
        if n_bytes > inline:
            (value_at,) = struct.unpack_from(order + ("Q" if big else "I"), content, value_at)
        if n_bytes and value_at + n_bytes <= len(content):
            entries.setdefault(tag, Entry(kind, count, value_at))
        else:
            outside.add(tag)
    return Directory(order, big, entries, frozenset(outside))


def orientation(exif: bytes) -> int:
    """Return the orientation that EXIF states, 1 to 8; 1 where it states none, or is broken."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        found = directory(exif).number(exif, ORIENTATION)
    except (ValueError, struct.error):
        return 1
    return found if found is not None and 1 <= found <= 8 else 1
