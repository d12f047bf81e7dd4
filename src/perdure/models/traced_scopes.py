"""Which call of which module made each node of an exported program, from what the trace noted beside the nodes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from perdure.models.heard_calls import HeardCall, SymbolicShapes, common_key
from perdure.records.module_calls import MAX_CALL_DEPTH, MAX_CALLS, MAX_NAME, Calls, Modules, Scope, pack_scopes


class Scopes:
    """Finds the nodes of each call that was heard, while the nodes of the program are looked at in their order."""

    def __init__(self, model: nn.Module, heard: Sequence[HeardCall]) -> None:
        self._modules = dict(model.named_modules())
        self._heard = heard
        self._parents = list(_parents_of(heard))
        self._numbers = {call.key: number for number, call in enumerate(heard) if call.key}
        self._nodes: list[range | None] = [None] * len(heard)
        self._current = self._latest = 0

    def see(self, node: fx.Node, start: int, stop: int) -> None:
        """Look at the next node; so many nodes of the record stand before it and before what follows it."""
        if not self._heard:
            return
        number, running = self._call_of(node), set(self._outwards(self._current))
        while number not in running and number <= self._latest:  # it has ended: the trace moved the node behind that
            number = self._parents[number]
        self._current, self._latest = number, max(number, self._latest)
        for one in self._outwards(number):
            known = self._nodes[one]
            self._nodes[one] = range(start if known is None else known.start, stop)

    def _call_of(self, node: fx.Node) -> int:
        """Return the call that made a node; for one that calls sub-graphs, the one that all of their nodes were made in."""
        source: Any = node.args[0] if node.target is operator.getitem else None
        if isinstance(source, fx.Node) and isinstance(source.target, torch._ops.HigherOrderOperator):
            return self._call_of(source)
        inner = [self._call_of(part) for body in _bodies(node) for part in body.nodes if part.op == "call_function"]
        if inner:
            chains = [list(self._outwards(number))[::-1] for number in inner]
            return [same for same, *others in zip(*chains, strict=False) if set(others) <= {same}][-1]
        keys = map(common_key, reversed(node.meta.get("nn_module_stack") or {}))
        return next((self._numbers[key] for key in keys if key in self._numbers), 0)

    def _outwards(self, number: int) -> Iterator[int]:
        """Yield a call and those that it was made in, up to the model's own."""
        yield number
        while number:
            number = self._parents[number]
            yield number

    def recorded(self, n_nodes: int, write: Callable[[Any], Any]) -> tuple[Modules, Calls]:
        """Return the modules and their calls, as the record has them; none where they are not what it takes.

        Args:
            n_nodes: how many nodes the record has.
            write: returns a size as the record has it; None for one that it has no words for.
        """
        scopes: list[Scope] = []
        if not self._heard or len(self._heard) > MAX_CALLS or not _is_one_call(self._heard):
            return (), ()
        self._nodes[0] = range(n_nodes)
        ends: dict[int, int] = {}  # of what was made last in each call
        for number, (call, parent) in enumerate(zip(self._heard, self._parents, strict=True)):
            earliest = ends.get(parent, scopes[parent].start) if number else 0
            nodes = self._nodes[number] or range(earliest, earliest)
            ends[parent] = nodes.stop
            kind = type(self._modules[call.path]).__name__
            shapes = _written(call.inputs, write), _written(call.outputs, write)
            scopes.append(Scope(call.path, kind, call.depth, nodes.start, nodes.stop, *shapes))
        fits = all(
            scope.depth <= MAX_CALL_DEPTH and max(len(scope.path), len(scope.kind)) <= MAX_NAME for scope in scopes
        )
        return pack_scopes(scopes) if fits else ((), ())


def _is_one_call(heard: Sequence[HeardCall]) -> bool:
    """Tell whether all were made in one call of the model; a trace that runs it twice would have two."""
    return heard[0].path == "" and all((number > 0) == (call.depth > 0) for number, call in enumerate(heard))


def _parents_of(heard: Sequence[HeardCall]) -> Iterator[int]:
    """Yield the number of the call that each was made in; for the first, which is the model's own, its own."""
    around: list[int] = []
    for number, call in enumerate(heard):
        del around[call.depth :]
        yield around[-1] if around else number
        around.append(number)


def _bodies(node: fx.Node) -> Iterator[fx.Graph]:
    """Yield the sub-graphs that a node calls."""
    for used in node.all_input_nodes:
        if used.op == "get_attr":
            found = operator.attrgetter(str(used.target))(node.graph.owning_module)
            if isinstance(found, fx.GraphModule):
                yield found.graph


def _written(shapes: SymbolicShapes, write: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Return shapes as the record has them, less those with a size that it has no words for."""
    written = (tuple(write(size) for size in shape) for shape in shapes)
    return tuple(shape for shape in written if None not in shape)
