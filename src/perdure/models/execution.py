"""A graph becomes a module that runs: a `torch.fx.GraphModule` whose source holds no text of the file.

The nodes of the generated source are numbered; tensors are fetched by attributes whose names are letters, digits and
underscores, or else by a number. Names of arguments, keys and plain values of the outputs are data of two small
modules, one that binds and checks what a call gives, and one that hangs what comes out into its tree.
"""

from __future__ import annotations

import copy
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from perdure.errors import CorruptError, InputError
from perdure.models.graph_calls import Inputs
from perdure.models.graph_kinds import Kinds
from perdure.models.graph_nodes import FOLLOWS, INPUTS, Builder
from perdure.models.operators import (
    dtype_named,
)
from perdure.records.graph import Graph

_PART = re.compile(r"[A-Za-z0-9_]+")
_RESERVED = re.compile(r"(tensor|subgraph)_\d+|perdure_.*|_.*")


_UNTRAINABLE = (
    "a model loaded from its graph stays in eval mode: dropout and batch statistics were fixed when it was saved. It can "
    "be fine-tuned as it is (its parameters get gradients). To train it, load it by its classes: perdure.load(path, "
    "trusted=[…])."
)


def build(
    graph: Graph, tensors: Mapping[str, torch.Tensor], *, device: torch.device | str | None = None, where: str = "graph"
) -> FrozenGraph:
    """Build a module that runs a graph.

    Args:
        graph: as `perdure.records.graph.decode` returns it.
        tensors: the model's tensors by name, parameters as `nn.Parameter`: those that the graph uses and any others,
            which are kept in the state dict.
        device: where the model shall be; None leaves the tensors where they are.
        where: names the file in messages.

    Returns:
        The module, in eval mode. It takes the arguments of the original's forward function.

    Raises:
        CorruptError: the graph is none: an argument that its operator does not take, a tensor that is not there.
        LimitError: a tensor larger than any memory.
        ProtocolError: an operator that perdure does not run, or that this PyTorch does not have.
    """
    kinds = Kinds(graph, where)
    kinds.check()
    made = FrozenGraph(nn.Module(), fx.Graph())
    attributes = _register(made, graph, tensors, where)
    names = [attributes[entry.name] for entry in graph.tensors]
    builder = Builder(graph, kinds, names, _device_of(tensors), where)
    made.adopt(graph, builder.build(made), _device_of(tensors))
    made.rename({attribute: name for name, attribute in attributes.items() if attribute != name})
    return made if device is None else made.to(device)


def _device_of(tensors: Mapping[str, torch.Tensor]) -> torch.device:
    return next((tensor.device for tensor in tensors.values()), torch.device("cpu"))


class FrozenGraph(fx.GraphModule):
    """A model in the form of its graph. It stays in eval mode.

    Attributes:
        perdure_graph: the record that it was built from, to be saved again as it is.
    """

    perdure_graph: Graph
    _dtype: torch.dtype | None = None
    _renamed: Mapping[str, str] = {}
    _device: torch.device = torch.device("cpu")

    def adopt(self, graph: Graph, nodes: fx.Graph, device: torch.device) -> None:
        """Take over the nodes that were built for it."""
        self.perdure_graph = graph
        self._dtype, self._device = dtype_named(graph.dtype), device
        self.graph = nodes
        self.eval()

    def recompile(self) -> Any:
        """Generate the source; a failing operator then raises its error, which `torch.fx` would also print."""
        made = super().recompile()
        type(self).__call__ = nn.Module.__call__
        return made

    def rename(self, names: Mapping[str, str]) -> None:
        """Keep tensors in state dicts under other names than those of their attributes."""
        self._renamed = names

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for attribute, name in self._renamed.items():
            if prefix + attribute in destination:
                destination[prefix + name] = destination.pop(prefix + attribute)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any, **by_name: Any) -> None:
        for attribute, name in self._renamed.items():
            if prefix + name in state_dict:
                state_dict[prefix + attribute] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *rest, **by_name)

    def _get_name(self) -> str:
        return "FrozenGraph"

    def train(self, mode: bool = True) -> FrozenGraph:
        """Refuse train mode.

        Raises:
            InputError: `mode` is true.
        """
        if mode:
            raise InputError(f"setting train mode: {_UNTRAINABLE}")
        return super().train(False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> FrozenGraph:
        probe = torch.empty(0, dtype=self._dtype or torch.float32, device=self._device)
        changed = fn(probe)
        if self._dtype is not None and changed.dtype != self._dtype:
            self._change_dtype(changed.dtype)
        super()._apply(fn, recurse)
        if changed.device != self._device:
            self._change_device(changed.device)
        return self

    def _change_dtype(self, dtype: torch.dtype) -> None:
        fixed = sum(_mentions(node, self._dtype) for part in self._graphs() for node in part.graph.nodes)
        if fixed:
            raise InputError(
                f"casting to {dtype}: the graph names {self._dtype} itself in {fixed} places, so it computes in no other "
                f"type. Load the model by its classes with trusted=[…] and cast that."
            )
        inputs = self.get_submodule(INPUTS)
        assert isinstance(inputs, Inputs) and self._dtype is not None
        inputs.expect_dtype(self._dtype, dtype)
        self._dtype = dtype

    def _change_device(self, device: torch.device) -> None:
        """Let what the graph makes be made where the model now is."""
        self._device = device
        for part in self._graphs():
            for node in part.graph.nodes:
                if node.meta.get(FOLLOWS):
                    node.args, node.kwargs = _with_device(node.args, device), _with_device(node.kwargs, device)
            part.recompile()

    def _graphs(self) -> list[fx.GraphModule]:
        return [part for part in self.modules() if isinstance(part, fx.GraphModule)]

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenGraph:
        made = FrozenGraph(nn.Module(), fx.Graph())
        memo[id(self)] = made
        for key, value in vars(self).items():
            if key != "_graph":
                vars(made)[key] = copy.deepcopy(value, memo)
        made.graph = copy.deepcopy(self.graph)
        return made


def _mentions(node: fx.Node, dtype: torch.dtype | None) -> bool:
    return any(value is dtype for value in (*node.args, *node.kwargs.values()))


def _with_device(value: Any, device: torch.device) -> Any:
    """Replace devices among the arguments of a node."""
    if isinstance(value, torch.device):
        return device
    if isinstance(value, tuple | list):
        return type(value)(_with_device(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _with_device(item, device) for key, item in value.items()}
    return value


def _register(made: nn.Module, graph: Graph, tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, str]:
    """Register all tensors; returns the attribute of each."""
    kinds = {entry.name: entry.kind for entry in graph.tensors}
    missing = [name for name in kinds if name not in tensors]
    if missing:
        raise CorruptError(f"reading {where}: its graph uses the tensor {missing[0][:80]!r}, which is not in the file.")
    attributes: dict[str, str] = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        attributes[name] = name if _is_plain(name) else f"tensor_{number}"
        try:
            _place(made, attributes[name], tensor, kinds.get(name) not in ("volatile", "constant"))
        except KeyError:
            raise CorruptError(f"reading {where}: the tensor {name[:80]!r} stands where another stands.") from None
    return attributes


def _is_plain(name: str) -> bool:
    """Tell whether a tensor's name can be a path of attributes, and one that is safe to write into source."""
    first, *others = name.split(".")
    if not all(_PART.fullmatch(part) and not keyword.iskeyword(part) for part in (first, *others)):
        return False
    taken = _RESERVED.fullmatch(first) or hasattr(FrozenGraph, first)
    return not taken and not any(hasattr(nn.Module, part) for part in others)


def _place(made: nn.Module, attribute: str, tensor: torch.Tensor, persistent: bool) -> None:
    *parents, last = attribute.split(".")
    holder = made
    for parent in parents:
        if parent not in holder._modules:
            holder.add_module(parent, nn.Module())
        holder = holder.get_submodule(parent)
    if isinstance(tensor, nn.Parameter):
        holder.register_parameter(last, tensor)
    else:
        holder.register_buffer(last, tensor, persistent)
