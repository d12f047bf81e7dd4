"""A model's forward pass, traced in eval mode with `torch.export` and written as a graph.

The trace sees a wrapper that takes a list of tensors, rebuilds the arguments from it and takes the output apart, so
that no class of an argument or an output gets into it. What it fixes is then tried: the graph is compared with the
model at other sizes, at size 1 and where the trace assumed two sizes to differ. An assumption that made no difference
is dropped, any other is kept as a constraint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from perdure.errors import InputError, PerdureError, UnsupportedModelError
from perdure.models.examples import Example
from perdure.models.heard_calls import HeardCalls, noted_calls
from perdure.models.preserving import Before
from perdure.models.structure import Tree, flatten, leaf_places
from perdure.models.traced_axes import Axes, asked_axes, batch_axes, token_axes
from perdure.models.traced_calls import (
    NOISY,
    Call,
    Flat,
    as_traced,
    first_lines,
    is_plain,
    is_tensor,
    quiet,
)
from perdure.models.traced_nodes import Writer
from perdure.models.traced_sizes import Sizes, SizesError
from perdure.models.trials import Trial, close
from perdure.records.graph import (
    Argument,
    Graph,
    Leaf,
)
from perdure.weights.dtypes import short_name


@dataclasses.dataclass(frozen=True)
class Traced:
    """What a trace gave.

    Attributes:
        graph: the forward pass.
        constants: tensors that are neither parameters nor buffers, by the names that the graph has for them.
        notes: what the caller should know about it, such as an axis that is not free.
        fixed: those axes: a tensor's number, the axis, and the two in words.
    """

    graph: Graph
    constants: dict[str, torch.Tensor]
    notes: tuple[str, ...] = ()
    fixed: tuple[tuple[int, int, str], ...] = ()


class _AttemptError(Exception):
    """A trace with these axes free is not to be had; one with fewer may be."""


def trace(model: nn.Module, examples: Sequence[Example], *, dynamic: Any = None, taken: Iterable[str] = ()) -> Traced:
    """Trace a model's forward pass in eval mode.

    Args:
        model: the model; it is left as it was, with the mode of each module.
        examples: arguments in place and by keyword. The first is traced; axes in which others differ from it are free.
        dynamic: further free axes, as `torch.export` takes them: by the arguments' names or in their order, e.g.
            `{"x": {2: "height", 3: "width"}}`. The first axis of the tensors, and the second of integer ones of two
            axes, are free where the model allows it.
        taken: names that its constants must not get.

    Returns:
        The graph, its constants and notes.

    Raises:
        InputError: the examples or `dynamic` do not fit the model's forward function.
        UnsupportedModelError: the model cannot be traced; the message gives the reason.
    """
    if not examples:
        raise InputError("tracing: there is no example. Pass the arguments that the model takes.")
    calls = [Call(model, *example) for example in examples]
    with as_traced(model) as before:
        return Tracer(model, calls, dynamic, before, frozenset(taken)).trace()


_OLD = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 7)


_export: Callable[..., ExportedProgram] = getattr(torch.export, "export_for_training" if _OLD else "export")
"""Gives operators as the model calls them; before PyTorch 2.7 that went by another name."""


class Tracer:
    """Traces one model."""

    def __init__(
        self, model: nn.Module, calls: list[Call], dynamic: Any, before: Before, taken: frozenset[str]
    ) -> None:
        self.model = model
        self._taken = taken
        self.before = before
        self.call = calls[0]
        self.notes: list[str] = []
        self.expected: list[Any] = []
        for number, leaf in enumerate(self.call.leaves):
            self._check_leaf(leaf, self.call.places[number])
        self.named = [place for place, leaf in zip(self.call.places, self.call.leaves, strict=True) if is_tensor(leaf)]
        self.asked = asked_axes(self.call, dynamic)
        self.tensors = self.call.tensors
        self._compare_examples(calls[1:])
        self.batch = batch_axes(self.tensors)
        self.tokens = token_axes(self.tensors)
        self.device = next(
            (p.device for p in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu")
        )

    def _check_leaf(self, leaf: Any, place: str) -> None:
        if isinstance(leaf, torch.Tensor) and leaf.layout is not torch.strided:
            raise UnsupportedModelError(
                f"tracing: {place} is a tensor of layout {leaf.layout}; only dense ones are traced."
            )
        if not isinstance(leaf, torch.Tensor | torch.dtype | torch.device) and not is_plain(leaf):
            raise UnsupportedModelError(
                f"tracing: {place} is of type {type(leaf).__name__}. A graph takes and gives tensors, numbers, text and "
                f"nestings of them. A cache of a transformer is left out with use_cache=False."
            )

    def _compare_examples(self, others: list[Call]) -> None:
        """Free the axes in which other examples differ from the first."""
        for other in others:
            if other.tree != self.call.tree or len(other.tensors) != len(self.tensors):
                raise InputError(
                    "tracing: the examples differ in their structure. Pass examples that differ in size alone."
                )
            for number, (one, two) in enumerate(zip(self.tensors, other.tensors, strict=True)):
                if one.dtype != two.dtype or one.dim() != two.dim():
                    raise InputError(f"tracing: the examples differ in the type or the axes of {self.named[number]}.")
                for axis, (size, another) in enumerate(zip(one.shape, two.shape, strict=True)):
                    if size != another:
                        self.asked.setdefault(number, {}).setdefault(axis, Dim.AUTO)

    def trace(self) -> Traced:
        """Trace with as many free axes as the model allows, write down and try."""
        single = self.tensors
        self._repeat_single()
        traced = self._trace()
        shapes = [leaf.shape for leaf in traced.graph.leaves if leaf.dtype]
        if self.tensors is single or all(type(shapes[number][0]) is not int for number in self.batch):
            return traced
        self.tensors, self.batch, self.notes = single, [], ["the model fixes the size of the batch, here at 1"]
        return self._trace()

    def _trace(self) -> Traced:
        self.expected, tree = self._run_example()
        for leaf, place in zip(self.expected, leaf_places(tree, "the output"), strict=True):
            self._check_leaf(leaf, place)
        reasons: list[str] = []
        best: Traced | None = None
        for free, strict in self._attempts():
            if best is not None and not strict:
                break
            try:
                traced = self._attempt(free, strict, tree)
            except _AttemptError as error:
                reasons.append(str(error))
                continue
            if best is None or len(traced.fixed) < len(best.fixed):
                best = traced
            if not best.fixed:
                break
        if best is not None:
            return self._accepted(best)
        raise UnsupportedModelError(
            f"tracing {type(self.model).__name__}: {reasons[0]}\nSave it with graph=False, by its classes alone, or change "
            f"what stands in the way."
        )

    def _attempt(self, free: list[Axes], strict: bool, tree: Tree) -> Traced:
        """Trace with these axes free, by running the model or, where `strict`, by reading its byte code too."""
        heard = HeardCalls()
        try:
            program = self._export(free, strict, heard)
        except Exception as error:
            raise _AttemptError(f"torch.export cannot trace its forward function: {first_lines(error)}") from error
        calls = noted_calls(program, self.model) if strict else heard.calls
        writer = Writer(self.model, program, self.device, self._taken, calls)
        try:
            found = self._assemble(writer, tree)
            trial = Trial(self, found, writer)
        except SizesError as error:
            raise _AttemptError(str(error)) from error
        reason = trial.reason()
        if reason:
            raise _AttemptError(reason)
        return Traced(trial.settled(), writer.constants, (*self.notes, *trial.notes), tuple(self._fixed(found)))

    def _accepted(self, traced: Traced) -> Traced:
        """Add which of the axes that should be free are fixed; an error where the caller asked for them."""
        for number, axis, said in traced.fixed:
            if axis in self.asked.get(number, {}):
                raise UnsupportedModelError(f"tracing: {said}, so it cannot be free. Leave it out of dynamic=.")
        notes = (*traced.notes, *(said for _, _, said in traced.fixed), *self._fast_path())
        return dataclasses.replace(traced, notes=notes)

    def _fast_path(self) -> Iterator[str]:
        """Yield what to know where the fast path of PyTorch's encoders, which a trace leaves aside, answers otherwise."""
        if not any(isinstance(module, nn.TransformerEncoder) for module in self.model.modules()):
            return
        torch.backends.mha.set_fastpath_enabled(True)
        try:
            with torch.no_grad():
                found, _ = self.run_model(self.tensors)
            same = all(close(one, two) for one, two in zip(self.expected, found, strict=True))
        except Exception:  # it refuses sequences that are padding alone
            same = False
        finally:
            torch.backends.mha.set_fastpath_enabled(False)
        if not same:
            yield (
                "without gradients, the fast path of nn.TransformerEncoder answers otherwise than with them (it fills "
                "padding with zeros); the graph answers as with gradients. enable_nested_tensor=False makes both the same"
            )

    def _run_example(self) -> tuple[list[Any], Tree]:
        try:
            with torch.no_grad():
                torch.manual_seed(0)
                return self.run_model(self.tensors)
        except PerdureError:
            raise
        except Exception as error:
            raise InputError(
                f"tracing: {type(self.model).__name__} does not take the example: {first_lines(error)}"
            ) from error

    def _repeat_single(self) -> None:
        """Repeat examples of batch size 1, which the trace would fix, where the model takes more."""
        single = [number for number in self.batch if self.tensors[number].shape[0] == 1]
        if not single:
            return
        more = [torch.cat([t, t]) if number in single else t for number, t in enumerate(self.tensors)]
        try:
            with torch.no_grad():
                self.run_model(more)
        except Exception:
            self.batch = []
            self.notes.append("the model takes no batch larger than 1, so the graph takes a batch of 1 alone")
        else:
            self.tensors = more

    def run_model(self, tensors: Sequence[torch.Tensor]) -> tuple[list[Any], Tree]:
        """Let the model answer; afterwards it is as before. What it gives may lie in its buffers, and is copied then."""
        copies = [tensor.detach().clone() for tensor in tensors]
        try:
            leaves, tree = flatten(self.call.call(self.model, copies), "the output")
            return [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], tree
        finally:
            self.before.restore()

    def _attempts(self) -> Iterator[tuple[list[Axes], bool]]:
        asked = [dict(self.asked.get(number, {})) for number in range(len(self.tensors))]
        batch = [{**({0: Dim.AUTO} if number in self.batch else {}), **axes} for number, axes in enumerate(asked)]
        tokens = [{**({1: Dim.AUTO} if number in self.tokens else {}), **axes} for number, axes in enumerate(batch)]
        choices = [tokens, *([batch] if batch != tokens else []), *([asked] if asked not in (tokens, batch) else [])]
        yield choices[0], False
        yield choices[0], True
        for free in choices[1:]:
            yield free, False

    def _export(self, free: list[Axes], strict: bool, heard: HeardCalls) -> ExportedProgram:
        shapes = [self._marks(number, axes) for number, axes in enumerate(free)]
        copies = [tensor.detach().clone() for tensor in self.tensors]
        flat = Flat(self.model, self.call)
        try:
            with (
                contextlib.nullcontext() if strict else heard.listening_to(self.model),
                contextlib.redirect_stderr(io.StringIO()),
                quiet(NOISY),
            ):
                return _export(flat, (copies,), dynamic_shapes=(shapes,) if shapes else None, strict=strict)
        finally:
            self.before.restore()  # a trace leaves tensors of its own kind in them

    def _marks(self, number: int, axes: Axes) -> Axes:
        """Return the marks of one tensor's free axes; an axis of size 1 is never left to be found out."""
        shape = self.tensors[number].shape
        return {axis: mark for axis, mark in axes.items() if mark is not Dim.AUTO or shape[axis] > 1}

    def _assemble(self, writer: Writer, tree: Tree) -> Graph:
        sizes = Sizes(writer.fakes, self.batch)
        shapes = iter([tuple(sizes.size(size) for size in fake.shape) for fake in writer.fakes])
        leaves = tuple(
            Leaf(short_name(leaf.dtype), next(shapes))
            if isinstance(leaf, torch.Tensor)
            else Leaf(value=writer.value(leaf, {}, 0))
            for leaf in self.call.leaves
        )
        numbers = [number for number, leaf in enumerate(leaves) if leaf.dtype]
        nodes, outputs = writer.write(numbers)
        modules, calls = writer.scopes.recorded(len(nodes), sizes.written)
        return Graph(
            features=("scan",) if any(op.name == "higher_order.scan" for op in writer.operators) else (),
            operators=tuple(writer.operators),
            tensors=tuple(writer.tensors),
            arguments=tuple(self._arguments(writer)),
            leaves=leaves,
            symbols=tuple(sizes.symbols(writer.program)),
            constraints=tuple(sizes.constraints()),
            nodes=nodes,
            outputs=outputs,
            tree=tree,
            dtype=self._dtype(),
            subgraphs=tuple(writer.subgraphs),
            modules=modules,
            calls=calls,
        )

    def _arguments(self, writer: Writer) -> Iterator[Argument]:
        for name, way in self.call.ways.items():
            has_default = name in self.call.defaults
            default = writer.value(self.call.defaults.get(name), {}, 0)
            yield Argument(name, way, self.call.trees.get(name), default, has_default)  # pyright: ignore[reportArgumentType]

    def _dtype(self) -> str:
        floating = (
            p.dtype for p in itertools.chain(self.model.parameters(), self.model.buffers()) if p.is_floating_point()
        )
        return next(map(short_name, floating), "")

    def _fixed(self, graph: Graph) -> Iterator[tuple[int, int, str]]:
        """Yield which of the axes that should be free are fixed: the tensor's number, the axis, and the two in words."""
        leaves = [leaf for leaf in graph.leaves if leaf.dtype]
        for number, leaf in enumerate(leaves):
            asked = self.asked.get(number, {})
            wanted = {*asked, *((0,) if number in self.batch else ()), *((1,) if number in self.tokens else ())}
            for axis in sorted(axis for axis in wanted if type(leaf.shape[axis]) is int):
                yield number, axis, f"axis {axis} of {self.named[number]} is fixed at {leaf.shape[axis]} by the model"
