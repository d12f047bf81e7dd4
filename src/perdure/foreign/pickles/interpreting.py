"""Pickles of other people, interpreted: opcodes of protocols 0 to 5, by a machine that cannot import or call.

It gives inert records (see `inert`): a class is a name, a call is a record. Only the calls in `known_names` become
values, by builders of our own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from perdure.disk.faults import enough_memory
from perdure.disk.sources import ByteSource
from perdure.foreign.inert import Use
from perdure.foreign.pickles.machine import Machine, NestedReader, PersistentLoader
from perdure.foreign.pickles.nesting import check_nesting


@dataclasses.dataclass(frozen=True)
class Interpreted:
    """What a pickle holds.

    Attributes:
        value: the nesting; byte strings of more than `tapes.LAZY_BYTES` are `Storage` over the file.
        uses: every name that it mentions and what it does with it, each pair once, in order.
        end: the offset in the source just after it.
    """

    value: Any
    uses: tuple[Use, ...]
    end: int


def interpret(
    source: ByteSource,
    start: int,
    stop: int,
    where: str,
    *,
    persistent: PersistentLoader | None = None,
    nested: NestedReader | None = None,
    uses: list[Use] | None = None,
) -> Interpreted:
    """Interpret the pickle that begins at `start`; nothing of it is run.

    Args:
        source: the bytes.
        start: offset of its first byte.
        stop: offset that it does not reach beyond.
        where: names the file in messages.
        persistent: gives the value for a persistent id, which it checks. Without it there may be none.
        nested: reads a torch file within the pickle, which plain `pickle.dump` of a storage writes; gives its value.
            Without it the call stays a record, and has not been looked into.
        uses: filled with what is found as it is found, so that the caller has it also where an error ends the reading.

    Raises:
        CorruptError: damaged, or not a pickle.
        LimitError: it asks for more than the limits of this module.
    """
    machine = Machine(source, start, stop, where, persistent, nested, [] if uses is None else uses)
    with enough_memory(where):
        value = machine.run()
        check_nesting(value, where)
    return Interpreted(value, tuple(machine.uses), machine.position)
