"""The pickle machine: what opcodes take from it and ask of it. Calls become records, or values by builders of our own."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from itertools import repeat
from typing import Any

from perdure.disk.sources import ByteSource
from perdure.errors import LimitError
from perdure.foreign.inert import ComposedTensor, Made, Named, Ordered, Storage, Tensor, Use
from perdure.foreign.pickles import known_names
from perdure.foreign.pickles.calls import Builder, Forward, Later, MisuseError, Unfinished
from perdure.foreign.pickles.keys import LONG_TEXT, KeyChecker, cost_of_copying
from perdure.foreign.pickles.operations import Operation, Stopped
from perdure.foreign.pickles.scalar_opcodes import SCALAR_OPCODES
from perdure.foreign.pickles.structure_opcodes import STRUCTURE_OPCODES
from perdure.foreign.pickles.tapes import Tape

MAX_OPCODES = 2**25
MAX_RECORDS = 2**22
"""Containers and records: each takes some hundred bytes, and one byte of a pickle is enough to ask for it."""

MAX_MEMO = 2**23
MAX_STACK = 2**22
MAX_MARKS = 2**16
"""How deep lists, dicts and tuples may begin within each other: far more than a value may be nested."""

MAX_NAMES = 2**14
"""Each is looked up and judged, and a file of honest people has a few hundred at most."""

_WORK_PER_BYTE = 4
_SPARE_WORK = 2**18
_MAX_FORWARDS = 8
_DAMAGED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

PersistentLoader = Callable[[Any], Any]
NestedReader = Callable[["bytes | Storage"], Any]


def _refuse(m: Machine) -> None:
    m.at -= 1
    raise m.broken(f"{m.window[m.at]:#04x} is no opcode of a pickle.")


_OPCODES = {**SCALAR_OPCODES, **STRUCTURE_OPCODES}
OPERATIONS: list[Operation] = [_OPCODES.get(code, _refuse) for code in range(256)]


class Machine(Tape):
    """The state of an interpretation, as the opcodes see it.

    Attributes:
        stack: what the opcodes take from and put onto. A mark puts it aside, on `outer`, and begins a new one.
        memo: what was put by for later, by number.
        uses: what was found.
        room: how many more records may be made.
    """

    def __init__(
        self,
        source: ByteSource,
        start: int,
        stop: int,
        where: str,
        persistent: PersistentLoader | None,
        nested: NestedReader | None,
        uses: list[Use],
    ) -> None:
        super().__init__(source, start, stop, where)
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.uses = uses
        self.room = MAX_RECORDS
        self.persistent = persistent
        self._nested = nested
        self._names: dict[tuple[str, str], Named] = {}
        self._places: dict[Use, int] = {}
        self._builders: dict[tuple[int, str], Builder | None] = {}
        self._keys = KeyChecker()
        self._work = _WORK_PER_BYTE * max(0, self._stop - start) + _SPARE_WORK

    def run(self) -> Any:
        """Interpret opcodes up to the one that says stop; returns the value."""
        operations = OPERATIONS
        try:
            for _ in repeat(None, MAX_OPCODES):
                at = self.at
                if at >= self.limit:
                    self.turn()
                    at = self.at
                self.at = at + 1
                operations[self.window[at]](self)
        except Stopped as stopped:
            self.check_frames()
            return stopped.value
        except IndexError:
            raise self.broken("an opcode takes more from the stack than there is.") from None
        except _DAMAGED as error:
            raise self.broken(f"an opcode cannot be interpreted ({str(error)[:200]}).") from None
        raise self.over("opcodes", MAX_OPCODES)

    def turn(self) -> None:
        if self.room < 0:
            raise self.over("containers and records", MAX_RECORDS)
        if len(self.memo) > MAX_MEMO:
            raise self.over("values in its memo", MAX_MEMO)
        if len(self.stack) + len(self.outer) > MAX_STACK:
            raise self.over("values on its stack", MAX_STACK)
        if len(self.outer) > MAX_MARKS:
            raise self.over("marks", MAX_MARKS)
        super().turn()

    def over(self, what: str, limit: int) -> LimitError:
        return LimitError(f"reading {self._where}: its pickle has more {what} than the limit, {limit}.")

    def pop_mark(self) -> list[Any]:
        """Return what lies above the last mark, and go back to what lay below it."""
        items = self.stack
        if not self.outer:
            raise self.broken("an opcode needs a mark, and there is none.")
        self.stack = self.outer.pop()
        return items

    def name(self, module: Any, name: Any) -> Any:
        """Return what a name stands for: a record, or a constant of Python's."""
        if type(module) is not str or type(name) is not str:
            raise self.broken("a name is not given as text.")
        named = self._names.get((module, name))
        if named is None:
            if len(self._names) >= MAX_NAMES:
                raise self.over("names", MAX_NAMES)
            named = self._names[module, name] = Named(module, name)
            self.note(named, "named")
        return known_names.CONSTANTS.get(known_names.canonical(named), named)

    def note(self, what: Named, how: str) -> None:
        """Note what is done with a name; that it is only named is no news where it is used as well."""
        use = Use(what, how)
        if use in self._places:
            return
        place = self._places.pop(Use(what, "named"), None)
        if place is None:
            self._places[use] = len(self.uses)
            self.uses.append(use)
        else:
            self._places[use] = place
            self.uses[place] = use

    def call(self, what: Any, args: Any, how: str, kwargs: Any = None) -> Any:
        """Return the value or the record of a call, or of an instance that is made without one.

        Args:
            what: what is called, or whose instance it is.
            args: positional arguments; a tuple in all but hostile files.
            how: `"called"` or `"instance"`.
            kwargs: named arguments.
        """
        state = None
        for _ in range(_MAX_FORWARDS):
            self.room -= 1
            builder = self._builder(what, how)
            if type(args) is not tuple:
                raise self.broken("the arguments of a call are not a tuple.")
            result = self._build(builder, what, args, kwargs, how) if builder else NotImplemented
            if type(result) is Forward:
                what, args, how, kwargs = result.what, result.args, result.how, None
                state = result.state if result.state is not None else state
                if type(result.becomes) is Named:
                    self.note(result.becomes, "instance")
                continue
            made = self._record(result, what, args, how, kwargs)
            return made if state is None else self.build(made, state)
        raise self.broken("a call stands for another, and that for another, without end.")

    def _builder(self, what: Any, how: str) -> Builder | None:
        """Note the use and return our own builder for it, if there is one."""
        if type(what) is not Named:
            if not isinstance(what, Made):
                raise self.broken(f"a value of type {type(what).__name__} is called.")
            if type(what.what) is Named:
                self.note(what.what, "result called")
            return None
        key = id(what), how
        if key not in self._builders:
            what = self._names.setdefault((what.module, what.name), what)
            builder = known_names.BUILDERS.get(known_names.canonical(what))
            is_opened = builder is known_names.load_nested and self._nested is not None and how == "called"
            self.note(what, "opened" if is_opened else how)
            key = id(what), how  # its name is kept, so that no other object can get this id
            self._builders[key] = builder
        return self._builders[key]

    def _build(self, builder: Builder, what: Named, args: tuple[Any, ...], kwargs: Any, how: str) -> Any:
        if builder in known_names.COPYING:
            self.charge(cost_of_copying(args))
        if builder in known_names.HOLDING:
            self._hold(args)
        try:
            if kwargs:
                raise MisuseError
            if builder is known_names.load_nested and self._nested is not None and how == "called":
                return self._nested(known_names.nested_octets(*args))
            is_empty = how == "instance" and builder in known_names.FILLED_WHEN_CALLED
            return builder() if is_empty else builder(*args)
        except MisuseError:
            self.note(what, "misused")
            return NotImplemented
        except _DAMAGED as error:
            raise self.broken(f"the arguments of {str(what)[:100]} are wrong ({str(error)[:200]}).") from None

    def _hold(self, values: tuple[Any, ...]) -> None:
        for value in values:
            if type(value) is Named:
                self.note(value, "held")

    def _record(self, result: Any, what: Any, args: tuple[Any, ...], how: str, kwargs: Any) -> Any:
        if result is NotImplemented:
            return Made(what, args, {} if kwargs is None else kwargs, called=how == "called")
        if type(result) is Later:
            return Unfinished(what, args, how, result.finish)
        if type(result) is Named:
            return self.name(result.module, result.name)
        return result

    def build(self, target: Any, state: Any) -> Any:
        """Give an object its state; returns what takes its place."""
        if isinstance(target, Made):
            if target.state is not None:
                raise self.broken("an object is given its state twice.")
            target.state = state
            builder = self._builders.get((id(target.what), "called")) if type(target.what) is Named else None
            if builder in known_names.HOLDING:
                self._hold(state if type(state) is tuple else ())
            if builder in known_names.LIVE:
                self.note(target.what, "changed")
            return self._finish(target, state) if type(target) is Unfinished else target
        if type(target) is Ordered:
            states = state if type(state) is tuple and len(state) == 2 else (state,)
            if all(part is None or isinstance(part, dict) for part in states):
                for attributes in filter(None, states):
                    self.charge(len(attributes))
                    target.attributes.update(attributes)
                return target
        elif type(target) is Named:
            self.note(target, "changed")
            return target
        elif type(target) in (Tensor, ComposedTensor):
            return target  # attributes that Python code had set on it, and hooks
        raise self.broken(f"a state is given to a value of type {type(target).__name__}, which has none.")

    def _finish(self, target: Unfinished, state: Any) -> Any:
        try:
            value = target.finish(state)
        except _DAMAGED as error:
            raise self.broken(f"the state of a {str(target.what)[:100]} is wrong ({str(error)[:200]}).") from None
        if value is not NotImplemented:
            target.value = value
        return target.value

    def set_items(self, target: Any, keys: list[Any], values: list[Any]) -> None:
        """Set items of a dict, or note them where the target is a record."""
        if len(keys) != len(values):
            raise self.broken("a key has no value.")
        if isinstance(target, Made):
            target.items.extend(zip(keys, values, strict=True))
        elif type(target) in (dict, Ordered, Counter):
            for key, value in zip(keys, values, strict=True):
                if type(key) is not str or len(key) > LONG_TEXT:
                    self.charge(self._keys.check(target, key))
                target[key] = value
        else:
            raise self._wrong_target("items are set", target)

    def append_items(self, target: Any, items: list[Any]) -> None:
        """Append to a list, or note it where the target is a record."""
        if type(target) in (list, deque):
            target.extend(items)
        elif isinstance(target, Made):
            target.appended.extend(items)
        else:
            raise self._wrong_target("values are appended", target)

    def add_members(self, target: Any, items: list[Any]) -> None:
        """Add to a set, or note it where the target is a record."""
        if type(target) is set:
            self.check_members(target, items)
            target.update(items)
        elif isinstance(target, Made):
            target.appended.extend(items)
        else:
            raise self._wrong_target("values are added", target)

    def check_members(self, owner: object, items: list[Any]) -> None:
        for item in items:
            if type(item) is not str or len(item) > LONG_TEXT:
                self.charge(self._keys.check(owner, item))

    def charge(self, cost: int) -> None:
        """Count what is copied or hashed: each value of an honest file is so once, but a memo can ask for it again."""
        self._work -= cost
        if self._work < 0:
            raise LimitError(f"reading {self._where}: its pickle copies the same values again and again.")

    def _wrong_target(self, what: str, target: Any) -> Exception:
        if type(target) is Named:
            self.note(target, "changed")
        return self.broken(f"{what} in a value of type {type(target).__name__}, which has none.")
