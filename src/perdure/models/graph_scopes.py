"""A model in the form of its graph is run node by node, and a watcher told which call of which module begins and ends."""

from __future__ import annotations

from typing import Any, Protocol, cast

from torch import fx

from perdure.models.execution import FrozenGraph
from perdure.models.graph_calls import Inputs
from perdure.models.graph_nodes import INPUTS, OUTPUTS, VALUE
from perdure.records.graph import size_of
from perdure.records.module_calls import Scope, Shapes


class Watcher(Protocol):
    """What is told of the calls of modules while a graph runs."""

    def on_enter(self, scope: Scope) -> None:
        """A call begins; the sizes in its shapes are those of this run."""
        ...

    def on_exit(self, scope: Scope) -> None:
        """A call has ended."""
        ...


def run_in_scopes(model: FrozenGraph, watcher: Watcher, *args: Any, **kwargs: Any) -> Any:
    """Call a model in the form of its graph, and tell a watcher of the calls of modules in it, properly nested.

    The answer and the life times of tensors are those of `model(*args, **kwargs)`. Where the record of the graph tells no
    calls, the watcher hears nothing.

    Args:
        model: the model, on tensors of any kind, e.g. fake ones.
        watcher: what is told.
        args: the arguments in place.
        kwargs: those by keyword.

    Returns:
        What the model gives.

    Raises:
        InputError: the arguments are not those that the graph takes.
    """
    return _Run(model, watcher, args, kwargs).run()


class _Run(fx.Interpreter):
    """One call."""

    def __init__(self, model: FrozenGraph, watcher: Watcher, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(model)
        self.extra_traceback = False
        self._watcher = watcher
        self._given = {"*args": args, "**kwargs": kwargs}
        graph = model.perdure_graph
        self._inputs = cast("Inputs", model.get_submodule(INPUTS))
        self._places = {f"{VALUE}{place}": place for place in range(len(graph.nodes))}
        self._scopes = graph.scopes()
        self._next = 0
        self._open: list[Scope] = []

    def run_node(self, n: fx.Node) -> Any:
        is_last = n.op == "output" or n.target == OUTPUTS
        place = len(self._places) if is_last else self._places.get(n.name)
        if place is not None:
            self._begin_and_end(place)
        found = super().run_node(n)
        if n.target == INPUTS:
            sizes = self._inputs.sizes(found)
            self._scopes = [_of_sizes(scope, sizes) for scope in self._scopes]
        return found if n.users or n.op == "output" else None  # what nothing uses is freed at once

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._given[target]

    def _begin_and_end(self, place: int) -> None:
        """Tell of what begins and ends before the node at a place."""
        while self._next < len(self._scopes) and self._scopes[self._next].start <= place:
            scope = self._scopes[self._next]
            self._end(scope.depth)
            self._watcher.on_enter(scope)
            self._open.append(scope)
            self._next += 1
        while self._open and self._open[-1].stop <= place:
            self._end(len(self._open) - 1)

    def _end(self, depth: int) -> None:
        """Tell of the end of all calls that were made in so many or more."""
        while len(self._open) > depth:
            self._watcher.on_exit(self._open.pop())


def _of_sizes(scope: Scope, sizes: list[int]) -> Scope:
    """Return a call with the sizes that these values of the graph's symbols give."""
    return scope._replace(inputs=_shapes(scope.inputs, sizes), outputs=_shapes(scope.outputs, sizes))


def _shapes(shapes: Shapes, sizes: list[int]) -> Shapes:
    return tuple(tuple(size_of(size, sizes) for size in shape) for shape in shapes)
