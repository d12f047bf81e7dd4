"""Tables of opcodes: each is a function of the machine."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.foreign.pickles.machine import Machine

Operation = Callable[["Machine"], None]

uint2 = Struct("<H").unpack_from
uint4 = Struct("<I").unpack_from
uint8 = Struct("<Q").unpack_from


class Stopped(Exception):
    """The pickle is at its end; `value` is what it holds."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class OpcodeTable(dict[int, Operation]):
    """Opcodes of one kind, by their byte."""

    def register(self, code: bytes) -> Callable[[Operation], Operation]:
        """Return a decorator that enters a function as what an opcode does."""

        def enter(operation: Operation) -> Operation:
            self[code[0]] = operation
            return operation

        return enter


def take_length_1(m: Machine) -> int:
    """Take a number of one byte."""
    m.at += 1
    return m.window[m.at - 1]


def take_length_4(m: Machine) -> int:
    """Take a number of four bytes."""
    m.at += 4
    return uint4(m.window, m.at - 4)[0]


def take_length_8(m: Machine) -> int:
    """Take a number of eight bytes."""
    m.at += 8
    return uint8(m.window, m.at - 8)[0]
