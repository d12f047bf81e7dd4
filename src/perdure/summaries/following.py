"""A model's calls followed: which module ran which operators, on what shapes, and what memory that took."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch._C._autograd import _get_sequence_nr
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from perdure.models.execution import FrozenGraph
from perdure.models.graph_scopes import run_in_scopes
from perdure.models.nested_tensors import leading_shape, shapes_in, tensors_in
from perdure.records.module_calls import Scope
from perdure.records.summary.summary import ModuleCall
from perdure.summaries.conventions.counting import Counter
from perdure.summaries.ledger import Ledger
from perdure.summaries.lenient_kernels import run_operator
from perdure.summaries.workspaces import workspace_of


@dataclasses.dataclass
class Followed:
    """What is known of the calls of one module."""

    n_calls: int = 0
    calls: dict[ModuleCall, None] = dataclasses.field(default_factory=dict)
    activation_bytes: int = 0


class Follower(TorchDispatchMode):
    """Sees every operator below autograd, and knows which module it belongs to.

    Attributes:
        modules: what is known of each module, by its path.
        ledger: keeps account of memory.
        counter: counts the operations of forward passes.
        backward: counts those of backward passes.
        differentiates: what runs is the backward pass; what a model differentiates itself belongs to its forward pass.
        scalar: where set, what a tensor without content has as its value.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        ledger: Ledger,
        counter: Counter,
        backward: Counter | None = None,
        modules: dict[str, Followed] | None = None,
    ) -> None:
        super().__init__()
        self.modules: dict[str, Followed] = {} if modules is None else modules
        self.ledger = ledger
        self.counter = counter
        self.backward = backward
        self.differentiates = False
        self.scalar: Any = None
        self._calls: list[tuple[str, int | None]] = [("", None)]
        self._path_of_node: dict[int, str] = {}

    @property
    def path(self) -> str:
        """The path of the module that runs, or whose forward pass is being differentiated."""
        path, node = self._calls[-1]
        current = _current_node()
        return path if current == node else self._path_of_node.get(current or 0, "")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):  # it makes others of it, which come here next
            return NotImplemented
        if func.namespace == "prim":
            return func(*args, **kwargs)
        if self.scalar is not None and func is torch.ops.aten._local_scalar_dense.default:
            return self.scalar
        if func is torch.ops.higher_order.cond:
            _, *branches, operands = args
            with self:
                return self.counter.of_alternatives([functools.partial(branch, *operands) for branch in branches])
        if _is_composite(func) and not any(tensor.is_nested for tensor in tensors_in((args, kwargs))):
            return self._taken_apart(func, args, kwargs)
        out = run_operator(func, args, kwargs)
        workspace = workspace_of(func, args, out)
        if workspace is not None and workspace.kept_bytes and isinstance(out[-1], FakeTensor):
            out = (*out[:-1], out[-1].new_empty(workspace.kept_bytes, dtype=torch.uint8))
        for tensor in tensors_in(out):
            self.ledger.note(tensor)
        if workspace is not None:
            self.ledger.note_transient(workspace.transient_bytes)
        self._count(func, args, kwargs, out)
        return out

    def _taken_apart(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator as those that it is made of; in inference mode such come here whole."""
        out = None
        self.counter.enter(func)
        try:
            with self:
                out = func.decompose(*args, **kwargs)
        finally:
            self.counter.leave(func, args, kwargs, out, self.path)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        path = self.path
        self._path_of_node.setdefault(
            _get_sequence_nr() - 1, path
        )  # of the operator itself, if it has a node, as of now
        counter = self.backward if self.differentiates else self.counter
        if counter is not None:
            counter.on_operator(func, args, kwargs, out, path)

    def enter(self, path: str) -> None:
        """A module's call begins."""
        self._calls.append((path, _current_node()))
        self.ledger.open()

    def leave(self, shapes: ModuleCall) -> None:
        """The call that began last ends."""
        found = self.modules.setdefault(self._calls.pop()[0], Followed())
        found.n_calls += 1
        found.calls[shapes] = None
        found.activation_bytes = max(found.activation_bytes, self.ledger.close())

    def abandon(self) -> None:
        """The call that runs failed."""
        self._calls.pop()
        self.ledger.close()


def _current_node() -> int | None:
    """Return the number of what autograd is differentiating; None where it is not."""
    node = torch._C._current_autograd_node()
    return None if node is None else node._sequence_nr()


@functools.cache
def _is_composite(func: Any) -> bool:
    """Tell whether an operator is made of others, and has no kernel of its own on a CPU."""
    if not isinstance(func, OpOverload):
        return False
    has = functools.partial(torch._C._dispatch_has_kernel_for_dispatch_key, func.name())
    return has("CompositeImplicitAutograd") and not has("CPU")


def call_followed(model: nn.Module, follower: Follower, args: Any, kwargs: Any) -> Any:
    """Call a model and let the follower know of each call of a module in it.

    What is set on the modules stays until their attributes are put back.
    """
    if isinstance(model, FrozenGraph):
        return run_in_scopes(model, _OfGraph(model, follower), *args, **kwargs)
    watch(model, follower)
    return model(*args, **kwargs)


def watch(model: nn.Module, follower: Follower) -> None:
    """Let the follower see each call of each module, until what is set on them here is put back."""
    for path, module in model.named_modules():
        vars(module)["forward"] = _watched(module.forward, module, path, follower)


def _watched(forward: Any, module: nn.Module, path: str, follower: Follower) -> Any:
    @functools.wraps(forward)
    def called(*args: Any, **kwargs: Any) -> Any:
        follower.enter(path)
        try:
            out = forward(*args, **kwargs)
        except BaseException:
            follower.abandon()
            raise
        follower.leave(ModuleCall(shapes_in(args, kwargs), shapes_in(out)))
        follower.counter.on_call(module, type(module).__name__, path, leading_shape(out))
        return out

    return called


class _OfGraph:
    """Tells the follower of the calls in a graph."""

    def __init__(self, model: FrozenGraph, follower: Follower) -> None:
        self._model, self._follower = model, follower

    def on_enter(self, scope: Scope) -> None:
        self._follower.enter(scope.path)

    def on_exit(self, scope: Scope) -> None:
        self._follower.leave(ModuleCall(scope.inputs, scope.outputs))
        holder = _submodule(self._model, scope.path)
        if holder is not None:
            shape = scope.outputs[0] if scope.outputs else ()
            self._follower.counter.on_call(holder, scope.kind, scope.path, shape)


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    """Return what holds the tensors of a module in a graph; None for one that has none."""
    try:
        return model.get_submodule(path) if path else None
    except AttributeError:
        return None


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Let compiled functions run as they are written, and encoder layers by the operators that they are made of."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    stance = getattr(torch.compiler, "set_stance", None)
    try:
        with stance("force_eager") if stance else contextlib.nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
