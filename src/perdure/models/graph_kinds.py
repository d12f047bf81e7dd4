"""A graph is checked before it is built: what each node gives and takes, from the operators' schemas alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from perdure.models.operators import (
    HIGHER_ORDER,
    SCALAR,
    TENSOR,
    Checker,
    Result,
    call_of,
    constant,
    dtype_named,
)
from perdure.records.graph import Graph

if TYPE_CHECKING:
    pass


class Kinds:
    """Finds what each node gives, and checks each argument on the way."""

    def __init__(self, graph: Graph, where: str) -> None:
        self.graph = graph
        self.checker = Checker(where)
        self.calls = [call_of(operator.name, operator.schema, where) for operator in graph.operators]
        self._bodies: dict[tuple[int, tuple[Result, ...]], tuple[Result, ...]] = {}

    def check(self) -> None:
        """Check the whole graph.

        Raises:
            CorruptError, LimitError: as `build`.
        """
        inputs = [TENSOR if leaf.dtype else SCALAR for leaf in self.graph.leaves]
        for leaf in self.graph.leaves:
            if leaf.dtype and dtype_named(leaf.dtype) is None:
                raise self.checker.refuse("an input", f"has the unknown type {leaf.dtype[:40]!r}")
        self._results_of(self.graph.nodes, self.graph.outputs, inputs)

    def _results_of(self, nodes: Sequence[Any], outputs: Sequence[Any], inputs: Sequence[Result]) -> tuple[Result, ...]:
        found: list[Result] = []

        def look_up(value: dict[str, Any]) -> Any:
            tag, content = next(iter(value.items()))
            return (
                found[-content] if tag == "v" else inputs[content] if tag == "i" else TENSOR if tag == "t" else SCALAR
            )

        for number, *values in nodes:
            name, call = self.graph.operators[number].name, self.calls[number]
            if name.startswith(HIGHER_ORDER):
                found.append(self._check_higher_order(name, values, look_up))
            else:
                found.append(self.checker.check(name, call, values, look_up))
        return tuple(look_up(value) if is_reference(value) else SCALAR for value in outputs)

    def _check_higher_order(self, name: str, values: list[Any], look_up: Callable[[dict[str, Any]], Result]) -> Result:
        form = _FORMS[name](values) if len(values) <= _MAX_OPERANDS else None
        if form is None:
            raise self.checker.refuse(name, "does not get the arguments that it takes")
        bodies, operands = form
        if not all(is_reference(operand) or type(operand) in (int, float, bool) for operand in operands):
            raise self.checker.refuse(name, "gets an operand that is neither a tensor nor a number")
        kinds = tuple(look_up(operand) if is_reference(operand) else SCALAR for operand in operands)
        found = [self._body_results(number, kinds, name) for number in bodies]
        if any(result != found[0] for result in found):
            raise self.checker.refuse(name, "has branches that give different things")
        return found[0]

    def _body_results(self, number: int, operands: tuple[Result, ...], name: str) -> Result:
        """Check a sub-graph for operands of these kinds; returns what it gives."""
        body = self.graph.subgraphs[number]
        if len(operands) != body.n_inputs:
            raise self.checker.refuse(name, f"gives {len(operands)} operands to a sub-graph that takes {body.n_inputs}")
        if body.single and len(body.outputs) != 1:
            raise self.checker.refuse(name, "has a sub-graph that does not give its one result")
        key = (number, operands)
        if key not in self._bodies:
            self._bodies[key] = self._results_of(body.nodes, body.outputs, operands)
        return self._bodies[key][0] if body.single else self._bodies[key]

    def bodies(self) -> set[int]:
        """Return the sub-graphs that are used."""
        return {number for number, _ in self._bodies}


_MAX_OPERANDS = 10_000


_Form = tuple[list[int], list[Any]]


def is_reference(value: Any) -> bool:
    """Tell whether an argument is the value of a node, an input, a tensor or a sub-graph."""
    return type(value) is dict and next(iter(value)) in ("v", "i", "t")


def body_of(value: Any) -> int | None:
    """Return the number of the sub-graph that an argument is; None where it is none."""
    return value["g"] if type(value) is dict and "g" in value else None


def _grad_form(values: list[Any]) -> _Form | None:
    body = body_of(values[1]) if len(values) >= 2 and type(values[0]) is bool else None
    return None if body is None else ([body], values[2:])


def _autocast_form(values: list[Any]) -> _Form | None:
    if len(values) < 5 or type(values[2]) is not bool or type(values[3]) not in (bool, type(None)):
        return None
    dtype = values[1] is None or constant(values[1], torch.dtype) is not None
    body = body_of(values[4])
    return ([body], values[5:]) if dtype and constant(values[0], torch.device) and body is not None else None


def _cond_form(values: list[Any]) -> _Form | None:
    if len(values) != 4 or type(values[3]) is not list or not (is_reference(values[0]) or type(values[0]) is bool):
        return None
    bodies = [body_of(values[1]), body_of(values[2])]
    return None if None in bodies else ([body for body in bodies if body is not None], values[3])


def _scan_form(values: list[Any]) -> _Form | None:
    if len(values) != 4 or any(type(value) is not list for value in values[1:]):
        return None
    body = body_of(values[0])
    return None if body is None else ([body], [*values[1], *values[2], *values[3]])


_FORMS: dict[str, Callable[[list[Any]], _Form | None]] = {
    "higher_order.cond": _cond_form,
    "higher_order.scan": _scan_form,
    "higher_order.wrap_with_autocast": _autocast_form,
    "higher_order.wrap_with_set_grad_enabled": _grad_form,
}
"""The sub-graphs and the operands among the arguments of each operator of higher order; None where they do not fit."""
