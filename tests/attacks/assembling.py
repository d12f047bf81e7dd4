"""Pickles put together opcode by opcode: what Python's own pickler would never write."""

from __future__ import annotations

import struct
from typing import Any

STOP, MARK, POP, REDUCE, BUILD, NEWOBJ, NEWOBJ_EX, OBJ = b".", b"(", b"0", b"R", b"b", b"\x81", b"\x92", b"o"
DICT, LIST, TUPLE, EMPTY_DICT, EMPTY_LIST, EMPTY_SET = b"d", b"l", b"t", b"}", b"]", b"\x8f"
APPEND, APPENDS, SETITEM, SETITEMS, ADDITEMS = b"a", b"e", b"s", b"u", b"\x90"
BINPERSID, MEMOIZE, DUP, STACK_GLOBAL = b"Q", b"\x94", b"2", b"\x93"


def pickled(body: bytes, protocol: int = 4) -> bytes:
    """Return a whole pickle; of protocol 0 it has no beginning of its own."""
    return (b"\x80" + bytes([protocol]) if protocol > 1 else b"") + body + STOP


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def octets(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(raw)) + raw


def plain(value: Any) -> bytes:
    """Return the opcodes of a plain value; what is bytes already is taken for opcodes, `Octets` for a byte string."""
    if isinstance(value, Octets):
        return octets(value)
    if isinstance(value, bytes):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        return number(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, dict):
        return EMPTY_DICT + MARK + b"".join(plain(key) + plain(inner) for key, inner in value.items()) + SETITEMS
    if isinstance(value, tuple):
        return MARK + b"".join(map(plain, value)) + TUPLE
    assert isinstance(value, list), value
    return EMPTY_LIST + MARK + b"".join(map(plain, value)) + APPENDS


class Octets(bytes):
    """A byte string, where plain bytes would be opcodes."""


def named(module: str, name: str) -> bytes:
    """Name something by GLOBAL, two lines of text."""
    return f"c{module}\n{name}\n".encode()


def stacked(module: str, name: str) -> bytes:
    """Name something by STACK_GLOBAL; dots in the name reach into what it names."""
    return text(module) + text(name) + STACK_GLOBAL


def call(function: bytes | str, *args: Any) -> bytes:
    """Call what opcodes leave on the stack, or what is named as `module:name`."""
    if isinstance(function, str):
        function = stacked(*function.split(":"))
    return function + plain(args) + REDUCE


def new(cls: bytes | str, *args: Any) -> bytes:
    """Make an instance by `cls.__new__`."""
    if isinstance(cls, str):
        cls = stacked(*cls.split(":"))
    return cls + plain(args) + NEWOBJ


def built(target: bytes, state: Any) -> bytes:
    return target + plain(state) + BUILD


def line(value: str) -> bytes:
    """Return a text as protocol 0 writes it."""
    return f"V{value}\n".encode("raw-unicode-escape")


def framed(body: bytes, n_bytes: int | None = None) -> bytes:
    return b"\x95" + struct.pack("<Q", len(body) if n_bytes is None else n_bytes) + body


def storage(key: str = "0", n: int = 4, kind: str = "FloatStorage", location: Any = "cpu") -> bytes:
    """Refer to a storage as torch.save does."""
    return plain(("storage", named("torch", kind), key, location, n)) + BINPERSID


def tensor(storage: bytes = storage(), shape: Any = (2, 2), stride: Any = (2, 1), offset: Any = 0, *more: Any) -> bytes:
    """Rebuild a tensor as torch.save does."""
    hooks = named("collections", "OrderedDict") + b")R"
    return (
        named("torch._utils", "_rebuild_tensor_v2")
        + plain((storage, offset, shape, stride, False, hooks, *more))
        + REDUCE
    )
