"""The opcodes for the pickle as a whole, its stack and memo, containers, names and calls.

Source: PEPs 307, 3154 and 574, and the notes in Python's `pickletools`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.foreign.inert import Named
from perdure.foreign.pickles.calls import Unfinished
from perdure.foreign.pickles.operations import (
    OpcodeTable,
    Stopped,
    take_length_1,
    take_length_4,
    take_length_8,
    uint2,
    uint4,
)
from perdure.foreign.pickles.scalar_opcodes import take_decimal

if TYPE_CHECKING:
    from perdure.foreign.pickles.machine import Machine

HIGHEST_PROTOCOL = 5

STRUCTURE_OPCODES = OpcodeTable()
_opcode = STRUCTURE_OPCODES.register


# The pickle as a whole


@_opcode(b"\x80")
def _protocol(m: Machine) -> None:
    version = m.window[m.at]
    m.at += 1
    if version > HIGHEST_PROTOCOL:
        raise m.broken(f"the pickle has protocol {version}; protocols up to {HIGHEST_PROTOCOL} are known.")


@_opcode(b"\x95")
def _frame(m: Machine) -> None:
    m.open_frame(take_length_8(m))


@_opcode(b".")
def _stop(m: Machine) -> None:
    if len(m.stack) != 1 or m.outer:
        raise m.broken("the pickle ends with other than one value on its stack.")
    raise Stopped(m.stack[0])


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
    m.memo[uint4(m.window, at)[0]] = m.stack[-1]


@_opcode(b"p")
def _put_line(m: Machine) -> None:
    number = take_decimal(m)
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
    _recall(m, uint4(m.window, at)[0])


@_opcode(b"g")
def _get_line(m: Machine) -> None:
    _recall(m, take_decimal(m))


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
    _extension(m, take_length_1(m))


@_opcode(b"\x83")
def _extension_2(m: Machine) -> None:
    m.at += 2
    _extension(m, uint2(m.window, m.at - 2)[0])


@_opcode(b"\x84")
def _extension_4(m: Machine) -> None:
    _extension(m, take_length_4(m))


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
