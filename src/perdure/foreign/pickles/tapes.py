"""The bytes of a pickle, read in windows: what a reader of opcodes takes from them, each piece checked to be there."""

from __future__ import annotations

import re

from perdure.disk.faults import broken
from perdure.disk.sources import ByteSource
from perdure.errors import CorruptError
from perdure.foreign.inert import Storage

WINDOW_BYTES = 64 * 2**10
LAZY_BYTES = 64 * 2**10
"""Byte strings longer than this are not read; they become a `Storage` over the place where they lie."""

_GUARD = 16
_PADDING = bytes(_GUARD)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"\n": b""}


class Tape:
    """The bytes of one pickle.

    `window` holds some of them, and `window[at]` is the next. Until `at` reaches `limit`, an opcode and its argument of
    fixed length (at most `_GUARD` bytes in all) can be taken from the window without asking; then comes `turn`. What an
    argument at the very end takes beyond it is padding, which the next `turn` finds out.

    Args:
        source: where the bytes are.
        start: where they begin.
        stop: where they end at the latest.
        where: names the file in messages.
    """

    def __init__(self, source: ByteSource, start: int, stop: int, where: str) -> None:
        self.window = _PADDING
        self.at = 0
        self.limit = 0
        self._source = source
        self._base = start
        self._stop = min(stop, source.n_bytes)
        self._n_window = 0
        self._frame_end = -1
        self._fault: CorruptError | None = None
        self._where = where

    @property
    def position(self) -> int:
        """The offset in the source of the next byte."""
        return self._base + self.at

    def broken(self, sentence: str) -> CorruptError:
        """Return the error for a damaged pickle; the sentence goes on after `at byte …`."""
        return broken(self._where, f"at byte {self.position} of the pickle's file, {sentence}")

    def turn(self) -> None:
        """Go on where the window or the frame ends.

        Raises:
            CorruptError: the bytes end here, or the last opcode went beyond their end or that of its frame.
        """
        position = self.position
        if position >= self._stop:
            raise self.broken("the pickle ends without saying so; it was cut.")
        if self._frame_end >= 0:
            if position > self._frame_end:
                self._note_fault("an opcode reaches beyond the end of its frame.")
            if position >= self._frame_end:
                self._frame_end = -1
        if self.at >= self._n_window - _GUARD:
            self._refill(WINDOW_BYTES)
        self._set_limit()

    def open_frame(self, n_bytes: int) -> None:
        """Note that a frame of so many bytes begins here."""
        if self._frame_end > self.position:
            self._note_fault("a frame begins within another.")
        if self.position + n_bytes > self._stop:
            self._note_fault(f"a frame of {n_bytes} bytes begins; only {self._stop - self.position} follow.")
        self._frame_end = min(self.position + n_bytes, self._stop)
        self._set_limit()

    def check_frames(self) -> None:
        """See that no frame was wrong; that is said at the end, for some readers run on past such a fault.

        Raises:
            CorruptError: one was.
        """
        if self._fault is not None:
            raise self._fault

    def _note_fault(self, sentence: str) -> None:
        self._fault = self._fault or self.broken(sentence)

    def take(self, n_bytes: int) -> bytes:
        """Take the next bytes into memory."""
        at = self.at
        if at + n_bytes > self._n_window:
            self._require(n_bytes)
            self._refill(max(n_bytes, WINDOW_BYTES))
            self._set_limit()
            at = 0
        self.at = at + n_bytes
        return self.window[at : self.at]

    def take_octets(self, n_bytes: int) -> bytes | Storage:
        """Take a byte string; one of more than `LAZY_BYTES` is left where it is."""
        if n_bytes <= LAZY_BYTES:
            return self.take(n_bytes)
        self._require(n_bytes)
        octets = Storage(self._source, self.position, n_bytes)
        self.at += n_bytes
        return octets

    def take_text(self, n_bytes: int) -> str:
        """Take text in UTF-8; halves of surrogate pairs are let through, as Python's own reader does."""
        octets = self.take(n_bytes)
        try:
            return octets.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise self.broken("a text is not valid UTF-8.") from None

    def take_line(self) -> bytes:
        """Take what comes before the next line feed, and the line feed."""
        n_bytes = WINDOW_BYTES
        while (end := self.window.find(b"\n", self.at, self._n_window)) < 0:
            if self._base + self._n_window >= self._stop:
                raise self.broken("a line has no end.")
            self._refill(n_bytes)
            self._set_limit()
            n_bytes *= 2
        line = self.window[self.at : end]
        self.at = end + 1
        return line

    def _require(self, n_bytes: int) -> None:
        if self.position + n_bytes > self._stop:
            raise self.broken(f"{n_bytes} bytes were expected; {max(0, self._stop - self.position)} follow.")

    def _refill(self, n_bytes: int) -> None:
        position = self.position
        self._n_window = max(0, min(n_bytes, self._stop - position))
        self.window = self._source.read(position, self._n_window) + _PADDING
        self._base, self.at = position, 0

    def _set_limit(self) -> None:
        is_last = self._base + self._n_window >= self._stop
        self.limit = self._n_window if is_last else self._n_window - _GUARD
        if self._frame_end >= 0:
            self.limit = min(self.limit, self._frame_end - self._base)


def text_of_python_2(octets: bytes) -> str | bytes:
    """Return a string of Python 2, which does not say whether it is text: it is where it can be."""
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets


def unescape(line: bytes) -> bytes:
    """Return the bytes that Python 2 wrote as a literal between quotes.

    Raises:
        ValueError: there are no quotes around it.
    """
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("no quotes")
    return _ESCAPE.sub(_unescape_one, line[1:-1])


def _unescape_one(match: re.Match[bytes]) -> bytes:
    what = match[1]
    if what[:1] == b"x" and len(what) == 3:
        return bytes([int(what[1:], 16)])
    if what[:1] in b"01234567":
        return bytes([int(what, 8) & 255])
    return _ESCAPED.get(what, what if what in (b"\\", b"'", b'"') else match[0])
