"""A call of a graph: its arguments checked and taken apart, and what it gives put together."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from perdure.errors import CorruptError, InputError
from perdure.models.graph_kinds import is_reference
from perdure.models.operators import (
    constant,
    dtype_named,
)
from perdure.models.structure import collect, leaf_places, unflatten
from perdure.records.graph import Argument, Graph, size_of, symbols_in


class Inputs(nn.Module):
    """Binds what a call gives to the parameters of the forward function, and checks it."""

    def __init__(self, graph: Graph, where: str) -> None:
        super().__init__()
        self.arguments = [_Parameter(argument) for argument in graph.arguments]
        self.places = [argument.name for argument in graph.arguments if argument.way in ("either", "place")]
        self.names = {argument.name for argument in graph.arguments if argument.way in ("either", "keyword")}
        self.rest = next((argument.name for argument in graph.arguments if argument.way == "rest"), None)
        given = [argument for argument in graph.arguments if argument.given is not None]
        self.rest_given = any(argument.way == "rest" for argument in given)
        self.leaf_names = [place for argument in given for place in leaf_places(argument.given, argument.name)]
        self.leaves = [_Expected.of(leaf) for leaf in graph.leaves]
        self.solutions = _solutions(graph, where)
        self.bounds = [(symbol.min, symbol.max) for symbol in graph.symbols]
        self.relations = [(item.relation, item.left, item.right) for item in graph.constraints]

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        values = self._bind(args, kwargs)
        leaves: list[Any] = []
        for argument in self.arguments:
            argument.take(values, leaves, self.leaves)
        for number, expected in enumerate(self.leaves):
            expected.check(leaves[number], self.leaf_names[number])
        if self.bounds:
            self._check_sizes(leaves)
        return leaves

    def sizes(self, leaves: list[Any]) -> list[int]:
        """Return the value of each symbol in a call with these leaves."""
        shapes = [(leaves[leaf].shape[axis], factor, offset) for leaf, axis, factor, offset in self.solutions]
        return [size if factor == 1 and offset == 0 else (size - offset) // factor for size, factor, offset in shapes]

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        n_places = len(self.places)
        if not isinstance(kwargs, dict):
            kwargs = self._of_interpreter(args)
        if len(args) > n_places and self.rest is None:
            raise InputError(f"running the graph: it takes {n_places} arguments in place, and {len(args)} were given.")
        values = dict(zip(self.places, args, strict=False))
        if self.rest is not None and (args[n_places:] or self.rest_given):
            values[self.rest] = args[n_places:]
        for name, value in kwargs.items():
            if name in values or name not in self.names:
                said = "was given twice" if name in values else "is no argument of the graph"
                raise InputError(f"running the graph: {name!r} {said}. It takes {', '.join(sorted(self.names))}.")
            values[name] = value
        return values

    def _of_interpreter(self, args: Sequence[Any]) -> dict[str, Any]:
        """Refuse arguments of `torch.fx.Interpreter`, by which export runs graphs, where their names are lost."""
        if len(args) > 1:
            raise InputError(
                "running the graph: torch.export and torch.fx.Interpreter drop the names of several arguments. Wrap the "
                "model in a module of your own whose forward function calls it, and export that."
            )
        return {}

    def _check_sizes(self, leaves: list[Any]) -> None:
        sizes = self.sizes(leaves)
        for found, (least, most), (leaf, axis, factor, offset) in zip(sizes, self.bounds, self.solutions, strict=True):
            if found < least or (most is not None and found > most):
                size = leaves[leaf].shape[axis]
                raise self._size_error(leaf, axis, size, _range(least, most, factor, offset))
        for number, expected in enumerate(self.leaves):
            for axis, size in expected.free:
                wanted = size_of(size, sizes)
                if leaves[number].shape[axis] != wanted:
                    raise self._size_error(number, axis, leaves[number].shape[axis], f"{wanted}")
        for relation, left, right in self.relations:
            if not _RELATIONS[relation](size_of(left, sizes), size_of(right, sizes)):
                raise InputError(f"running the graph: {self._describe(relation, left, right)}")

    def _size_error(self, leaf: int, axis: int, found: Any, expected: str) -> InputError:
        return InputError(
            f"running the graph: axis {axis} of {self.leaf_names[leaf]} must be {expected}; it is {found}. The model was "
            f"traced so; save it with an example of that size, or with dynamic= for that axis, to free it."
        )

    def _describe(self, relation: str, left: Any, right: Any) -> str:
        names = [f"axis {axis} of {self.leaf_names[leaf]}" for leaf, axis, _, _ in self.solutions]
        return (
            f"the sizes do not fit: {_shown(left, names)} must be {_WORDS[relation]} {_shown(right, names)}. The model was "
            f"traced so; save it with an example of those sizes."
        )

    def expect_dtype(self, old: torch.dtype, new: torch.dtype) -> None:
        """Expect another floating type where the model's own was expected."""
        for leaf in self.leaves:
            if leaf.dtype is old:
                leaf.dtype = new


_RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
}


_WORDS = {"eq": "equal to", "ne": "other than", "lt": "less than", "le": "at most"}


_SIGNS = {"add": " + ", "mul": " × ", "floordiv": " // ", "mod": " % ", "min": " min ", "max": " max "}


def _shown(size: Any, names: list[str]) -> str:
    if type(size) is int:
        return str(size)
    sign, content = next(iter(size.items()))
    return names[content] if sign == "s" else f"({_SIGNS[sign].join(_shown(part, names) for part in content)})"


def _range(least: int, most: int | None, factor: int, offset: int) -> str:
    low = least * factor + offset
    step = f" in steps of {factor}" if factor != 1 else ""
    return f"at least {low}{step}" if most is None else f"from {low} to {most * factor + offset}{step}"


def _solutions(graph: Graph, where: str) -> list[tuple[int, int, int, int]]:
    """Return for each symbol the leaf and axis that tell it: that axis is `factor` times the symbol plus `offset`."""
    found: dict[int, tuple[int, int, int, int]] = {}
    for leaf, expected in enumerate(graph.leaves):
        for axis, size in enumerate(expected.shape):
            symbols = symbols_in(size)
            if len(symbols) != 1:
                continue
            (symbol,) = symbols
            values = [size_of(size, [at] * (symbol + 1)) for at in (0, 1, 2, 1_000_003)]
            factor, offset = values[1] - values[0], values[0]
            is_line = values[2] == 2 * factor + offset and values[3] == 1_000_003 * factor + offset
            simpler = symbol not in found or (factor, offset) == (1, 0) != found[symbol][2:]
            if is_line and factor > 0 and simpler:
                found[symbol] = (leaf, axis, factor, offset)
    if len(found) != len(graph.symbols):
        raise CorruptError(f"reading {where}: a size in its graph is told by no axis of its inputs.")
    return [found[symbol] for symbol in range(len(graph.symbols))]


class _Parameter:
    """A parameter of the forward function, and what a call may give for it."""

    def __init__(self, argument: Argument) -> None:
        self.name = argument.name
        self.tree = argument.given
        self.default = constant(argument.default)
        self.has_default = argument.has_default

    def take(self, values: dict[str, Any], leaves: list[Any], expected: list[_Expected]) -> None:
        """Append the leaves of what was given for it."""
        if self.tree is None:
            if self.name in values and not (self.has_default and _same(values[self.name], self.default)):
                raise InputError(
                    f"running the graph: {self.name!r} was left out of the example that the graph was traced with, so it "
                    f"cannot be given. Save the model with an example that has it, or load it by its classes."
                )
        elif self.name in values:
            collect(values[self.name], self.tree, self.name, leaves)
        elif self.has_default and type(self.tree) is dict and "at" in self.tree and expected[len(leaves)].dtype is None:
            leaves.append(self.default)
        else:
            raise InputError(f"running the graph: the argument {self.name!r} is missing.")


def _same(one: Any, other: Any) -> bool:
    """Tell whether two plain values are the same."""
    return one is other or (type(one) is type(other) and not isinstance(one, torch.Tensor) and bool(one == other))


class _Expected:
    """A leaf of the arguments: what a call must give."""

    dtype: torch.dtype | None
    rank: int
    fixed: list[tuple[int, int]]
    free: list[tuple[int, Any]]
    value: Any

    @classmethod
    def of(cls, leaf: Any) -> _Expected:
        """Return what a leaf of the record says."""
        made = cls()
        made.dtype = dtype_named(leaf.dtype)
        made.rank = len(leaf.shape)
        made.fixed = [(axis, size) for axis, size in enumerate(leaf.shape) if type(size) is int]
        made.free = [(axis, size) for axis, size in enumerate(leaf.shape) if type(size) is not int]
        made.value = constant(leaf.value)
        return made

    def check(self, given: Any, name: str) -> None:
        """Raise an InputError where something else was given."""
        if self.dtype is None:
            if not _same(given, self.value):
                raise InputError(
                    f"running the graph: {name} was {self.value!r} in the trace, and is fixed so; found "
                    f"{str(given)[:60]}. Save the model with an example that has this value."
                )
            return
        if not isinstance(given, torch.Tensor):
            raise InputError(f"running the graph: {name} must be a tensor, not {type(given).__name__}.")
        if given.dtype is not self.dtype:
            raise InputError(f"running the graph: {name} must be {self.dtype}, not {given.dtype}. Cast it with .to().")
        shape = given.shape
        if len(shape) != self.rank:
            raise InputError(f"running the graph: {name} must have {self.rank} axes; its shape is {tuple(shape)}.")
        for axis, size in self.fixed:
            if shape[axis] != size:
                raise InputError(
                    f"running the graph: axis {axis} of {name} must be {size}; it is {shape[axis]}. The model was traced "
                    f"so; save it with dynamic= for that axis, to free it."
                )


class Outputs(nn.Module):
    """Hangs what a graph gives into the tree that the model gave, together with its plain values."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.tree = graph.tree
        self.constants = [(n, constant(value)) for n, value in enumerate(graph.outputs) if not is_reference(value)]

    def forward(self, found: list[Any]) -> Any:
        leaves = list(found)
        for number, value in self.constants:
            leaves[number] = value
        return unflatten(self.tree, leaves)
