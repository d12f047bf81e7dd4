"""A graph is tried against its model before it is believed: at other sizes, and where the trace assumed something."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from perdure.errors import PerdureError, UnsupportedModelError
from perdure.models.execution import build
from perdure.models.structure import flatten
from perdure.models.traced_calls import first_lines
from perdure.models.traced_nodes import Writer
from perdure.models.traced_sizes import _HOLDS
from perdure.records import graph as records
from perdure.records.graph import (
    Constraint,
    Graph,
    Symbol,
    size_of,
    symbols_in,
)

if TYPE_CHECKING:
    from perdure.models.tracing import Tracer


_MAX_TRIALS = 8
_LARGEST_BOUND = 6
"""Lower bounds above this are believed."""


class _ModelError(Exception):
    """The model itself fails at some sizes."""


class Trial:
    """Runs the graph against the model."""

    def __init__(self, tracer: Tracer, graph: Graph, writer: Writer) -> None:
        self._tracer = tracer
        self._graph = graph
        self._shapes = [leaf.shape for leaf in graph.leaves if leaf.dtype]
        model = tracer.model
        tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
        tensors.update(model.named_buffers(remove_duplicate=False))
        tensors.update(writer.constants)
        lenient = msgspec.structs.replace(graph, symbols=tuple(Symbol(0, None) for _ in graph.symbols), constraints=())
        content = records.encode(lenient)
        try:
            self._module = build(records.decode(content, "the traced graph"), tensors, where="the traced graph")
        except PerdureError as error:
            raise UnsupportedModelError(
                f"tracing {type(model).__name__}: the graph cannot be written: {error}"
            ) from error
        self.notes: list[str] = []
        self.base = self._solve()
        self._known: dict[tuple[int, ...], bool] = {}

    def _solve(self) -> list[int]:
        """Return the value that each symbol has in the example."""
        inputs: Any = self._module.get_submodule("perdure_inputs")
        sizes: list[int] = []
        for leaf, axis, factor, offset in inputs.solutions:
            number = sum(1 for item in self._graph.leaves[:leaf] if item.dtype)
            sizes.append((self._tracer.tensors[number].shape[axis] - offset) // factor)
        return sizes

    def other_sizes(self) -> list[int]:
        """Return a value for each symbol that is not the example's, within its bounds where they allow it."""
        found: list[int] = []
        for size, symbol in zip(self.base, self._graph.symbols, strict=True):
            most = symbol.max if symbol.max is not None else size + 1
            choices = [size + 1, size - 1] if size < 3 else [size - 1, size + 1]
            found.append(next((choice for choice in choices if max(symbol.min, 2) <= choice <= most), size))
        return found if self.allows(found, self._graph.constraints) else self._near(found)

    def _near(self, wanted: list[int]) -> list[int]:
        """Return the other sizes that the constraints allow, one symbol at a time or by doubling."""
        for number, size in enumerate(wanted):
            for choice in (size, 2 * self.base[number], 3 * self.base[number]):
                sizes = [*self.base[:number], choice, *self.base[number + 1 :]]
                if choice != self.base[number] and self.allows(sizes, self._graph.constraints):
                    return sizes
        return self.base

    def allows(self, sizes: list[int], constraints: Sequence[Constraint]) -> bool:
        """Tell whether sizes are within bounds and meet constraints."""
        for size, symbol in zip(sizes, self._graph.symbols, strict=True):
            if size < 1 or (symbol.max is not None and size > symbol.max):
                return False
        return all(_HOLDS[c.relation](size_of(c.left, sizes), size_of(c.right, sizes)) for c in constraints)

    def reason(self) -> str:
        """Return why the graph is not the model's, as far as a few sizes tell; nothing where it is."""
        other = self.other_sizes()
        for sizes in (self.base, *([other] if other != self.base else [])):
            try:
                found = self._compare(sizes)
            except _ModelError as error:
                self.notes.append(f"the graph was not compared at another size, which the model did not take: {error}")
                continue
            if found:
                said = "the example's sizes" if sizes == self.base else "other sizes than the example's"
                return f"at {said} the graph does other than the model: {found}"
        return ""

    def settled(self) -> Graph:
        """Return the graph with those assumptions on sizes alone that make a difference."""
        symbols = [Symbol(self._least(n, symbol.min), symbol.max) for n, symbol in enumerate(self._graph.symbols)]
        kept = [constraint for constraint in self._graph.constraints if not self.is_needless(constraint, symbols)]
        return msgspec.structs.replace(self._graph, symbols=tuple(symbols), constraints=tuple(kept))

    def _least(self, number: int, least: int) -> int:
        """Return the lower bound of a symbol: the trace's, or below it the last size at which graph and model agree."""
        at = list(self.base)
        while 1 < least <= _LARGEST_BOUND:
            at[number] = least - 1
            if not self.agrees(at):
                break
            least -= 1
        return least

    def agrees(self, sizes: list[int]) -> bool:
        """Tell whether graph and model agree at other sizes; they do not where the model does not take them."""
        key = tuple(sizes)
        if key not in self._known:
            if len(self._known) >= _MAX_TRIALS + len(self._graph.symbols):
                return False
            try:
                self._known[key] = not self._compare(sizes)
            except _ModelError:
                self._known[key] = False
        return self._known[key]

    def is_needless(self, constraint: Constraint, symbols: list[Symbol]) -> bool:
        """Tell whether a constraint follows from the bounds, or makes no difference where it does not hold."""
        involved = sorted(symbols_in(constraint.left) | symbols_in(constraint.right))
        if constraint.relation != "ne":
            number = involved[0]
            single = len(involved) == 1
            return single and (self._is_bound(constraint, number) or self._follows(constraint, number, symbols[number]))
        others = [other for other in self._graph.constraints if other.relation != "ne"]
        ranges = [range(symbols[n].min, min(symbols[n].max or 40, 40) + 1) for n in involved]
        for sizes in itertools.islice(itertools.product(*ranges), 2_000):
            at = list(self.base)
            for number, size in zip(involved, sizes, strict=True):
                at[number] = size
            if not self.allows(at, (constraint,)) and self.allows(at, others):
                return self.agrees(at)
        return len(involved) > 1 or symbols[involved[0]].max is not None

    def _is_bound(self, constraint: Constraint, number: int) -> bool:
        """Tell whether a relation is a lower bound that the trace's bounds of its symbol say already."""
        if type(constraint.left) is not int or constraint.right != {"s": number}:
            return False
        return constraint.left + (constraint.relation == "lt") <= self._graph.symbols[number].min

    def _follows(self, constraint: Constraint, number: int, symbol: Symbol) -> bool:
        """Tell whether a relation holds within the bounds of its one symbol."""
        if symbol.max is None or symbol.max > 100_000:
            return False
        at = list(self.base)
        for size in range(symbol.min, symbol.max + 1):
            at[number] = size
            if not self.allows(at, (constraint,)):
                return False
        return True

    def _compare(self, sizes: list[int]) -> str:
        """Return how graph and model differ at these sizes; nothing where they agree."""
        tensors = [self._resized(n, sizes) for n in range(len(self._shapes))]
        with torch.no_grad():
            expected = self._tracer.expected if sizes == self.base else self._run_model(tensors)
            torch.manual_seed(0)
            copies = [tensor.clone() for tensor in tensors]
            try:
                found, _ = flatten(self._tracer.call.call(self._module, copies), "the output")
            except Exception as error:
                return first_lines(error)
            finally:
                self._tracer.before.restore()
        if len(expected) != len(found):
            return "its output is nested in another way"
        for number, (one, two) in enumerate(zip(expected, found, strict=True)):
            if not close(one, two):
                return f"output {number} is another"
        return ""

    def _run_model(self, tensors: list[torch.Tensor]) -> list[Any]:
        torch.manual_seed(0)
        try:
            return self._tracer.run_model(tensors)[0]
        except Exception as error:
            raise _ModelError(first_lines(error)) from error

    def _resized(self, number: int, sizes: list[int]) -> torch.Tensor:
        tensor = self._tracer.tensors[number]
        for axis, size in enumerate(self._shapes[number]):
            wanted = size_of(size, sizes)
            if wanted != tensor.shape[axis]:
                rows = torch.arange(wanted, device=tensor.device) % tensor.shape[axis]
                tensor = tensor.index_select(axis, rows)
        return tensor


def close(one: Any, other: Any) -> bool:
    """Tell whether two leaves of outputs are the same up to rounding."""
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(one) is type(other) and bool(one == other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    tolerance = 1e-4 if one.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128) else 2e-2
    scale = float(one.abs().nan_to_num(0, 0, 0).amax()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * scale / 10, equal_nan=True)
