"""`save`: a whole model becomes a file, with its weights, its classes as data, its graph and its proof."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import nn

from perdure.disk.blobs import pack
from perdure.errors import InputError, PerdureError, UnsupportedModelError
from perdure.models.contents import ARCHITECTURE, GRAPH, PROOF, SOURCES
from perdure.models.execution import FrozenGraph
from perdure.models.fingerprints import sources_of
from perdure.models.proving import Example, Verdict, examine, example_of, prove
from perdure.models.rebuilding import rebuild
from perdure.models.recording import record
from perdure.models.tracing import trace
from perdure.models.wrapping import unwrapped
from perdure.records import architecture, graph, proof, sources, values
from perdure.records.architecture import Architecture, TensorRef
from perdure.records.graph import Graph
from perdure.records.origins import Origin, origin_of
from perdure.records.proof import Proof
from perdure.records.reports import SaveReport
from perdure.records.sources import Sources
from perdure.weights.capture import Captured, capture, storable_volatile
from perdure.weights.environment import gather
from perdure.weights.saving import Target, check_target, new_manifest, pack_buffers, write
from perdure.weights.storing import hold


def save(
    model: nn.Module,
    path: Target,
    *,
    example: Any = None,
    dynamic: Any = None,
    labels: Any = None,
    notes: Any = None,
    graph: bool = True,
    sources: bool = False,
    keep_example: bool = False,
    shard_bytes: int | None = None,
) -> SaveReport:
    """Save a whole model, so that it loads without its constructor and, given an example, without its code.

    The file is one of `save_weights` that any reader of safetensors opens. Beside the weights it holds the tree of
    modules as data, and from the example the graph of the forward pass in eval mode and the proof of what it answered.

    Args:
        model: the model. It is left as it was. Compiled and DataParallel models are saved as what they wrap.
        path: a name that ends in `.safetensors`; without an ending, a folder of shards; or a binary file.
        example: arguments of the model: a tensor, a tuple of arguments in place, a dict of arguments by keyword, or a list
            of several of these. Only structure, types, shapes and ranges of it are kept. Where None, that of the file
            that the model was loaded from is taken over.
        dynamic: free axes beyond the batch and the length of token sequences, as `torch.export` takes them, such as
            `{"x": {2: "height", 3: "width"}}`.
        labels: the names of the classes that the model tells apart: a list, or a mapping from numbers to names. Where
            None, those of the file that the model was loaded from are kept.
        notes: any nesting of plain values, kept in the file.
        graph: False leaves the graph out; the example then makes the proof alone.
        sources: keep the text of the model's classes too, for people to read; it is never run.
        keep_example: keep the tensors of the first example as the proof's input, instead of generated ones.
        shard_bytes: largest size of a shard in bytes (default 5 GB). A model that is larger needs a folder.

    Returns:
        A report with the root digest of what was written, and the forms in which the model can be loaded.

    Raises:
        UnsupportedModelError: the model can be kept neither by its classes nor by its graph: what stands in the way is
            named with its place.
        InputError: the example does not fit the model.
        UnsupportedTensorError, PathError, DiskFullError, StorageError, ConflictError: as `save_weights`.

    Example:
        >>> perdure.save(model, "model.safetensors", example=images[:1], labels=["cat", "dog"])
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"saving: a module was expected, not {type(model).__name__}. Use save_weights for mappings.")
    check_target(path, shard_bytes)
    inner = unwrapped(model)
    origin = origin_of(model) or origin_of(inner)
    examples = _examples(example) or _examples_of(origin, inner)
    taken = _Taken(inner)
    if isinstance(inner, FrozenGraph):
        taken.keep_graph(inner.perdure_graph)
    else:
        taken.record_classes(sources)
        if graph and examples:
            taken.trace_graph(examples, dynamic)
    if examples:
        taken.prove(examples[0], keep_example)
    taken.try_classes()
    taken.check()
    captured = taken.captured
    holdings = hold(captured.tensors, captured.roles)
    manifest = new_manifest(
        "model",
        holdings,
        versions=captured.versions,
        extra_state=captured.extra_state,
        training=captured.training,
        notes=values.encode(notes, "notes"),
        labels=values.encode(
            checked_labels(labels if labels is not None or origin is None else origin.labels), "labels"
        ),
        parents=(origin.digest,) if origin and origin.digest else (),
        environment=gather(captured.python_modules),
    )
    report = write(path, holdings, manifest, taken.blobs(), shard_bytes, tuple(taken.warnings))
    return SaveReport(report.path, report.n_bytes, report.digest, taken.forms, report.warnings)


def graph_and_proof(model: nn.Module, example: Any, dynamic: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the blobs that an example adds to the file of a model that was loaded by its classes, and warnings.

    Raises:
        UnsupportedModelError: the model cannot be traced.
    """
    taken = _Taken(model)
    taken.record_classes(text=False)
    examples = _examples(example)
    taken.trace_graph(examples, dynamic)
    taken.prove(examples[0], keep_example=False)
    taken.check()
    blobs = taken.blobs()
    if "graph" not in taken.forms:
        raise UnsupportedModelError(f"annotating: {taken.warnings[-1]}.")
    return {key: text for key, text in blobs.items() if not key.endswith(SOURCES)}, tuple(taken.warnings)


class _Taken:
    """What a save takes from a model, part by part."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.captured = _without_lazy(capture(model))
        volatile, self.warnings = storable_volatile(self.captured)
        self._kept = dict(volatile)
        self._volatile = volatile
        self._architecture: Architecture | None = None
        self._code: list[Any] = []
        self._graph: Graph | None = None
        self._proof: Proof | None = None
        self._sources: Sources | None = None
        self._no_graph = ""

    def record_classes(self, text: bool) -> None:
        """Write down the tree of modules, and where its code came from."""
        recorded = record(self._model, self._objects(), self._volatile_objects())
        self._architecture = recorded.architecture
        self._code = recorded.code
        self._kept |= recorded.loose
        self.warnings += [f"left out: {thing}" for thing in recorded.architecture.left_out]
        self._sources = sources_of(zip(recorded.architecture.names, recorded.code, strict=True), text=text)

    def _objects(self) -> dict[str, torch.Tensor]:
        """Return the model's own tensor objects, by the names under which they are stored.

        Where a hook of state dicts puts something else in the place of a tensor, that is not the model's.
        """
        named = itertools.chain(
            self._model.named_parameters(remove_duplicate=False), self._model.named_buffers(remove_duplicate=False)
        )
        stored = self.captured.tensors
        return {name: tensor for name, tensor in named if name in stored and _is_same(tensor, stored[name])}

    def _volatile_objects(self) -> dict[str, torch.Tensor]:
        named = dict(self._model.named_buffers(remove_duplicate=False))
        return {name: named[name] for name in self._volatile if name in named}

    def trace_graph(self, examples: Sequence[Example], dynamic: Any) -> None:
        """Trace the forward pass; where that cannot be done, say why."""
        try:
            traced = trace(self._model, examples, dynamic=dynamic)
        except UnsupportedModelError as error:
            self._no_graph = str(error)
            return
        known = {*self.captured.tensors, *self._kept}
        lost = [entry.name for entry in traced.graph.tensors if entry.name not in known and entry.kind != "constant"]
        if lost:
            self._no_graph = f"its state dict leaves out {lost[0]!r}, which the forward pass uses"
            return
        self._graph = traced.graph
        self._kept |= traced.constants
        self.warnings += list(traced.notes)

    def keep_graph(self, found: Graph) -> None:
        """Take over the graph from which the model was built; its constants are among its buffers."""
        self._graph = found
        self._architecture = Architecture(obstacles=("it was loaded from its graph, without its classes",))

    def prove(self, example: Example, keep_example: bool) -> None:
        """Let the model answer a generated input, or the example itself."""
        kept: dict[str, torch.Tensor] | None = {} if keep_example else None
        self._proof = prove(self._model, example, kept=kept)
        self._kept |= kept or {}
        if self._proof.missing:
            self.warnings.append(f"the file has no proof: {self._proof.missing}")

    def try_classes(self) -> None:
        """Rebuild the model from its data and compare its answers with the proof; what fails is an obstacle."""
        if self._architecture is None or self._architecture.obstacles:
            return
        where = "what is to be saved"
        try:
            rebuilt = rebuild(self._architecture, self._code, self._tensor, where)
            proof = self._proof if self._proof and not self._proof.missing else None
            verdict = examine(rebuilt, proof, self._kept.__getitem__, where) if proof else Verdict(True)
            reason = "" if verdict.holds else f"rebuilt from its data, {verdict.said}"
        except PerdureError as error:
            reason = str(error)
        if reason:
            self._architecture = msgspec.structs.replace(self._architecture, obstacles=(reason,))

    def _tensor(self, ref: TensorRef) -> torch.Tensor:
        return (self._kept if ref.in_blob else self.captured.tensors)[ref.name].detach()

    def check(self) -> None:
        """See that the model can be loaded again in one form at least.

        Raises:
            UnsupportedModelError: it cannot.
        """
        packed, more = pack_buffers(self._kept)
        self._buffers = packed
        if more and self._kept.keys() - self._volatile.keys():
            self._architecture = Architecture(obstacles=(*(self._architecture or Architecture()).obstacles, *more))
            self._graph, self._no_graph = None, more[0]
        self.warnings += more
        obstacles = self._architecture.obstacles if self._architecture else ()
        if obstacles and self._graph is None:
            raise _unsupported(obstacles, self._no_graph)
        if obstacles and not isinstance(self._model, FrozenGraph):
            self.warnings.append(
                f"it will load from its graph alone, since it cannot be rebuilt: {'; '.join(obstacles[:5])}"
            )
        elif self._no_graph:
            self.warnings.append(f"it has no graph: {self._no_graph}")

    @property
    def forms(self) -> tuple[str, ...]:
        by_class = self._architecture is not None and not self._architecture.obstacles
        return (*("class",) * by_class, *("graph",) * (self._graph is not None), "weights")

    def blobs(self) -> dict[str, str]:
        parts = [
            (ARCHITECTURE, self._architecture, architecture.encode),
            (GRAPH, self._graph, graph.encode),
            (PROOF, self._proof, proof.encode),
            (SOURCES, self._sources, sources.encode),
        ]
        packed = dict(pack(name, encode(part)) for name, part, encode in parts if part is not None)
        return {**packed, **self._buffers}


def _is_same(tensor: torch.Tensor, stored: torch.Tensor) -> bool:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return tensor.layout == stored.layout and tensor.shape == stored.shape
    return (tensor.data_ptr(), tensor.dtype, tensor.shape) == (stored.data_ptr(), stored.dtype, stored.shape)


def _without_lazy(captured: Captured) -> Captured:
    """Leave out what a lazy module has not initialised; the architecture says that it is there."""
    captured.tensors = {name: tensor for name, tensor in captured.tensors.items() if not isinstance(tensor, _LAZY)}
    return captured


_LAZY = (torch.nn.parameter.UninitializedParameter, torch.nn.parameter.UninitializedBuffer)


def _examples(example: Any) -> list[Example]:
    """Return examples as positional and keyword arguments: from a tensor, a tuple, a dict, or a list of these."""
    if example is None:
        return []
    if isinstance(example, list):
        found = [one for part in example for one in _examples(part)]
        if not found:
            raise InputError("saving: the list of examples is empty.")
        return found
    if isinstance(example, tuple) and not hasattr(example, "_fields"):
        return [(example, {})]
    if isinstance(example, Mapping) and all(isinstance(key, str) for key in example):
        return [((), dict(example))]
    return [((example,), {})]


def _examples_of(origin: Origin | None, model: nn.Module) -> list[Example]:
    """Return the input of the proof in the file that a model was loaded from; none where it has none."""
    found = origin.proof if origin else None
    if origin is None or found is None or found.tree is None:
        return []
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    return [example_of(found, device, origin.kept.__getitem__, "the file that it came from")]


def _unsupported(obstacles: Sequence[str], no_graph: str) -> UnsupportedModelError:
    listed = "".join(f"\n  {obstacle}" for obstacle in obstacles[:20])
    more = f"\n  and {len(obstacles) - 20} more" if len(obstacles) > 20 else ""
    graph_said = f"it has no graph: {no_graph}" if no_graph else "no graph was asked for (give example=…)"
    return UnsupportedModelError(
        f"saving: the model cannot be rebuilt from its classes:{listed}{more}\nand {graph_said}."
        f" Give them names of their own (a function instead of a lambda), or save the weights alone with save_weights."
    )


def checked_labels(labels: Any) -> Any:
    """Return labels as they are kept.

    Raises:
        InputError: they are neither a list of text nor a mapping from numbers to text.
    """
    if labels is None:
        return None
    names = labels.values() if isinstance(labels, Mapping) else labels
    numbers = labels if isinstance(labels, Mapping) else ()
    fits = isinstance(labels, Mapping | Sequence) and not isinstance(labels, str)
    if not fits or not all(isinstance(name, str) for name in names) or any(type(key) is not int for key in numbers):
        raise InputError(f"saving: labels are a list of names, or a mapping from numbers to names, not {labels!r}.")
    return dict(labels) if isinstance(labels, Mapping) else list(labels)
