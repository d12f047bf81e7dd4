"""Sizes of a trace, which are expressions of sympy, become plain data."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.utils._sympy.functions import FloorDiv, Max, Min, Mod, PythonMod

from perdure.errors import UnsupportedModelError
from perdure.records import graph as records
from perdure.records.graph import (
    Constraint,
    Symbol,
    symbols_in,
)


class SizesError(UnsupportedModelError):
    """The sizes of a trace are no data; one with fewer free axes may be."""


class Sizes:
    """Symbolic sizes of a trace, as the record has them."""

    def __init__(self, fakes: list[torch.Tensor], batch: list[int]) -> None:
        self.numbers: dict[sympy.Symbol, int] = {}
        self.environment: Any = None
        firsts = [fakes[number].shape[0] for number in batch]
        for size in firsts:  # the batch is one size, though the trace may not need that
            if isinstance(size, torch.SymInt) and isinstance(size.node.expr, sympy.Symbol):
                self.numbers[size.node.expr] = 0
        for fake in fakes:
            for size in fake.shape:
                if isinstance(size, torch.SymInt):
                    self.environment = size.node.shape_env
                    for symbol in sorted(size.node.expr.free_symbols, key=str):
                        self.numbers.setdefault(symbol, len(set(self.numbers.values())))

    def size(self, size: int | torch.SymInt) -> Any:
        """Return a size of a tensor as the record has it."""
        written = self.written(size)
        if written is None:
            raise SizesError(f"the size {size} of an input cannot be written down")
        return written

    def written(self, size: int | torch.SymInt) -> Any:
        """Return a size of a tensor as the record has it; None for one that it has no words for."""
        return self.write(size.node.expr) if isinstance(size, torch.SymInt) else int(size)

    def write(self, expression: Any) -> Any:
        """Return an expression as the record has it; None for one that it has no words for."""
        if isinstance(expression, sympy.Symbol):
            number = self.numbers.get(expression)
            return None if number is None else {"s": number}
        if isinstance(expression, sympy.Integer):
            return int(expression)
        if isinstance(expression, sympy.Pow) and isinstance(expression.args[1], sympy.Integer):
            base, exponent = expression.args
            return self._operation("mul", [base] * int(exponent)) if 1 <= int(exponent) <= 8 else None
        word = next((word for kind, word in _SYMPY.items() if isinstance(expression, kind)), None)
        return None if word is None else self._operation(word, list(expression.args))

    def _operation(self, word: str, parts: list[Any]) -> Any:
        written = [self.write(part) for part in parts]
        if any(part is None for part in written):
            return None
        if word in ("floordiv", "mod") and (type(written[1]) is not int or written[1] <= 0):
            return None
        return {word: written}

    def symbols(self, program: ExportedProgram) -> Iterator[Symbol]:
        """Yield the bounds of each symbol."""
        bounds: dict[int, tuple[int, int | None]] = {}
        for symbol, number in self.numbers.items():
            allowed = program.range_constraints.get(symbol)
            least, most = (2, None) if allowed is None else (_as_int(allowed.lower), _as_int(allowed.upper))
            before = bounds.get(number, (0, None))
            tops = [top for top in (most, before[1]) if top is not None]
            bounds[number] = (max(least or 0, before[0]), min(tops, default=None))
        for number in range(len(bounds)):
            yield Symbol(*bounds[number])

    def constraints(self) -> list[Constraint]:
        """Return the relations between sizes that the trace took for granted."""
        found: list[Constraint] = []
        if self.environment is None:
            return found
        for guard in self.environment.guards:
            expression = self.environment.replace(guard.expr)
            for part in expression.args if isinstance(expression, sympy.And) else (expression,):
                constraint = self._constraint(part)
                if constraint is not None and constraint not in found:
                    found.append(constraint)
        return found

    def _constraint(self, expression: Any) -> Constraint | None:
        entry = next((entry for kind, entry in _RELATIONS.items() if isinstance(expression, kind)), None)
        if entry is None:
            return None
        relation, swapped = entry
        left, right = (self.write(part) for part in expression.args)
        if left is None or right is None or not symbols_in(left) | symbols_in(right):
            return None
        return Constraint(relation, right, left) if swapped else Constraint(relation, left, right)


_SYMPY: dict[Any, str] = {
    sympy.Add: "add",
    sympy.Mul: "mul",
    FloorDiv: "floordiv",
    Mod: "mod",
    PythonMod: "mod",
    Min: "min",
    Max: "max",
    sympy.Min: "min",
    sympy.Max: "max",
}


_RELATIONS: dict[Any, tuple[Any, bool]] = {
    sympy.Eq: ("eq", False),
    sympy.Ne: ("ne", False),
    sympy.StrictLessThan: ("lt", False),
    sympy.LessThan: ("le", False),
    sympy.StrictGreaterThan: ("lt", True),
    sympy.GreaterThan: ("le", True),
}


_HOLDS: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
}


def _as_int(bound: Any) -> int | None:
    try:
        found = int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return found if found < records.MAX_INT // 2 else None
