"""The modules of a saved model: their classes, those that stand at several places, and what each holds, as its file says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from perdure.foreign.states import State
from perdure.records.architecture import Architecture, ModuleRecord

_MAX_PATH = 2000
"""Characters of a module's path beyond which it is not told apart from the module above it."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place of a module that holds a tensor.

    Attributes:
        name: its full name in the model.
        stored: the tensor's name in the file, or in the blob of buffers.
        in_blob: it is in that blob.
        role: `"parameter"` or `"buffer"`.
        trainable: it gets gradients.
        number: the same for places that hold the same tensor.
        lazy: it has no shape yet.
    """

    name: str
    stored: str
    in_blob: bool
    role: str
    trainable: bool
    number: int
    lazy: bool = False


@dataclasses.dataclass
class Modules:
    """What is known of modules.

    Attributes:
        kinds: the name of the class of each, by its path, in order.
        same: those that stand at another path before, with that path; what is below them is left out.
        slots: what they hold, where the file lists it.
    """

    kinds: dict[str, str] = dataclasses.field(default_factory=dict)
    same: dict[str, str] = dataclasses.field(default_factory=dict)
    slots: list[Slot] = dataclasses.field(default_factory=list)

    def under(self, start: str) -> Modules:
        """Return those whose paths begin with `start`, which ends with a dot, without it; all where it is empty."""
        if not start:
            return self
        whole, n = start[:-1], len(start)
        kinds = {path[n:]: kind for path, kind in self.kinds.items() if path == whole or path.startswith(start)}
        inner = {path: first for path, first in self.same.items() if path.startswith(start)}
        same = {path[n:]: first[n:] for path, first in inner.items() if first == whole or first.startswith(start)}
        slots = [dataclasses.replace(slot, name=slot.name[n:]) for slot in self.slots if slot.name.startswith(start)]
        return Modules(kinds, same, slots)

    def is_again(self, name: str) -> bool:
        """Tell whether a name lies below a module that stands at another path before."""
        at = name.find(".") if self.same else -1
        while 0 <= at <= _MAX_PATH:
            if name[:at] in self.same:
                return True
            at = name.find(".", at + 1)
        return False


def modules_of_architecture(found: Architecture) -> Modules:
    """Walk the modules of an architecture in the order of `named_modules`."""
    modules = Modules()
    firsts: dict[int, str] = {}
    waiting = [("", 0)] if found.modules else []
    while waiting:
        path, number = waiting.pop()
        record = found.modules[number]
        modules.kinds[path] = _kind(found, record)
        if number in firsts:
            modules.same[path] = firsts[number]
            continue
        firsts[number] = path
        if len(path) > _MAX_PATH:
            continue
        start = f"{path}." if path else ""
        modules.slots += _slots(found, record, start)
        inner = [(f"{start}{key}", child) for key, child in record.modules.items() if child is not None]
        waiting += reversed(inner)
    return modules


def _kind(found: Architecture, record: ModuleRecord) -> str:
    name = found.names[record.of].path.rpartition(".")[2]
    return f"Parametrized{name}" if record.parametrized else name


def _slots(found: Architecture, record: ModuleRecord, start: str) -> Iterator[Slot]:
    for role, held in (("parameter", record.parameters), ("buffer", record.buffers)):
        for key, number in held.items():
            if number is not None:
                ref = found.tensors[number]
                name = f"{start}{key}"
                yield Slot(name, ref.name, ref.in_blob, role, ref.requires_grad, number, bool(ref.lazy))


def modules_of_state(state: State) -> Modules:
    """Return the modules of a whole model that was pickled; none for a state dict."""
    outermost = {path: first for path, first in state.same.items() if _parent(path) not in state.same}
    modules = Modules(same=outermost)
    for path, kind in state.classes.items():
        if not modules.is_again(path):
            modules.kinds[path] = kind.rpartition(".")[2]
    return modules


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
