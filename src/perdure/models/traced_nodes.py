"""The nodes of an exported program become those of a graph."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from perdure.errors import UnsupportedModelError
from perdure.models.heard_calls import HeardCall
from perdure.models.operators import ALLOWED, GETITEM, HIGHER_ORDER, NAMES, overload, parameters_of
from perdure.models.traced_scopes import Scopes
from perdure.records.graph import (
    Operator,
    Subgraph,
    TensorEntry,
)


class Writer:
    """Writes the nodes of an exported program down."""

    def __init__(
        self,
        model: nn.Module,
        program: ExportedProgram,
        device: torch.device,
        taken: Iterable[str] = (),
        heard: Sequence[HeardCall] = (),
    ) -> None:
        self.program = program
        self.operators: list[Operator] = []
        self.tensors: list[TensorEntry] = []
        self.subgraphs: list[Subgraph] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.fakes: list[torch.Tensor] = []
        self.scopes = Scopes(model, heard)
        self._device = device
        self._numbers: dict[tuple[str, str], int] = {}
        self._entries: dict[str, int] = {}
        self._bodies: dict[int, int] = {}
        self._taken = {name for name, _ in itertools.chain(model.named_parameters(), model.named_buffers())} | set(
            taken
        )
        self._specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        for node in program.graph.nodes:
            if node.op == "placeholder" and self._specs[node.name].kind is InputKind.USER_INPUT:
                self.fakes.append(node.meta["val"])

    def write(self, leaves: list[int]) -> tuple[Any, Any]:
        """Return nodes and outputs of the whole graph; the user's inputs are the leaves of these numbers.

        The calls of modules that made the nodes are afterwards known to `scopes`.
        """
        numbers = iter(leaves)
        known: dict[fx.Node, Any] = {}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                spec = self._specs[node.name]
                known[node] = {"i": next(numbers)} if spec.kind is InputKind.USER_INPUT else spec
        nodes, outputs, _ = self._write_block(self.program.graph, self.program.graph_module, known, self.scopes)
        others = len(outputs) - len(self.program.graph_signature.user_outputs)
        return nodes, outputs[others:]

    def _write_block(
        self, graph: fx.Graph, owner: nn.Module, known: dict[fx.Node, Any], scopes: Scopes | None = None
    ) -> tuple[Any, Any, bool]:
        needed = _needed(graph)
        nodes: list[tuple[Any, ...]] = []
        outputs: Any = ()
        for node in graph.nodes:
            if node.op == "get_attr" and node in needed:
                known[node] = self._attribute(owner, str(node.target))
            elif node.op == "call_function" and node in needed:
                kept, start = _passed_through(node), len(nodes)
                if kept is not None:
                    known[node] = known[kept]
                else:
                    nodes.append(self._node(node, known, len(nodes)))
                    known[node] = len(nodes) - 1
                if scopes is not None:
                    scopes.see(node, start, len(nodes))
            elif node.op == "output":
                outputs = node.args[0]
        single = not isinstance(outputs, tuple | list)
        listed = (outputs,) if single else outputs
        return tuple(nodes), tuple(self.value(value, known, len(nodes)) for value in listed), single

    def _attribute(self, owner: nn.Module, target: str) -> Any:
        found = operator.attrgetter(target)(owner)
        if not isinstance(found, fx.GraphModule):
            raise UnsupportedModelError(f"tracing: the graph holds a {type(found).__name__}, which is no data.")
        if id(found) not in self._bodies:
            inputs = [node for node in found.graph.nodes if node.op == "placeholder"]
            known: dict[fx.Node, Any] = {node: {"i": number} for number, node in enumerate(inputs)}
            nodes, outputs, single = self._write_block(found.graph, found, known)
            self.subgraphs.append(Subgraph(len(inputs), nodes, outputs, single))
            self._bodies[id(found)] = len(self.subgraphs) - 1
        return {"g": self._bodies[id(found)]}

    def _node(self, node: fx.Node, known: dict[fx.Node, Any], place: int) -> tuple[Any, ...]:
        target: Any = _written_as(node.target)
        name, schema, values = _name_of(target), "", [*node.args, *node.kwargs.values()]
        if name == "higher_order.wrap_with_autocast":
            values[0] = torch.device(str(values[0]))
        if isinstance(target, torch._ops.OpOverload):
            schema, values = str(target._schema), _in_order(target, node)
        if name not in ALLOWED:
            raise UnsupportedModelError(
                f"tracing: the model uses {name}, which is not among the operators that a graph may hold. Save it with "
                f"graph=False, by its classes alone."
            )
        return (self._operator(name, schema), *(self.value(value, known, place) for value in values))

    def _operator(self, name: str, schema: str) -> int:
        if (name, schema) not in self._numbers:
            self._numbers[name, schema] = len(self.operators)
            self.operators.append(Operator(name, schema))
        return self._numbers[name, schema]

    def value(self, value: Any, known: dict[fx.Node, Any], place: int) -> Any:
        """Return an argument as the record has it."""
        if isinstance(value, fx.Node):
            found = known[value]
            if type(found) is int:
                return {"v": place - found}
            return found if type(found) is dict else self._tensor(found)
        if isinstance(value, tuple | list):
            return [self.value(item, known, place) for item in value]
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, float):
            return value if value - value == 0 else {"float": repr(float(value))}
        if isinstance(value, torch.device):
            return {"device": "model" if value.type == self._device.type else value.type}
        for kind, tag in _TAGS.items():
            if isinstance(value, kind):
                return {tag: str(value).removeprefix("torch.")}
        if isinstance(value, complex):
            return {"complex": [repr(value.real), repr(value.imag)]}
        raise UnsupportedModelError(f"tracing: the graph holds a {type(value).__name__}, which is no data.")

    def _tensor(self, spec: Any) -> dict[str, int]:
        """Return the reference to a tensor, which gets into the table when it is first used."""
        if spec.target not in self._entries:
            self._entries[spec.target] = len(self.tensors)
            self.tensors.append(self._entry(spec))
        return {"t": self._entries[spec.target]}

    def _entry(self, spec: Any) -> TensorEntry:
        name = spec.target.removeprefix("model.")
        if spec.kind is InputKind.PARAMETER:
            return TensorEntry(name, "parameter")
        if spec.kind is InputKind.BUFFER:
            return TensorEntry(name, "buffer" if spec.persistent else "volatile")
        constant = self.program.constants.get(spec.target)
        known = isinstance(constant, torch.Tensor) and type(constant) in (torch.Tensor, nn.Parameter)
        if spec.kind is not InputKind.CONSTANT_TENSOR or not known or not isinstance(constant, torch.Tensor):
            raise UnsupportedModelError(f"tracing: the graph holds {spec.target}, a {type(constant).__name__}.")
        name = next(f"constant_{n}" for n in itertools.count(len(self.constants)) if f"constant_{n}" not in self._taken)
        self._taken.add(name)
        self.constants[name] = constant.detach()
        return TensorEntry(name, "constant")


_TAGS = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory_format"}


_DROPOUTS = {
    torch.ops.aten.dropout.default,
    torch.ops.aten.dropout_.default,
    torch.ops.aten.feature_dropout.default,
    torch.ops.aten.feature_dropout_.default,
    torch.ops.aten.alpha_dropout.default,
    torch.ops.aten.alpha_dropout_.default,
    torch.ops.aten.feature_alpha_dropout.default,
    torch.ops.aten.feature_alpha_dropout_.default,
}


def _passed_through(node: fx.Node) -> fx.Node | None:
    """Return the argument that a node gives on as it is; None where it does something."""
    first = next(iter(node.args), None)
    if not isinstance(first, fx.Node):
        return None
    if node.target in _DROPOUTS:
        training = node.args[2] if len(node.args) > 2 else node.kwargs.get("train")
        return first if training is False else None
    fresh = first.target is torch.ops.aten.lift_fresh_copy.default
    return first if fresh and node.target is torch.ops.aten.detach_.default else None


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose results are used, and those that do more than give one."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in needed or (node.op == "call_function" and _acts(node)):
            needed.add(node)
            needed.update(node.all_input_nodes)
    return needed


def _acts(node: fx.Node) -> bool:
    """Tell whether a node does more than give a result: writes, asserts or draws random numbers."""
    target = node.target
    if isinstance(target, torch._ops.HigherOrderOperator):
        return True
    if not isinstance(target, torch._ops.OpOverload) or target is torch.ops.aten._assert_tensor_metadata.default:
        return False
    if _passed_through(node) is not None:
        return False
    random_numbers = torch.Tag.nondeterministic_seeded in target.tags
    return target._schema.is_mutable or random_numbers or not target._schema.returns


_SAME_AS = {
    "aten.lift_fresh_copy.default": "aten.clone.default",
    "transformers.grouped_mm_fallback.default": "aten._grouped_mm.default",
}
"""Operators that are written as another one with the same answers. That of transformers stands in for PyTorch's own, which
its mixtures of experts use, while a model is traced."""


def _written_as(target: Any) -> Any:
    other = _SAME_AS.get(str(target)) if isinstance(target, torch._ops.OpOverload) else None
    return (overload(other) if other else None) or target


def _name_of(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"{HIGHER_ORDER}{target.name()}"
    if target is operator.getitem:
        return GETITEM
    return NAMES.get(target) or f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"


_MISSING = object()


def _in_order(target: torch._ops.OpOverload, node: fx.Node) -> list[Any]:
    """Return the arguments of a node in the order of the schema; what follows the last one has its default."""
    values: list[Any] = []
    for number, parameter in enumerate(parameters_of(target)):
        given = node.args[number] if number < len(node.args) else node.kwargs.get(parameter.name, _MISSING)
        unset = parameter.name == "pin_memory" and given is False
        values.append("" if parameter.name == "assert_msg" else _MISSING if unset else given)
    while values and values[-1] is _MISSING:
        values.pop()
    parameters = parameters_of(target)
    return [parameters[n].default if value is _MISSING else value for n, value in enumerate(values)]
