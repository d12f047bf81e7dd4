"""A model in the form of its graph is run node by node, and a watcher told which call of which module begins and ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import fx

from perdure.models.execution import FrozenGraph
from perdure.models.graph_nodes import INPUT, OUTPUTS, TENSOR, VALUE
from perdure.records.module_calls import Scope


class Watcher(Protocol):
    """What is told of the calls of modules while a graph runs."""

    def on_enter(self, scope: Scope, inputs: list[torch.Tensor]) -> None:
        """A call begins; `inputs` are the tensors, made before, that its nodes use, in the order of their first use."""
        ...

    def on_exit(self, scope: Scope, outputs: list[torch.Tensor]) -> None:
        """A call has ended and gave these tensors."""
        ...


def run_in_scopes(model: FrozenGraph, watcher: Watcher, *args: Any, **kwargs: Any) -> Any:
    """Call a model in the form of its graph, and tell a watcher of the calls of modules in it, properly nested.

    The answer and the life times of tensors are those of `model(*args, **kwargs)`. Where the record of the graph tells no
    calls, the watcher hears nothing.

    Args:
        model: the model, on tensors of any kind, e.g. fake ones.
        watcher: what is told. It must not keep the tensors that it gets, if they are to be freed as they would be.
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
        self._calls = _Calls(model)
        self._places = {name: place for place, name in enumerate(self._calls.names)}
        self._next = 0
        self._open: list[int] = []

    def run_node(self, n: fx.Node) -> Any:
        is_last = n.op == "output" or n.target == OUTPUTS
        place = len(self._places) if is_last else self._places.get(n.name)
        if place is not None:
            self._begin_and_end(place)
        found = super().run_node(n)
        return found if n.users or n.op == "output" else None  # what nothing uses is freed at once

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._given[target]

    def _begin_and_end(self, place: int) -> None:
        """Tell of what begins and ends before the node at a place."""
        scopes = self._calls.scopes
        while self._next < len(scopes) and scopes[self._next].start <= place:
            self._end(scopes[self._next].depth)
            inputs = self._tensors(self._calls.inputs[self._next])
            self._watcher.on_enter(scopes[self._next], inputs)
            self._open.append(self._next)
            self._next += 1
        while self._open and scopes[self._open[-1]].stop <= place:
            self._end(len(self._open) - 1)

    def _end(self, depth: int) -> None:
        """Tell of the end of all calls that were made in so many or more."""
        while len(self._open) > depth:
            number = self._open.pop()
            self._watcher.on_exit(self._calls.scopes[number], self._tensors(self._calls.outputs[number]))

    def _tensors(self, nodes: list[fx.Node]) -> list[torch.Tensor]:
        """Return those tensors among values that are there; what a record has wrong is left out."""
        found = [self.fetch_attr(str(node.target)) if node.op == "get_attr" else self.env.get(node) for node in nodes]
        return [value for value in found if isinstance(value, torch.Tensor)]


class _Calls:
    """The calls of modules in a graph, by the nodes of the module that was built from it.

    Attributes:
        names: of the node at each place of the record.
        scopes: the calls.
        inputs: of each call, what was made before it and is used in it.
        outputs: of each call, what it gave.
    """

    def __init__(self, model: FrozenGraph) -> None:
        graph = model.perdure_graph
        self.names = [f"{VALUE}{place}" for place in range(len(graph.nodes))]
        self.scopes = graph.scopes()
        self._nodes = {node.name: node for node in model.graph.nodes}
        self.outputs = [list(self._outputs_of(scope)) for scope in self.scopes]
        self.inputs = [
            found if scope.start < scope.stop else outputs  # which it passed through
            for scope, found, outputs in zip(self.scopes, self._find_inputs(), self.outputs, strict=True)
        ]

    def _outputs_of(self, scope: Scope) -> Iterator[fx.Node]:
        for value in scope.outputs:
            tag, content = next(iter(value.items()))
            name = {"v": f"{VALUE}{scope.stop - content}", "i": f"{INPUT}{content}", "t": f"{TENSOR}{content}"}[tag]
            if name in self._nodes:
                yield self._nodes[name]

    def _find_inputs(self) -> list[list[fx.Node]]:
        """Return what the nodes of each call use of what was made before."""
        places = {self._nodes[name]: place for place, name in enumerate(self.names)}
        found: list[dict[fx.Node, None]] = [{} for _ in self.scopes]
        around: list[int] = []
        following = 0
        for place, name in enumerate(self.names):
            while following < len(self.scopes) and self.scopes[following].start <= place:
                del around[self.scopes[following].depth :]
                around.append(following)
                following += 1
            while around and self.scopes[around[-1]].stop <= place:
                around.pop()
            for used in self._nodes[name].all_input_nodes:
                made_at = places.get(used, -1)
                for number in reversed(around):
                    if made_at >= self.scopes[number].start:
                        break
                    if used.op != "get_attr":
                        found[number].setdefault(used)
        return [list(nodes) for nodes in found]
