"""The opcodes that put numbers, texts and byte strings onto the stack.

Source: the notes in Python's `pickletools`.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING, Any

from perdure.foreign.inert import Storage
from perdure.foreign.pickles.operations import OpcodeTable, take_length_1, take_length_4, take_length_8, uint2, uint4
from perdure.foreign.pickles.tapes import text_of_python_2, unescape

if TYPE_CHECKING:
    from perdure.foreign.pickles.machine import Machine

MAX_INT_BYTES = 2**13
MAX_INT_DIGITS = 4300
_MAX_NUMBER_LINE = MAX_INT_DIGITS + 10
_DECIMAL = re.compile(rb"(0|-?[1-9][0-9]{0,4299})L?\Z")
"""As pickles are written; of other spellings (` 1`, `+1`, `010`) Python's own two unpicklers make different values."""

_int4 = Struct("<i").unpack_from
_float8 = Struct(">d").unpack_from

SCALAR_OPCODES = OpcodeTable()
_opcode = SCALAR_OPCODES.register


# Constants and numbers


def _constant(code: bytes, value: Any) -> None:
    def push(m: Machine) -> None:
        m.stack.append(value)

    SCALAR_OPCODES[code[0]] = push


for _code, _value in ((b"N", None), (b"\x88", True), (b"\x89", False), (b")", ())):
    _constant(_code, _value)


@_opcode(b"K")
def _int_of_1(m: Machine) -> None:
    at = m.at
    m.at = at + 1
    m.stack.append(m.window[at])


@_opcode(b"M")
def _int_of_2(m: Machine) -> None:
    at = m.at
    m.at = at + 2
    m.stack.append(uint2(m.window, at)[0])


@_opcode(b"J")
def _int_of_4(m: Machine) -> None:
    at = m.at
    m.at = at + 4
    m.stack.append(_int4(m.window, at)[0])


@_opcode(b"G")
def _float_of_8(m: Machine) -> None:
    at = m.at
    m.at = at + 8
    m.stack.append(_float8(m.window, at)[0])


@_opcode(b"\x8a")
def _long_of_1(m: Machine) -> None:
    m.stack.append(int.from_bytes(m.take(take_length_1(m)), "little", signed=True))


@_opcode(b"\x8b")
def _long_of_4(m: Machine) -> None:
    n_bytes = _int4(m.window, m.at)[0]
    m.at += 4
    if not 0 <= n_bytes <= MAX_INT_BYTES:
        raise m.broken(f"an integer of {n_bytes} bytes begins; at most {MAX_INT_BYTES} are read.")
    m.stack.append(int.from_bytes(m.take(n_bytes), "little", signed=True))


@_opcode(b"I")
def _int_line(m: Machine) -> None:
    line = m.take_line()
    m.stack.append(line == b"01" if line in (b"00", b"01") else _decimal_of(m, line))


@_opcode(b"L")
def _long_line(m: Machine) -> None:
    m.stack.append(take_decimal(m))


def take_decimal(m: Machine) -> int:
    """Take an integer in decimal digits, and the line feed after it."""
    return _decimal_of(m, m.take_line())


def _decimal_of(m: Machine, line: bytes) -> int:
    if len(line) > _MAX_NUMBER_LINE or not _DECIMAL.match(line):
        raise m.broken("an integer is not written in decimal digits, or in too many.")
    return int(line.rstrip(b"L"))


@_opcode(b"F")
def _float_line(m: Machine) -> None:
    line = m.take_line()
    try:
        m.stack.append(float(line if len(line) <= _MAX_NUMBER_LINE else b"too long"))
    except ValueError:
        raise m.broken("a number is not one.") from None


# Text and byte strings


@_opcode(b"\x8c")
def _text_of_1(m: Machine) -> None:
    at = m.at + 1
    m.at = at
    m.stack.append(m.take_text(m.window[at - 1]))


@_opcode(b"X")
def _text_of_4(m: Machine) -> None:
    at = m.at
    m.at = at + 4
    m.stack.append(m.take_text(uint4(m.window, at)[0]))


@_opcode(b"\x8d")
def _text_of_8(m: Machine) -> None:
    m.stack.append(m.take_text(take_length_8(m)))


@_opcode(b"V")
def _text_line(m: Machine) -> None:
    line = m.take_line()
    try:
        m.stack.append(line.decode("raw-unicode-escape"))
    except UnicodeDecodeError:
        raise m.broken("a text is not valid.") from None


@_opcode(b"C")
def _bytes_of_1(m: Machine) -> None:
    m.stack.append(m.take(take_length_1(m)))


@_opcode(b"B")
def _bytes_of_4(m: Machine) -> None:
    m.stack.append(m.take_octets(take_length_4(m)))


@_opcode(b"\x8e")
def _bytes_of_8(m: Machine) -> None:
    m.stack.append(m.take_octets(take_length_8(m)))


@_opcode(b"\x96")
def _bytearray_of_8(m: Machine) -> None:
    octets = m.take_octets(take_length_8(m))
    m.stack.append(octets if isinstance(octets, Storage) else bytearray(octets))


@_opcode(b"U")
def _string_of_1(m: Machine) -> None:
    m.stack.append(text_of_python_2(m.take(take_length_1(m))))


@_opcode(b"T")
def _string_of_4(m: Machine) -> None:
    n_bytes = take_length_4(m)
    if n_bytes >= 2**31:
        raise m.broken("a string has a negative length.")
    octets = m.take_octets(n_bytes)
    m.stack.append(text_of_python_2(octets) if isinstance(octets, bytes) else octets)


@_opcode(b"S")
def _string_line(m: Machine) -> None:
    line = m.take_line()
    try:
        m.stack.append(text_of_python_2(unescape(line.strip())))
    except ValueError:
        raise m.broken("a string has no quotes around it.") from None


@_opcode(b"\x97")
def _next_buffer(m: Machine) -> None:
    raise m.broken("the pickle wants a buffer from outside, and there is none.")


@_opcode(b"\x98")
def _readonly_buffer(m: Machine) -> None:
    raise m.broken("the pickle wants a buffer from outside, and there is none.")
