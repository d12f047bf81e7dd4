"""The architecture of a model: its tree of modules as data, from which it is rebuilt without calling a constructor.

Everything that is named (a class, a function) stands once in `names`, and everything else refers to it by number: what a
file would need is known before anything is looked up. Attributes are in the vocabulary of `records.values`, with these
tags besides, whose content is a number unless it says otherwise:

    module, tensor, object, container    an entry of the tables here
    class, function            an entry of `names`
    partial                    [function, positional arguments, keyword arguments]
    method                     [a module or object, an entry of `names`: the function that is bound to it]
    defaultdict                [what makes its values: a class, a function or None, pairs of keys and values]
    enum, flags                [a class, the member's name or the number]
    namedtuple                 [a class, its items]
    handle                     [the module, the attribute that holds its hooks, the hook's id]: what removes a hook
    hook                       [a value, the module that it gets or None]: a hook as PyTorch wraps it
    weak                       a module or object, referred to weakly
    logger                     the name of a logger
    scalar, ndarray            of NumPy, as in `weights.arrays`; the array's content is a tensor
    generator                  [its device, a tensor with its state]
    device                     as PyTorch writes it, or `model`: wherever the model is
    size, dtype, layout, memory format    as PyTorch writes them
"""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.errors import CorruptError, LimitError
from perdure.records.torch_names import DATA, FUNCTIONS, METHODS, MODULES

MAX_MODULES = 200_000
MAX_DEPTH = 200
MAX_PATHS = 1_000_000
"""Ways from the model to a module, counted over all modules: what PyTorch walks when it sets the mode of a model."""


LISTED = frozenset(("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"))
"""What a module's record lists by itself, so that its attributes may not."""


NOT_KEPT = frozenset(("_compiled_call_impl", "__orig_class__"))
"""What a module may have and no file keeps: the code that it was compiled to, and the type hint that it was made by."""


class Name(msgspec.Struct, frozen=True, omit_defaults=True):
    """A class or a function of some code: where it was found when the model was saved.

    Attributes:
        module: the Python module.
        path: the name within the module, with dots for what is nested.
        function: it is a function; else a class.
        registered: the name that `register` gave the class; it counts before the place.
        version: the version that `register` gave it.
    """

    module: str
    path: str
    function: bool = False
    registered: str = ""
    version: int = 0

    @property
    def is_torchs(self) -> bool:
        """It stands in the explicit lists of what PyTorch itself brings."""
        tables = (FUNCTIONS, METHODS) if self.function else (MODULES, DATA)
        return any(self.path in table.get(self.module, ()) for table in tables)

    @property
    def dotted(self) -> str:
        return f"{self.module}.{self.path}"

    def __str__(self) -> str:
        return self.registered or self.dotted


class TensorRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor of the model, by its name in the file.

    Attributes:
        name: of a tensor of the file, or of its blob of buffers.
        in_blob: it is in that blob.
        parameter: it is a Parameter.
        requires_grad: it gets gradients.
        lazy: it has no shape yet: the type of what a lazy module has not initialised.
        on_cpu: it stays on the CPU wherever the model is: it was there when the model was elsewhere, or is NumPy's.
        attributes: what was set on the tensor itself, as values.
    """

    name: str
    in_blob: bool = False
    parameter: bool = False
    requires_grad: bool = False
    lazy: str = ""
    on_cpu: bool = False
    attributes: dict[str, Any] = {}


class ModuleRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One module. What it holds is listed in the order in which it holds it; None where it holds None."""

    of: int
    attributes: dict[str, Any] = {}
    parameters: dict[str, int | None] = {}
    buffers: dict[str, int | None] = {}
    volatile: tuple[str, ...] = ()
    modules: dict[str, int | None] = {}
    training: bool = False
    parametrized: bool = False


class ObjectRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A plain object that is no module: its class, its state, and its items where its class is a container."""

    of: int
    state: Any = None
    items: Any = None


class ContainerRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A list, dict or set that hangs at several places: the name of its type, and the whole of it."""

    kind: str
    of: Any = None


class Architecture(msgspec.Struct, frozen=True, omit_defaults=True):
    """All of it. The first module is the model.

    Attributes:
        obstacles: what could not be written, and where it stands; with any, the model cannot be rebuilt from this.
        left_out: what could not be written and is not needed for an answer: hooks of state dicts and of gradients.
    """

    names: tuple[Name, ...] = ()
    modules: tuple[ModuleRecord, ...] = ()
    objects: tuple[ObjectRecord, ...] = ()
    containers: tuple[ContainerRecord, ...] = ()
    tensors: tuple[TensorRef, ...] = ()
    obstacles: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Architecture)


def encode(architecture: Architecture) -> bytes:
    """Return the architecture as JSON."""
    return _encoder.encode(architecture)


def decode(content: bytes, where: str) -> Architecture:
    """Read an architecture and check that it is one; `where` names the file in messages.

    Raises:
        CorruptError: it is none, or its tables do not fit together.
        LimitError: more modules than any model has.
    """
    try:
        found = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"reading {where}: its architecture cannot be read ({str(error)[:200]}).") from None
    if max(map(len, (found.modules, found.objects, found.containers, found.tensors, found.names))) > MAX_MODULES:
        raise LimitError(f"reading {where}: its architecture has more than {MAX_MODULES} entries.")
    check(found, where)
    return found


def check(architecture: Architecture, where: str) -> None:
    """See that the tables of an architecture fit together, and that no module holds itself.

    Raises:
        CorruptError: they do not, or one does.
        LimitError: its modules are nested deeper, or shared in more ways, than those of any model.
    """
    _check_tables(architecture, where)
    if architecture.modules:
        _check_tree(architecture, where)


def _check_tables(architecture: Architecture, where: str) -> None:
    for name in architecture.names:
        parts = [*name.module.split("."), *name.path.split(".")]
        sound = all(part.isidentifier() or part == "<locals>" for part in parts) and name.registered.isprintable()
        if not sound or (name.registered and name.function):
            raise CorruptError(f"reading {where}: its architecture has a name that is none of Python's.")
    n_names, n_tensors, n_modules = len(architecture.names), len(architecture.tensors), len(architecture.modules)
    if not n_modules and not architecture.obstacles:
        raise CorruptError(f"reading {where}: its architecture has no modules.")
    for record in (*architecture.modules, *architecture.objects):
        if not 0 <= record.of < n_names or architecture.names[record.of].function:
            raise CorruptError(f"reading {where}: its architecture refers to class {record.of}, which is not there.")
    for module in architecture.modules:
        held = [*module.parameters.values(), *module.buffers.values()]
        if not all(number is None or 0 <= number < n_tensors for number in held):
            raise CorruptError(f"reading {where}: its architecture refers to a tensor that is not there.")
        if not all(number is None or 0 <= number < n_modules for number in module.modules.values()):
            raise CorruptError(f"reading {where}: its architecture refers to a module that is not there.")


def _check_tree(architecture: Architecture, where: str) -> None:
    """See that no module holds itself, and that they are not nested beyond all measure."""
    n_paths: dict[int, int] = {}
    path: list[tuple[int, list[int]]] = [(0, _children(architecture, 0))]
    on_path = {0}
    while path:
        number, waiting = path[-1]
        if not waiting:
            path.pop()
            on_path.discard(number)
            n_paths[number] = 1 + sum(n_paths[child] for child in _children(architecture, number))
            if n_paths[number] > MAX_PATHS:
                raise LimitError(f"reading {where}: there are more than {MAX_PATHS} ways through its shared modules.")
            continue
        child = waiting.pop()
        if child in on_path:
            raise CorruptError(f"reading {where}: module {child} of its architecture holds itself.")
        if child not in n_paths:
            if len(path) >= MAX_DEPTH:
                raise LimitError(f"reading {where}: its modules are nested deeper than {MAX_DEPTH} levels.")
            path.append((child, _children(architecture, child)))
            on_path.add(child)


def _children(architecture: Architecture, number: int) -> list[int]:
    return [child for child in architecture.modules[number].modules.values() if child is not None]
