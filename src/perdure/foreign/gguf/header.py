"""The values in the header of a GGUF file, read in order; nothing is taken that the file was not seen to have."""

from __future__ import annotations

import array
import struct
import sys
from typing import Any

from perdure.disk.faults import broken
from perdure.disk.sources import ByteSource
from perdure.errors import LimitError

MAX_HEADER_BYTES = 100_000_000
"""Ten times what the largest vocabularies take."""

MAX_VALUES = 2**21
"""Numbers and texts in the metadata, all together; the largest vocabularies have 1.4 million."""

MAX_NESTING = 8
"""Arrays within arrays; llama.cpp writes none."""

UINT32 = 4
_TEXT, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", UINT32: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_ARRAY_VALUES = 16  # an array within another takes as long to read as so many values
_FIRST_READ_BYTES = 2**16


class HeaderCursor:
    """A place in the header that moves on with each value that is read.

    Args:
        source: the file.
        where: names it in messages.
    """

    def __init__(self, source: ByteSource, where: str) -> None:
        self.position = 0
        self._source = source
        self._where = where
        self._content = b""
        self._order = "<"
        self._count, self._count_bytes = "Q", 8
        self._n_values = 0

    def set_form(self, *, big_endian: bool, short_counts: bool) -> None:
        """Say how numbers are written from here on: in which byte order, and whether counts have 32 bits, not 64."""
        self._order = ">" if big_endian else "<"
        self._count, self._count_bytes = ("I", 4) if short_counts else ("Q", 8)

    def take(self, n_bytes: int) -> bytes:
        """Return the next bytes."""
        start, stop = self.position, self.position + n_bytes
        content = self._content if stop <= len(self._content) else self._reach(stop)
        self.position = stop
        return content[start:stop]

    def numbers(self, letters: str) -> tuple[Any, ...]:
        """Return the next numbers; `letters` are those of `struct`, and `N` for a count."""
        form = self._order + letters.replace("N", self._count)
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def count(self, what: str, min_bytes: int, limit: int = MAX_HEADER_BYTES) -> int:
        """Return the next number as a count of things of at least so many bytes each, which the file has room for."""
        (found,) = self.numbers("N")
        if found * min_bytes > self._source.n_bytes - self.position:
            raise broken(
                self._where,
                f"the header counts {found} {what}, but only {self._source.n_bytes - self.position} bytes follow.",
            )
        if found > limit:
            raise LimitError(
                f"reading {self._where}: the header counts {found} {what}; the limit is {limit}. Split the file."
            )
        return found

    def name(self, what: str) -> str:
        """Return the next text, a name."""
        raw = self.take(self.count("bytes of a name", 1))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise broken(self._where, f"the name {quoted(raw)} of a {what} is not UTF-8.") from None

    def value(self, kind: int, key: str) -> Any:
        """Return the next value of the metadata.

        Args:
            kind: the number of its type.
            key: its name, for messages.

        Returns:
            A number, a truth value, a text, or a list of such. Texts are bytes where those are not UTF-8; in a list all
            are bytes then.
        """
        if kind == _TEXT:
            return self._texts(1)[0]
        if kind == _ARRAY:
            return self._array(key, 1)
        self._note_values(1)
        return self.numbers(self._letter(kind, key))[0]

    def _letter(self, kind: int, key: str) -> str:
        if kind not in _NUMBERS:
            raise broken(self._where, f"the metadata's {quoted(key)} is of the type {kind}, which GGUF does not have.")
        return _NUMBERS[kind]

    def _array(self, key: str, depth: int) -> list[Any]:
        if depth > MAX_NESTING:
            raise LimitError(
                f"reading {self._where}: the metadata's {quoted(key)} is nested more than {MAX_NESTING} deep. Write it flat."
            )
        (kind,) = self.numbers("I")
        if kind == _TEXT:
            return self._texts(self.count("texts", self._count_bytes))
        if kind == _ARRAY:
            n_arrays = self.count("arrays", self._count_bytes)
            self._note_values(n_arrays * _ARRAY_VALUES)
            return [self._array(key, depth + 1) for _ in range(n_arrays)]
        letter = self._letter(kind, key)
        n_bytes = struct.calcsize("<" + letter)
        n_numbers = self.count("numbers", n_bytes)
        self._note_values(n_numbers)
        return self._many(letter, self.take(n_numbers * n_bytes))

    def _many(self, letter: str, raw: bytes) -> list[Any]:
        if letter == "?":
            return list(map(bool, raw))
        found = array.array(letter, raw)
        if (self._order == "<") != (sys.byteorder == "little"):
            found.byteswap()
        return found.tolist()

    def _texts(self, n_texts: int) -> list[str] | list[bytes]:
        """Return the next texts; a vocabulary has hundreds of thousands, so this does the least for each."""
        self._note_values(n_texts)
        length = struct.Struct(self._order + self._count)
        content, at, n_ahead = self._content, self.position, length.size
        texts: list[bytes] = []
        for _ in range(n_texts):
            start = at + n_ahead
            if start > len(content):
                content = self._reach(start)
            at = start + length.unpack_from(content, at)[0]
            if at > len(content):
                content = self._reach(at)
            texts.append(content[start:at])
        self.position = at
        try:
            return [text.decode() for text in texts]
        except UnicodeDecodeError:
            return texts

    def _note_values(self, n_values: int) -> None:
        self._n_values += n_values
        if self._n_values > MAX_VALUES:
            raise LimitError(
                f"reading {self._where}: its metadata has {self._n_values} values or more; the limit is {MAX_VALUES}. "
                f"Write them into a file of their own."
            )

    def _reach(self, stop: int) -> bytes:
        """Return the header's bytes up to `stop` at least, reading ahead."""
        file_bytes = self._source.n_bytes
        if stop > file_bytes:
            raise broken(
                self._where,
                f"the header reaches to byte {stop} or beyond, but the file has {file_bytes}; it was cut off.",
            )
        if stop > MAX_HEADER_BYTES:
            raise LimitError(
                f"reading {self._where}: its header takes more than {MAX_HEADER_BYTES} bytes, which is the limit. "
                f"Write large values into a file of their own."
            )
        known = len(self._content)
        ahead = min(max(stop, 2 * known, _FIRST_READ_BYTES), file_bytes)
        self._content += self._source.read(known, ahead - known)
        return self._content


def quoted(name: str | bytes) -> str:
    """Return a name as messages give it: not longer than a line."""
    return repr(name) if len(name) <= 100 else f"{name[:100]!r}…"
