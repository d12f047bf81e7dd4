"""The opcodes of pickle protocols 0 to 5, each a function of the machine; no more than the format says, and no import.

Source: PEPs 307, 3154 and 574, and the notes in Python's `pickletools`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any

from perdure.foreign.calls import Unfinished
from perdure.foreign.inert import Named, Storage
from perdure.foreign.tapes import text_of_python_2, unescape

if TYPE_CHECKING:
    from perdure.foreign.pickles import Machine

HIGHEST_PROTOCOL = 5
MAX_INT_BYTES = 2**13
MAX_INT_DIGITS = 4300
_MAX_NUMBER_LINE = MAX_INT_DIGITS + 10
_DECIMAL = re.compile(rb"[ \t]*[+-]?[0-9]{1,4300}L?\s*\Z")

_int4 = Struct("<i").unpack_from
_uint2 = Struct("<H").unpack_from
_uint4 = Struct("<I").unpack_from
_uint8 = Struct("<Q").unpack_from
_float8 = Struct(">d").unpack_from

Operation = Callable[["Machine"], None]


class Stopped(Exception):
    """The pickle is at its end; `value` is what it holds."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def _unknown(m: Machine) -> None:
    m.at -= 1
    raise m.broken(f"{m.window[m.at]:#04x} is no opcode of a pickle.")


OPERATIONS: list[Operation] = [_unknown] * 256


def _opcode(code: bytes) -> Callable[[Operation], Operation]:
    def register(operation: Operation) -> Operation:
        OPERATIONS[code[0]] = operation
        return operation

    return register


# The pickle as a whole


@_opcode(b"\x80")
def _protocol(m: Machine) -> None:
    version = m.window[m.at]
    m.at += 1
    if version > HIGHEST_PROTOCOL:
        raise m.broken(f"the pickle has protocol {version}; protocols up to {HIGHEST_PROTOCOL} are known.")


@_opcode(b"\x95")
def _frame(m: Machine) -> None:
    n_bytes = _uint8(m.window, m.at)[0]
    m.at += 8
    m.open_frame(n_bytes)


@_opcode(b".")
def _stop(m: Machine) -> None:
    if len(m.stack) != 1 or m.outer:
        raise m.broken("the pickle ends with other than one value on its stack.")
    raise Stopped(m.stack[0])


# Constants and numbers


def _constant(code: bytes, value: Any) -> None:
    def push(m: Machine) -> None:
        m.stack.append(value)

    OPERATIONS[code[0]] = push


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
    m.stack.append(_uint2(m.window, at)[0])


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
    m.stack.append(int.from_bytes(m.take(_length_1(m)), "little", signed=True))


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
    m.stack.append(line == b"01" if line in (b"00", b"01") else _decimal(m, line))


@_opcode(b"L")
def _long_line(m: Machine) -> None:
    m.stack.append(_decimal(m, m.take_line()))


def _decimal(m: Machine, line: bytes) -> int:
    if len(line) > _MAX_NUMBER_LINE or not _DECIMAL.match(line):
        raise m.broken("an integer is not written in decimal digits, or in too many.")
    return int(line.strip().rstrip(b"L"))


@_opcode(b"F")
def _float_line(m: Machine) -> None:
    line = m.take_line()
    try:
        m.stack.append(float(line[:_MAX_NUMBER_LINE]))
    except ValueError:
        raise m.broken("a number is not one.") from None


# Text and byte strings


def _length_1(m: Machine) -> int:
    m.at += 1
    return m.window[m.at - 1]


def _length_4(m: Machine) -> int:
    m.at += 4
    return _uint4(m.window, m.at - 4)[0]


def _length_8(m: Machine) -> int:
    m.at += 8
    return _uint8(m.window, m.at - 8)[0]


@_opcode(b"\x8c")
def _text_of_1(m: Machine) -> None:
    at = m.at + 1
    m.at = at
    m.stack.append(m.take_text(m.window[at - 1]))


@_opcode(b"X")
def _text_of_4(m: Machine) -> None:
    at = m.at
    m.at = at + 4
    m.stack.append(m.take_text(_uint4(m.window, at)[0]))


@_opcode(b"\x8d")
def _text_of_8(m: Machine) -> None:
    m.stack.append(m.take_text(_length_8(m)))


@_opcode(b"V")
def _text_line(m: Machine) -> None:
    line = m.take_line()
    try:
        m.stack.append(line.decode("raw-unicode-escape"))
    except UnicodeDecodeError:
        raise m.broken("a text is not valid.") from None


@_opcode(b"C")
def _bytes_of_1(m: Machine) -> None:
    m.stack.append(m.take(_length_1(m)))


@_opcode(b"B")
def _bytes_of_4(m: Machine) -> None:
    m.stack.append(m.take_octets(_length_4(m)))


@_opcode(b"\x8e")
def _bytes_of_8(m: Machine) -> None:
    m.stack.append(m.take_octets(_length_8(m)))


@_opcode(b"\x96")
def _bytearray_of_8(m: Machine) -> None:
    octets = m.take_octets(_length_8(m))
    m.stack.append(octets if isinstance(octets, Storage) else bytearray(octets))


@_opcode(b"U")
def _string_of_1(m: Machine) -> None:
    m.stack.append(text_of_python_2(m.take(_length_1(m))))


@_opcode(b"T")
def _string_of_4(m: Machine) -> None:
    n_bytes = _length_4(m)
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


# The stack and the memo


@_opcode(b"(")
def _mark(m: Machine) -> None:
    m.outer.append(m.stack)
    m.stack = []


@_opcode(b"0")
def _pop(m: Machine) -> None:
    if m.stack or not m.outer:
        m.stack.pop()
    else:
        m.pop_mark()


@_opcode(b"1")
def _pop_mark(m: Machine) -> None:
    m.pop_mark()


@_opcode(b"2")
def _duplicate(m: Machine) -> None:
    m.stack.append(m.stack[-1])


@_opcode(b"\x94")
def _memoize(m: Machine) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


@_opcode(b"q")
def _put_1(m: Machine) -> None:
    at = m.at
    m.at = at + 1
    m.memo[m.window[at]] = m.stack[-1]


@_opcode(b"r")
def _put_4(m: Machine) -> None:
    at = m.at
    m.at = at + 4
    m.memo[_uint4(m.window, at)[0]] = m.stack[-1]


@_opcode(b"p")
def _put_line(m: Machine) -> None:
    number = _decimal(m, m.take_line())
    if number < 0:
        raise m.broken("a number of the memo is negative.")
    m.memo[number] = m.stack[-1]


@_opcode(b"h")
def _get_1(m: Machine) -> None:
    at = m.at
    m.at = at + 1
    _recall(m, m.window[at])


@_opcode(b"j")
def _get_4(m: Machine) -> None:
    at = m.at
    m.at = at + 4
    _recall(m, _uint4(m.window, at)[0])


@_opcode(b"g")
def _get_line(m: Machine) -> None:
    _recall(m, _decimal(m, m.take_line()))


def _recall(m: Machine, number: int) -> None:
    try:
        value = m.memo[number]
    except KeyError:
        raise m.broken(f"number {number} of the memo is wanted, which was never put there.") from None
    m.stack.append(value.value if type(value) is Unfinished else value)


# Containers


@_opcode(b"]")
def _empty_list(m: Machine) -> None:
    m.room -= 1
    m.stack.append([])


@_opcode(b"}")
def _empty_dict(m: Machine) -> None:
    m.room -= 1
    m.stack.append({})


@_opcode(b"\x8f")
def _empty_set(m: Machine) -> None:
    m.room -= 1
    m.stack.append(set())


@_opcode(b"l")
def _list(m: Machine) -> None:
    m.room -= 1
    items = m.pop_mark()
    m.stack.append(items)


@_opcode(b"t")
def _tuple(m: Machine) -> None:
    m.room -= 1
    items = m.pop_mark()
    m.stack.append(tuple(items))


@_opcode(b"\x85")
def _tuple_of_1(m: Machine) -> None:
    m.room -= 1
    m.stack[-1] = (m.stack[-1],)


@_opcode(b"\x86")
def _tuple_of_2(m: Machine) -> None:
    m.room -= 1
    second = m.stack.pop()
    m.stack[-1] = (m.stack[-1], second)


@_opcode(b"\x87")
def _tuple_of_3(m: Machine) -> None:
    m.room -= 1
    third = m.stack.pop()
    second = m.stack.pop()
    m.stack[-1] = (m.stack[-1], second, third)


@_opcode(b"d")
def _dict(m: Machine) -> None:
    m.room -= 1
    items = m.pop_mark()
    made: dict[Any, Any] = {}
    m.set_items(made, items[::2], items[1::2])
    m.stack.append(made)


@_opcode(b"\x91")
def _frozenset(m: Machine) -> None:
    m.room -= 1
    items = m.pop_mark()
    m.check_members(items, items)
    m.stack.append(frozenset(items))


@_opcode(b"a")
def _append(m: Machine) -> None:
    item = m.stack.pop()
    target = m.stack[-1]
    if type(target) is list:
        target.append(item)
    else:
        m.append_items(target, [item])


@_opcode(b"e")
def _append_all(m: Machine) -> None:
    items = m.pop_mark()
    m.append_items(m.stack[-1], items)


@_opcode(b"s")
def _set_item(m: Machine) -> None:
    value = m.stack.pop()
    key = m.stack.pop()
    m.set_items(m.stack[-1], [key], [value])


@_opcode(b"u")
def _set_all(m: Machine) -> None:
    items = m.pop_mark()
    m.set_items(m.stack[-1], items[::2], items[1::2])


@_opcode(b"\x90")
def _add_all(m: Machine) -> None:
    items = m.pop_mark()
    m.add_members(m.stack[-1], items)


# Names and calls


def _line_of_text(m: Machine) -> str:
    line = m.take_line()
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise m.broken("a name is not valid UTF-8.") from None


@_opcode(b"c")
def _name_lines(m: Machine) -> None:
    module = _line_of_text(m)
    m.stack.append(m.name(module, _line_of_text(m)))


@_opcode(b"\x93")
def _name_on_stack(m: Machine) -> None:
    name = m.stack.pop()
    m.stack[-1] = m.name(m.stack[-1], name)


@_opcode(b"R")
def _reduce(m: Machine) -> None:
    args = m.stack.pop()
    m.stack[-1] = m.call(m.stack[-1], args, "called")


@_opcode(b"\x81")
def _new_object(m: Machine) -> None:
    args = m.stack.pop()
    m.stack[-1] = m.call(m.stack[-1], args, "instance")


@_opcode(b"\x92")
def _new_object_with_names(m: Machine) -> None:
    kwargs = m.stack.pop()
    args = m.stack.pop()
    if type(kwargs) is not dict:
        raise m.broken("the named arguments of an object are not a dict.")
    m.stack[-1] = m.call(m.stack[-1], args, "instance", kwargs)


@_opcode(b"i")
def _instance_lines(m: Machine) -> None:
    module = _line_of_text(m)
    name = _line_of_text(m)
    _instance(m, m.name(module, name), m.pop_mark())


@_opcode(b"o")
def _object_on_stack(m: Machine) -> None:
    what, *args = m.pop_mark() or [None]
    _instance(m, what, args)


def _instance(m: Machine, what: Any, args: list[Any]) -> None:
    m.stack.append(m.call(what, tuple(args), "called" if args else "instance"))


@_opcode(b"b")
def _build(m: Machine) -> None:
    state = m.stack.pop()
    m.stack[-1] = m.build(m.stack[-1], state)


def _extension(m: Machine, number: int) -> None:
    named = Named("copyreg", f"extension {number}")
    m.note(named, "extension")
    m.stack.append(named)


@_opcode(b"\x82")
def _extension_1(m: Machine) -> None:
    _extension(m, _length_1(m))


@_opcode(b"\x83")
def _extension_2(m: Machine) -> None:
    m.at += 2
    _extension(m, _uint2(m.window, m.at - 2)[0])


@_opcode(b"\x84")
def _extension_4(m: Machine) -> None:
    _extension(m, _length_4(m))


@_opcode(b"P")
def _persistent_line(m: Machine) -> None:
    m.stack.append(_load_persistent(m, _line_of_text(m)))


@_opcode(b"Q")
def _persistent_on_stack(m: Machine) -> None:
    m.stack[-1] = _load_persistent(m, m.stack[-1])


def _load_persistent(m: Machine, pid: Any) -> Any:
    if m.persistent is None:
        raise m.broken("a persistent id stands in a pickle that can have none.")
    return m.persistent(pid)
