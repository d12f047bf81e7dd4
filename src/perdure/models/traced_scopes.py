"""Which call of which module made each node of an exported program, from what the trace noted beside the nodes."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from perdure.records.module_calls import (
    MAX_CALL_DEPTH,
    MAX_CALLS,
    MAX_NAME,
    Calls,
    Modules,
    Scope,
    pack_scopes,
)

_PREFIX = "model."
"""The paths of the model's modules in the trace, whose wrapper holds the model in an attribute of that name."""

_Name = tuple[str, str]
"""What the trace calls a call: a key that no other call of that module has, and the module's path."""


@dataclasses.dataclass(eq=False)
class _Call:
    """A call while it is found.

    Attributes:
        path: the module's in the model.
        start: how many nodes of the record stand before it.
        parent: the call that it is made in.
        depth: how many calls it is made in.
        stop: how many nodes of the record stand before its end.
        begin: how many nodes of the program stand before it.
        end: how many stand before its end.
        last: the call that was made in it last.
        outputs: the nodes of the program that it gave.
    """

    path: str
    start: int
    begin: int = 0
    parent: _Call | None = None
    depth: int = 0
    stop: int = 0
    end: int = 0
    last: _Call | None = None
    outputs: list[fx.Node] = dataclasses.field(default_factory=list)


class Scopes:
    """Finds the calls while the nodes of a program are looked at in their order."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._first_paths = {id(module): path for path, module in model.named_modules()}
        self._root = _Call("", 0)
        self._calls = [self._root]
        self._entered: dict[tuple[_Call, str, str], _Call] = {}
        self._makers: list[tuple[fx.Node, _Call]] = []
        self._are_nested = True

    def see(self, node: fx.Node, start: int, stop: int) -> None:
        """Look at the next node; so many nodes of the record stand before it and before what follows it."""
        call = self._root
        for key, path in self._scopes_of(node):
            call = self._enter(call, key, path, start)
        self._makers.append((node, call))
        for one in _outwards(call):
            one.stop, one.end = stop, len(self._makers)

    def _scopes_of(self, node: fx.Node) -> list[_Name]:
        """Return the calls that a node was made in; one that calls sub-graphs, those that all of their nodes were."""
        source: Any = node.args[0] if node.target is operator.getitem else None
        if isinstance(source, fx.Node) and isinstance(source.target, torch._ops.HigherOrderOperator):
            return self._scopes_of(source)
        inner = [self._scopes_of(part) for body in _bodies(node) for part in body.nodes if part.op == "call_function"]
        return _common(inner) if inner else list(self._noted(node))

    def _noted(self, node: fx.Node) -> Iterator[_Name]:
        """Yield the calls that the trace noted beside a node."""
        for key, (path, *_) in (node.meta.get("nn_module_stack") or {}).items():
            if isinstance(path, str) and path.startswith(_PREFIX) and path.removeprefix(_PREFIX) in self._modules:
                yield key, path.removeprefix(_PREFIX)

    def _enter(self, parent: _Call, key: str, path: str, start: int) -> _Call:
        """Return a call: a new one, or one that goes on after nodes of the calls around it."""
        call = self._entered.get((parent, key, path))
        if call is None:
            first_path = self._first_paths[id(self._modules[path])]
            call = parent.last = _Call(first_path, start, len(self._makers), parent, parent.depth + 1)
            self._entered[parent, key, path] = call
            self._calls.append(call)
        self._are_nested &= parent.last is call
        return call

    def recorded(self, given: Sequence[Any], refer: Callable[[fx.Node, int], Any]) -> tuple[Modules, Calls]:
        """Return the modules and their calls, as the record has them; none where they do not fit into it.

        Args:
            given: the nodes that the model gives.
            refer: returns a node as an argument of one that stands at a place.
        """
        self._find_outputs(given)
        scopes = [
            Scope(
                call.path,
                type(self._modules[call.path]).__name__,
                call.depth,
                call.start,
                call.stop,
                tuple(refer(node, call.stop) for node in call.outputs),
            )
            for call in self._calls
        ]
        return pack_scopes(scopes) if self._are_nested and _are_within_limits(scopes) else ((), ())

    def _find_outputs(self, given: Sequence[Any]) -> None:
        """Find what each call gave: tensors made in it that are used after it, or that the model gives.

        Where a call makes a node that gives a tensor of the caller's as it is, the trace takes that node for the tensor ever
        after. Such a tensor is given by the call only if nothing else is.
        """
        self._root.outputs = [node for node in given if _is_tensor(node)]
        last_uses: dict[fx.Node, float] = {node: math.inf for node in given if isinstance(node, fx.Node)}
        for number, (user, _) in reversed(list(enumerate(self._makers))):
            for node in user.all_input_nodes:
                last_uses.setdefault(node, number)
        for node, maker in self._makers:
            for call in _outwards(maker):
                if call is self._root or last_uses.get(node, -1) < call.end or not _is_tensor(node):
                    break
                call.outputs.append(node)
        numbers = {node: number for number, (node, _) in enumerate(self._makers)}
        for call in self._calls[1:]:
            own = [node for node in call.outputs if numbers.get(_itself(node), -1) >= call.begin]
            call.outputs = own or call.outputs


def _bodies(node: fx.Node) -> Iterator[fx.Graph]:
    """Yield the sub-graphs that a node calls."""
    for used in node.all_input_nodes:
        if used.op == "get_attr":
            found = operator.attrgetter(str(used.target))(node.graph.owning_module)
            if isinstance(found, fx.GraphModule):
                yield found.graph


def _common(lists: list[list[_Name]]) -> list[_Name]:
    """Return the items with which all lists begin."""
    same = itertools.takewhile(lambda items: len(set(items)) == 1, zip(*lists, strict=False))
    return [items[0] for items in same]


def _itself(node: fx.Node) -> fx.Node:
    """Return the node that made the very tensor that a node gives."""
    while node.target in _GIVES_ITS_ARGUMENT:
        first: Any = node.args[0]
        if not _is_tensor(first) or _memory(first) != _memory(node):
            break
        node = first
    return node


def _memory(node: fx.Node) -> tuple[Any, ...]:
    """Return how a node's tensor lies in memory; sizes as text, since to compare symbols may add assumptions to a trace."""
    tensor = node.meta["val"]
    strides = str(tensor.stride()) if tensor.layout is torch.strided else ""
    return tensor.dtype, tensor.device, tensor.layout, str(tensor.shape), strides


_GIVES_ITS_ARGUMENT: set[Any] = {
    torch.ops.aten.to.dtype,
    torch.ops.aten.to.dtype_layout,
    torch.ops.aten.to.device,
    torch.ops.aten.to.other,
    torch.ops.aten.type_as.default,
    torch.ops.aten.contiguous.default,
    torch.ops.aten.dropout.default,
}
"""Operators that give their first argument itself where it is as they would make it."""


def _is_tensor(node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)


def _are_within_limits(scopes: list[Scope]) -> bool:
    names = [name for scope in scopes for name in (scope.path, scope.kind)]
    deepest = max(scope.depth for scope in scopes)
    return len(scopes) <= MAX_CALLS and deepest <= MAX_CALL_DEPTH and max(map(len, names)) <= MAX_NAME


def _outwards(call: _Call | None) -> Iterator[_Call]:
    """Yield a call and those that it is made in."""
    while call is not None:
        yield call
        call = call.parent
