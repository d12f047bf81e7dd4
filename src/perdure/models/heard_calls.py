"""What is heard of each call of a module while `torch.export` runs the model: its place in the trace and its shapes.

Where a trace reads byte code instead of running it, what it noted beside the nodes has to do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from perdure.models.nested_tensors import tensors_in

SymbolicShapes = tuple[tuple[int | torch.SymInt, ...], ...]


@dataclasses.dataclass
class HeardCall:
    """A call of a module.

    Attributes:
        path: the module's first one in the model.
        key: what the trace notes for this call beside each node that it makes; empty where it notes nothing.
        depth: how many calls it was made in.
        inputs: the shapes of the tensors among its arguments.
        outputs: of those that it gave.
    """

    path: str
    key: str
    depth: int
    inputs: SymbolicShapes = ()
    outputs: SymbolicShapes = ()


class HeardCalls:
    """The calls in the order in which they begin, each followed by those that were made in it."""

    def __init__(self) -> None:
        self.calls: list[HeardCall] = []
        self._open: list[int] = []

    @contextlib.contextmanager
    def listening_to(self, model: nn.Module) -> Iterator[None]:
        """Hear each call of each module for a while."""
        with contextlib.ExitStack() as stack:
            for path, module in model.named_modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    before = module.register_forward_pre_hook(functools.partial(self._begin, path), with_kwargs=True)
                    stack.callback(before.remove)
                    after = module.register_forward_hook(self._end, prepend=True)
                    stack.callback(after.remove)
            yield

    def _begin(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not torch.compiler.is_dynamo_compiling() and get_proxy_mode() is not None:
            self._open.append(len(self.calls))
            self.calls.append(HeardCall(path, _key_of_call(), len(self._open) - 1, _shapes_in(args, kwargs)))

    def _end(self, module: nn.Module, args: Any, out: Any) -> None:
        if not torch.compiler.is_dynamo_compiling() and get_proxy_mode() is not None:
            self.calls[self._open.pop()].outputs = _shapes_in(out)


def noted_calls(program: ExportedProgram, model: nn.Module) -> list[HeardCall]:
    """Return the calls that made the nodes of a program: what goes in and out are tensors that cross their bounds."""
    first_paths = {id(module): path for path, module in model.named_modules()}
    paths = {f"model.{path}": first_paths[id(module)] for path, module in model.named_modules(remove_duplicate=False)}
    calls = {"": HeardCall("", "", 0)}
    around: dict[fx.Node, list[str]] = {node: [] for node in program.graph.nodes}
    for node in program.graph.nodes:
        if node.op == "call_function":
            stack = (node.meta.get("nn_module_stack") or {}).items()
            known = [("", ""), *((common_key(key), paths[path]) for key, (path, *_) in stack if path in paths)]
            around[node] = [key for key, _ in known]
            for depth, (key, path) in enumerate(known):
                calls.setdefault(key, HeardCall(path, key, depth))
    held = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is not InputKind.USER_INPUT}
    for node in program.graph.nodes:
        if isinstance(node.meta.get("val"), torch.Tensor) and node.name not in held:
            users = [set(around[user]) for user in node.users]
            for key in around[node]:
                if any(key not in user for user in users):
                    calls[key].outputs += (tuple(node.meta["val"].shape),)
            for key in dict.fromkeys(key for user in node.users for key in around[user]):
                if key not in around[node]:
                    calls[key].inputs += (tuple(node.meta["val"].shape),)
    return list(calls.values())


def _key_of_call() -> str:
    """Return what the trace notes beside the nodes that the call which now runs makes; empty where it notes nothing."""
    stack = getattr(getattr(get_proxy_mode(), "tracer", None), "module_stack", None)
    return common_key(next(reversed(stack))) if stack else ""


def common_key(key: str) -> str:
    """Return such a key less what `torch.export` puts before it, which is not the same while it runs and afterwards."""
    return key.removeprefix("_export_root").removeprefix(".").removeprefix("L__self__")


def _shapes_in(*values: Any) -> SymbolicShapes:
    return tuple(tuple(tensor.shape) for value in values for tensor in tensors_in(value) if not tensor.is_nested)
