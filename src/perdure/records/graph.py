"""A model's forward pass as data: operators by name, their arguments as plain values, tensors by name.

Nodes are numbered by their place, and arguments stand in the order of the operator's schema, those that it takes by
keyword too; what is missing at the end has its default. A plain value of JSON stands for itself: None, truth values,
numbers, text, lists. Everything else is an object with one key:

    v               the value of the node that stands so many places before this one
    i               an input: a leaf of the arguments, or an operand of a sub-graph
    t               an entry of the table of tensors
    g               a sub-graph
    dtype, layout, memory_format     as PyTorch writes them, less `torch.`
    device          "model" for where the model is, else a type of device
    float           a number that JSON has no word for: "inf", "-inf", "nan"
    complex         [real, imaginary], each as text

The nesting of inputs and outputs is a tree: `{"at": n}` a leaf, a list, `{"tuple": [...]}` (with `fields` where they
have names), `{"dict": [[key, tree], ...]}`. A size is a number, `{"s": n}` for a symbol, or an operation on sizes:
`{"add": [...]}`, `{"mul": [...]}`, `{"floordiv": [a, b]}`, `{"mod": [a, b]}`, `{"min": [...]}`, `{"max": [...]}`.
`docs/FORMAT.md` is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from perdure.errors import CorruptError, LimitError, ProtocolError
from perdure.records.module_calls import Calls, Modules, Scope, unpack_scopes

PROTOCOL = 1
KNOWN_FEATURES: frozenset[str] = frozenset({"scan"})
MAX_NODES = 200_000
MAX_DEPTH = 20
MAX_SUBGRAPH_DEPTH = 10
MAX_SUBGRAPHS = 10_000
MAX_VALUES = 4_000_000
MAX_OPERATORS = 5_000
MAX_TEXT = 1_000
MAX_SCHEMA = 4_000
MAX_RANK = 64
MAX_INT = 2**63
_MARKS = (b",", b"[", b"{")

Kind = Literal["parameter", "buffer", "volatile", "constant"]
References = dict[str, int]


class Operator(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """An operator: its name with namespace and overload, and its schema where it was traced. Functions have none."""

    name: str
    schema: str = ""


class TensorEntry(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A tensor that the graph reads: by its name in the state dict, or that of a buffer or a constant kept besides."""

    name: str
    kind: Kind = "parameter"


class Leaf(msgspec.Struct, frozen=True, omit_defaults=True):
    """A leaf of the arguments: a tensor, or where `dtype` is empty a plain value that a call must repeat.

    Attributes:
        dtype: the tensor's type, less `torch.`.
        shape: a size for each axis.
        value: the plain value, as an argument of a node would be.
    """

    dtype: str = ""
    shape: tuple[Any, ...] = ()
    value: Any = None


class Argument(msgspec.Struct, frozen=True, omit_defaults=True):
    """A parameter of the forward function.

    Attributes:
        name: its name; for what a `**kwargs` took in, the keyword.
        way: how it is given: in place or by keyword, only the one or the other, or as `*args`.
        given: the tree of the example's value; None where the example left it out.
        default: the value that a call may also give where the example left it out, as an argument of a node.
        has_default: there is such a value.
    """

    name: str
    way: Literal["either", "place", "keyword", "rest"] = "either"
    given: Any = None
    default: Any = None
    has_default: bool = False


class Symbol(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A size that a call is free to choose, within bounds."""

    min: int = 1
    max: int | None = None


class Constraint(msgspec.Struct, frozen=True, array_like=True):
    """A relation between sizes that must hold on a call."""

    relation: Literal["eq", "ne", "lt", "le"]
    left: Any
    right: Any


class Subgraph(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an operator of higher order. It reads its operands and the table of tensors, nothing else."""

    n_inputs: int
    nodes: tuple[tuple[Any, ...], ...] = ()
    outputs: tuple[Any, ...] = ()
    single: bool = False


class Graph(msgspec.Struct, frozen=True, omit_defaults=True):
    """All of it. A node is its operator's number followed by its arguments.

    Attributes:
        outputs: the leaves of what the model gives, as arguments of a node that stands after the last one.
        tree: how they are nested.
        dtype: the floating type that the model computes in, where it has one.
        subgraphs: each uses only those before it.
        modules: the path and the class of each module that was called; empty where the trace did not tell.
        calls: their calls, each followed by those that were made in it.
    """

    protocol: int = PROTOCOL
    features: tuple[str, ...] = ()
    operators: tuple[Operator, ...] = ()
    tensors: tuple[TensorEntry, ...] = ()
    arguments: tuple[Argument, ...] = ()
    leaves: tuple[Leaf, ...] = ()
    symbols: tuple[Symbol, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    nodes: tuple[tuple[Any, ...], ...] = ()
    outputs: tuple[Any, ...] = ()
    tree: Any = None
    dtype: str = ""
    subgraphs: tuple[Subgraph, ...] = ()
    modules: Modules = ()
    calls: Calls = ()

    def scopes(self) -> list[Scope]:
        """Return the calls of modules in full; none where the trace did not tell."""
        return unpack_scopes(self.modules, self.calls, len(self.nodes))


class _Head(msgspec.Struct):
    protocol: int = PROTOCOL
    features: tuple[str, ...] = ()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Graph)
_head_decoder = msgspec.json.Decoder(_Head)


def encode(graph: Graph) -> bytes:
    """Return the graph as JSON."""
    return _encoder.encode(graph)


def decode(content: bytes, where: str) -> Graph:
    """Read a graph and check all of it that can be checked without PyTorch; `where` names the file in messages.

    Raises:
        ProtocolError: a later protocol, or a feature that this perdure does not know.
        LimitError: more of something than any model has.
        CorruptError: it is no graph, or its parts do not fit together.
    """
    if sum(content.count(mark) for mark in _MARKS) > MAX_VALUES:
        raise LimitError(f"reading {where}: its graph holds more than {MAX_VALUES} values.")
    try:
        _check_head(_head_decoder.decode(content), where)
        graph = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"reading {where}: its graph cannot be read ({str(error)[:200]}).") from None
    check(graph, where)
    return graph


def _check_head(head: _Head, where: str) -> None:
    unknown = sorted(set(head.features) - KNOWN_FEATURES)
    if head.protocol != PROTOCOL or unknown:
        found = f"the feature {unknown[0][:40]!r}" if unknown else f"protocol {head.protocol}"
        raise ProtocolError(
            f"reading {where}: its graph has {found}, which this perdure does not know (it reads protocol {PROTOCOL}). "
            f"Upgrade perdure, or load the model by its classes with trusted=[…]."
        )


def check(graph: Graph, where: str) -> None:
    """See that every reference is to something that is there and stands before, and that nothing is beyond measure.

    Raises:
        LimitError, CorruptError: as `decode`.
    """
    _Checker(graph, where).check()


class _Checker:
    """Checks one graph."""

    def __init__(self, graph: Graph, where: str) -> None:
        self.graph = graph
        self.where = where

    def check(self) -> None:
        self._check_counts()
        self._check_tables()
        self._check_sizes()
        self._check_inputs()
        depths: list[int] = []
        for subgraph in self.graph.subgraphs:
            bounds = {"i": subgraph.n_inputs, "t": len(self.graph.tensors), "g": len(depths)}
            used = self._check_nodes(subgraph.nodes, subgraph.outputs, bounds)
            depths.append(1 + max((depths[number] for number in used), default=0))
        if max(depths, default=0) > MAX_SUBGRAPH_DEPTH:
            raise self._limit(f"its sub-graphs are nested deeper than {MAX_SUBGRAPH_DEPTH} levels")
        bounds = {"i": len(self.graph.leaves), "t": len(self.graph.tensors), "g": len(depths)}
        self._check_nodes(self.graph.nodes, self.graph.outputs, bounds)
        self._check_scopes()
        self._check_tree(self.graph.tree, len(self.graph.outputs), "outputs")

    def _corrupt(self, text: str) -> CorruptError:
        return CorruptError(f"reading {self.where}: {text}.")

    def _limit(self, text: str) -> LimitError:
        return LimitError(f"reading {self.where}: {text}.")

    def _check_counts(self) -> None:
        graph = self.graph
        n_nodes = len(graph.nodes) + sum(len(subgraph.nodes) for subgraph in graph.subgraphs)
        for found, allowed, what in (
            (n_nodes, MAX_NODES, "nodes"),
            (len(graph.operators), MAX_OPERATORS, "operators"),
            (max(len(graph.tensors), len(graph.leaves), len(graph.outputs)), MAX_NODES, "tensors"),
            (max(len(graph.symbols), len(graph.constraints)), MAX_SUBGRAPHS, "sizes"),
            (len(graph.subgraphs), MAX_SUBGRAPHS, "sub-graphs"),
        ):
            if found > allowed:
                raise self._limit(f"its graph has {found} {what}; the limit is {allowed}")

    def _check_tables(self) -> None:
        for operator in self.graph.operators:
            if len(operator.name) > MAX_TEXT or len(operator.schema) > MAX_SCHEMA:
                raise self._limit("the name or schema of an operator in its graph is too long")
        names = [entry.name for entry in self.graph.tensors]
        if len(set(names)) != len(names):
            raise self._corrupt("its graph lists a tensor twice")

    def _check_sizes(self) -> None:
        for symbol in self.graph.symbols:
            top = MAX_INT if symbol.max is None else symbol.max
            if not 0 <= symbol.min <= top <= MAX_INT:
                raise self._corrupt(f"its graph has a size between {symbol.min} and {symbol.max}")
        for constraint in self.graph.constraints:
            self._check_size(constraint.left)
            self._check_size(constraint.right)
        for leaf in self.graph.leaves:
            self._check_shape(leaf.shape, "an input")

    def _check_shape(self, shape: tuple[Any, ...], what: str) -> None:
        if len(shape) > MAX_RANK:
            raise self._limit(f"its graph has {what} of {len(shape)} axes; the limit is {MAX_RANK}")
        for size in shape:
            self._check_size(size)
            if type(size) is int and size < 0:
                raise self._corrupt(f"its graph has {what} with an axis of size {size}")

    def _check_size(self, size: Any, depth: int = 0) -> None:
        if depth > MAX_DEPTH:
            raise self._limit("a size in its graph is nested too deeply")
        if type(size) is int and -MAX_INT < size < MAX_INT:
            return
        operation, content = _only_item(size)
        if operation == "s" and type(content) is int and 0 <= content < len(self.graph.symbols):
            return
        if operation not in OPERATIONS or type(content) is not list or not 1 <= len(content) <= MAX_RANK:
            raise self._corrupt(f"its graph has the size {str(size)[:60]!r}, which is none")
        if operation in ("floordiv", "mod") and (len(content) != 2 or type(content[1]) is not int or content[1] <= 0):
            raise self._corrupt("a size in its graph is divided by what is no positive number")
        for part in content:
            self._check_size(part, depth + 1)

    def _check_inputs(self) -> None:
        names = [argument.name for argument in self.graph.arguments]
        if len(set(names)) != len(names):
            raise self._corrupt("its graph has two arguments of one name")
        given = [argument.given for argument in self.graph.arguments if argument.given is not None]
        self._check_tree({"tuple": given}, len(self.graph.leaves), "inputs")
        for value in (*(leaf.value for leaf in self.graph.leaves), *(a.default for a in self.graph.arguments)):
            self._check_value(value, {}, 0, 0, set())

    def _check_nodes(self, nodes: tuple[Any, ...], outputs: tuple[Any, ...], bounds: References) -> set[int]:
        """Check nodes and outputs; returns the sub-graphs that they use."""
        used: set[int] = set()
        n_operators = len(self.graph.operators)
        for place, node in enumerate(nodes):
            if not node or type(node[0]) is not int or not 0 <= node[0] < n_operators:
                raise self._corrupt(f"node {place} of its graph names no operator of its table")
            for value in node[1:]:
                if type(value) is not int or not -MAX_INT < value < MAX_INT:
                    self._check_value(value, bounds, place, 0, used)
        for value in outputs:
            self._check_value(value, bounds, len(nodes), 0, used)
        return used

    def _check_scopes(self) -> None:
        try:
            scopes = self.graph.scopes()
        except ValueError as error:
            raise self._corrupt(f"its graph {error}") from None
        except OverflowError as error:
            raise self._limit(f"its graph {error}") from None
        for scope in scopes:
            for shape in (*scope.inputs, *scope.outputs):
                self._check_shape(shape, "a tensor in a call of a module")

    def _check_value(self, value: Any, bounds: References, place: int, depth: int, used: set[int]) -> None:
        kind = type(value)
        if kind is list:
            if depth >= MAX_DEPTH:
                raise self._limit(f"node {place} of its graph has lists nested deeper than {MAX_DEPTH} levels")
            for item in value:
                self._check_value(item, bounds, place, depth + 1, used)
        elif kind is dict:
            tag, content = _only_item(value)
            if tag == "v":
                sound = type(content) is int and 1 <= content <= place and "i" in bounds
            elif tag in ("i", "t", "g"):
                sound = type(content) is int and 0 <= content < bounds.get(tag, 0)
                if tag == "g" and sound:
                    used.add(content)
            else:
                sound = tag in _TAGS and _TAGS[tag](content)
            if not sound:
                raise self._corrupt(
                    f"node {place} of its graph has the argument {str(value)[:60]}, which refers to nothing before it"
                )
        elif kind is int and not -MAX_INT <= value < MAX_INT:
            raise self._limit(f"node {place} of its graph has a number beyond 64 bits")
        elif kind is str and len(value) > MAX_TEXT:
            raise self._limit(f"node {place} of its graph has a text of {len(value)} letters")

    def _check_tree(self, tree: Any, n_leaves: int, what: str) -> None:
        """See that a tree has each leaf once and is not too deep."""
        try:
            found = list(leaves_of(tree))
        except ValueError as error:
            raise self._corrupt(f"the {what} of its graph: {error}") from None
        if found != list(range(n_leaves)):
            raise self._corrupt(f"the {what} of its graph do not have each of {n_leaves} leaves once and in order")


def leaves_of(tree: Any, depth: int = 0) -> Iterator[int]:
    """Yield the numbers of a tree's leaves, in order.

    Raises:
        ValueError: it is no tree.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if type(tree) is list:
        for item in tree:
            yield from leaves_of(item, depth + 1)
        return
    if type(tree) is not dict:
        raise ValueError(f"{str(tree)[:60]!r} is no tree")
    if set(tree) == {"at"} and type(tree["at"]) is int:
        yield tree["at"]
    elif type(tree.get("tuple")) is list and set(tree) <= {"tuple", "fields"}:
        _check_fields(tree.get("fields"), len(tree["tuple"]))
        for item in tree["tuple"]:
            yield from leaves_of(item, depth + 1)
    elif set(tree) == {"dict"} and type(tree["dict"]) is list:
        for pair in tree["dict"]:
            if type(pair) is not list or len(pair) != 2 or type(pair[0]) not in (str, int, bool, type(None)):
                raise ValueError("a dict is not made of keys and trees")
            yield from leaves_of(pair[1], depth + 1)
        if len({(type(key), key) for key, _ in tree["dict"]}) != len(tree["dict"]):
            raise ValueError("a dict has a key twice")
    else:
        raise ValueError(f"{str(tree)[:60]!r} is no tree")


def _check_fields(fields: Any, n_items: int) -> None:
    if fields is None:
        return
    if type(fields) is not list or len(fields) != n_items or not all(type(field) is str for field in fields):
        raise ValueError("a tuple does not have a name for each field")


def _only_item(value: Any) -> tuple[Any, Any]:
    """Return key and content of an object with one key; anything else has the key None."""
    if type(value) is not dict or len(value) != 1:
        return None, None
    return next(iter(value.items()))


def _is_short_text(content: Any) -> bool:
    return type(content) is str and len(content) <= 40


def _is_complex(content: Any) -> bool:
    return type(content) is list and len(content) == 2 and all(_is_short_text(part) for part in content)


_TAGS: dict[str, Callable[[Any], bool]] = {
    "dtype": _is_short_text,
    "layout": _is_short_text,
    "memory_format": _is_short_text,
    "device": _is_short_text,
    "float": lambda content: content in ("inf", "-inf", "nan"),
    "complex": _is_complex,
}


def _product(parts: list[Any]) -> Any:
    found = parts[0]
    for part in parts[1:]:
        found = found * part
    return found


def _least(parts: list[Any]) -> Any:
    return min(parts)


def _greatest(parts: list[Any]) -> Any:
    return max(parts)


OPERATIONS: dict[str, Callable[[list[Any]], Any]] = {
    "add": sum,
    "mul": _product,
    "floordiv": lambda parts: parts[0] // parts[1],
    "mod": lambda parts: parts[0] % parts[1],
    "min": _least,
    "max": _greatest,
}
"""What may be done with sizes."""


def size_of(size: Any, symbols: list[Any]) -> Any:
    """Return a size, given the value of each symbol."""
    if type(size) is int:
        return size
    operation, content = next(iter(size.items()))
    if operation == "s":
        return symbols[content]
    return OPERATIONS[operation]([size_of(part, symbols) for part in content])


def symbols_in(size: Any) -> set[int]:
    """Return the numbers of the symbols that a size depends on."""
    if type(size) is int:
        return set()
    operation, content = next(iter(size.items()))
    if operation == "s":
        return {content}
    return set().union(*(symbols_in(part) for part in content))
