"""GGUF files made by hand: each byte as the test wants it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


class Form(NamedTuple):
    """How numbers are written: the byte order and the letter of a count, as `struct` has them."""

    order: str = "<"
    count: str = "Q"

    def number(self, letter: str, value: Any) -> bytes:
        return struct.pack(self.order + letter, value)

    def text(self, value: str | bytes, length: int | None = None) -> bytes:
        """Return a text; `length` is what the bytes before it claim."""
        raw = value.encode() if isinstance(value, str) else value
        return self.number(self.count, len(raw) if length is None else length) + raw

    def value(self, kind: int, value: Any) -> bytes:
        """Return a value; that of an array is a pair, of its elements' type and of them."""
        if kind == TEXT:
            return self.text(value)
        if kind == ARRAY:
            inner, values = value
            head = self.number("I", inner) + self.number(self.count, len(values))
            return head + b"".join(self.value(inner, one) for one in values)
        return self.number(LETTERS[kind], value)

    def pair(self, key: str | bytes, kind: int, value: Any) -> bytes:
        return self.text(key) + self.number("I", kind) + self.value(kind, value)

    def info(self, name: str | bytes, shape: Sequence[int], type: int, offset: int) -> bytes:
        """Return what the header says of a tensor; axes in PyTorch's order."""
        sizes = b"".join(self.number(self.count, size) for size in reversed(shape))
        return self.text(name) + self.number("I", len(shape)) + sizes + struct.pack(self.order + "IQ", type, offset)


FORMS = {1: Form(count="I"), 2: Form(), 3: Form()}
BIG_ENDIAN = Form(order=">")


def gguf(
    pairs: Iterable[bytes] = (),
    infos: Iterable[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    form: Form | None = None,
    alignment: int = 32,
    n_pairs: int | None = None,
    n_infos: int | None = None,
    magic: bytes = b"GGUF",
) -> bytes:
    """Return a file with these parts; `n_pairs` and `n_infos` are what its header claims."""
    form = form or FORMS.get(version, Form())
    pairs, infos = list(pairs), list(infos)
    counts = (len(infos) if n_infos is None else n_infos, len(pairs) if n_pairs is None else n_pairs)
    head = magic + struct.pack(f"{form.order}I2{form.count}", version, *counts) + b"".join(pairs) + b"".join(infos)
    return head + (b"\0" * (-len(head) % alignment) + data if infos else b"")
