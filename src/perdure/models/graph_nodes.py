"""The nodes of a graph become those of a module of `torch.fx`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from perdure.models.graph_calls import Inputs, Outputs
from perdure.models.graph_kinds import Kinds, is_reference
from perdure.models.operators import (
    ASSERT_MESSAGE,
    DIRECT,
    Call,
    constant,
)
from perdure.models.structure import unflatten
from perdure.records.graph import Graph, Subgraph

if TYPE_CHECKING:
    pass

INPUTS, OUTPUTS = "perdure_inputs", "perdure_outputs"
"""The attributes of the two small modules in a built graph that take a call and give its answer."""

FOLLOWS = "follows the model's device"
"""A mark of nodes whose device is the model's."""

VALUE, INPUT, TENSOR = "v", "i", "t"
"""With its number behind, the name of what became of a node, an input or a tensor of the record."""


class Builder:
    """Builds the nodes of a graph that was checked."""

    def __init__(self, graph: Graph, kinds: Kinds, names: list[str], device: torch.device, where: str) -> None:
        self.graph = graph
        self.calls = kinds.calls
        self.direct = [DIRECT.get(operator.name) for operator in graph.operators]
        self.names = names
        self.device = device
        self.where = where
        self._used = kinds.bodies()

    def build(self, made: nn.Module) -> fx.Graph:
        """Build the whole graph, and the modules that it calls into `made`."""
        for number in sorted(self._used):
            made.add_module(f"subgraph_{number}", self._build_body(made, self.graph.subgraphs[number]))
        made.add_module(INPUTS, Inputs(self.graph, self.where))
        block = _Block(self)
        args, kwargs = block.nodes.placeholder("*args"), block.nodes.placeholder("**kwargs")
        given = block.nodes.call_module(INPUTS, (args, kwargs))
        block.inputs = [
            block.nodes.create_node("call_function", operator.getitem, (given, number), {}, f"{INPUT}{number}")
            if leaf.dtype
            else None
            for number, leaf in enumerate(self.graph.leaves)
        ]
        block.add_nodes(self.graph.nodes)
        self._build_outputs(made, block)
        return block.nodes

    def _build_outputs(self, made: nn.Module, block: _Block) -> None:
        place = len(self.graph.nodes)
        found = [block.value(value, place) if is_reference(value) else None for value in self.graph.outputs]
        if all(map(is_reference, self.graph.outputs)) and not _has_keys(self.graph.tree):
            block.nodes.output(unflatten(self.graph.tree, found))
            return
        made.add_module(OUTPUTS, Outputs(self.graph))
        block.nodes.output(block.nodes.call_module(OUTPUTS, (found,)))

    def _build_body(self, made: nn.Module, body: Subgraph) -> fx.GraphModule:
        block = _Block(self)
        block.inputs = [block.nodes.placeholder(f"i{number}") for number in range(body.n_inputs)]
        block.add_nodes(body.nodes)
        found = tuple(block.value(value, len(body.nodes)) for value in body.outputs)
        block.nodes.output(found[0] if body.single else found)
        holder = nn.Module()
        for number in block.bodies:
            holder.add_module(f"subgraph_{number}", made.get_submodule(f"subgraph_{number}"))
        return fx.GraphModule(holder, block.nodes)


def _has_keys(tree: Any) -> bool:
    if type(tree) is list:
        return any(map(_has_keys, tree))
    return "dict" in tree or _has_keys(tree.get("tuple", []))


class _Block:
    """The nodes of a graph or of a sub-graph."""

    def __init__(self, builder: Builder) -> None:
        self.nodes = fx.Graph()
        self.inputs: list[Any] = []
        self.bodies: dict[int, fx.Node] = {}
        self._builder = builder
        self._tensors: dict[int, fx.Node] = {}
        self._made: list[fx.Node] = []
        self._follows = False

    def add_nodes(self, nodes: Sequence[tuple[Any, ...]]) -> None:
        """Build nodes in their order."""
        for place, (number, *values) in enumerate(nodes):
            call = self._builder.calls[number]
            self._follows = False
            args, kwargs = self._arguments(call, values, place)
            direct = self._builder.direct[number]
            if _has_gap(call, args, kwargs) or not (args and isinstance(args[0], fx.Node | list)):
                direct = None
            kind = "call_method" if isinstance(direct, str) else "call_function"
            node = self.nodes.create_node(kind, direct or call.target, tuple(args), kwargs, f"{VALUE}{place}")
            if self._follows:
                node.meta[FOLLOWS] = True
            self._made.append(node)

    def _arguments(self, call: Call, values: list[Any], place: int) -> tuple[list[Any], dict[str, Any]]:
        """Return arguments in place and by keyword; the keywords are those of this PyTorch."""
        if not call.parameters:
            return [self.value(value, place) for value in values], {}
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for number, parameter, value in call.arranged(values):
            made = SETTINGS[parameter.name]() if parameter.name in SETTINGS else self.value(value, place)
            if parameter.by_keyword and made is None and parameter.has_default and parameter.default is None:
                continue
            if parameter.by_keyword or number != len(args):
                kwargs[parameter.name] = made
            else:
                args.append(made)
        return args, kwargs

    def value(self, value: Any, place: int) -> Any:
        """Return an argument as the generated source has it."""
        if type(value) is list:
            return [self.value(item, place) for item in value]
        if type(value) is not dict:
            return value
        tag, content = next(iter(value.items()))
        if tag == "v":
            return self._made[place - content]
        if tag == "i":
            return self.inputs[content]
        if tag == "t":
            return self._fetch(self._tensors, content, self._builder.names[content], TENSOR)
        if tag == "g":
            return self._fetch(self.bodies, content, f"subgraph_{content}", "g")
        if tag == "device" and content == "model":
            self._follows = True
            return self._builder.device
        return constant(value)

    def _fetch(self, fetched: dict[int, fx.Node], number: int, attribute: str, letter: str) -> fx.Node:
        if number not in fetched:
            fetched[number] = self.nodes.create_node("get_attr", attribute, (), {}, f"{letter}{number}")
        return fetched[number]


def _has_gap(call: Call, args: list[Any], kwargs: dict[str, Any]) -> bool:
    """Tell whether an argument that could stand in its place is given by keyword, for the lack of one before it."""
    return any(parameter.name in kwargs and not parameter.by_keyword for parameter in call.parameters[len(args) :])


SETTINGS: dict[str, Callable[[], Any]] = {
    "assert_msg": lambda: ASSERT_MESSAGE,
    "cudnn_enabled": lambda: torch.backends.cudnn.enabled,
}
"""Arguments that are of this process and not of the file."""
