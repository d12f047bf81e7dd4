"""What a save takes from a model, part by part: its tensors, its classes as data, its graph, its proof, its sources."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import nn

from perdure.disk.blobs import pack
from perdure.errors import InputError, PerdureError, UnsupportedModelError
from perdure.models.answers import Verdict
from perdure.models.contents import ARCHITECTURE, GRAPH, PICTURE, PROOF, SOURCES
from perdure.models.examples import Example
from perdure.models.execution import FrozenGraph
from perdure.models.fingerprints import sources_of
from perdure.models.picturing import take_picture
from perdure.models.proving import examine, prove
from perdure.models.rebuilding import rebuild
from perdure.models.recording import device_of, record
from perdure.models.tracing import trace
from perdure.records import architecture, graph, picture, proof, sources, values
from perdure.records.architecture import Architecture, TensorRef
from perdure.records.graph import Graph
from perdure.records.picture import Picture
from perdure.records.proof import Proof
from perdure.records.sources import Sources
from perdure.weights.capture import Captured, capture, storable_volatile
from perdure.weights.saving import pack_buffers

if TYPE_CHECKING:
    from perdure.images.preprocess import Preprocess


class Taken:
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
        self._picture: Picture | None = None
        self._sources: Sources | None = None
        self._no_graph = ""

    def record_classes(self, text: bool) -> None:
        """Write down the tree of modules, and where its code came from."""
        recorded = record(self._model, self._objects(), self._volatile_objects())
        self._architecture = _loadable(recorded.architecture)
        self._code = recorded.code
        self._kept |= recorded.loose
        self.warnings += [f"left out: {thing}" for thing in recorded.architecture.left_out]
        self.warnings += recorded.notes
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

    def trace_graph(self, examples: Sequence[Example], dynamic: Any, *, whose: str = "") -> None:
        """Trace the forward pass; where that cannot be done, say why.

        Args:
            examples: what the model is called with.
            dynamic: as `save` takes it.
            whose: where they come from, if not from the caller, who then need not hear that the model does not take them.

        Raises:
            InputError: the model does not take the caller's example.
        """
        try:
            traced = trace(self._model, examples, dynamic=dynamic, taken={*self.captured.tensors, *self._kept})
        except UnsupportedModelError as error:
            self._no_graph = str(error)
            return
        except InputError as error:
            if not whose:
                raise
            self._no_graph = f"the model does not take the example of {whose}: {error}"
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
        self._proof = prove(self._model, example, kept=kept, taken={*self.captured.tensors, *self._kept})
        self._kept |= kept or {}
        if self._proof.missing:
            self.warnings.append(f"the file has no proof: {self._proof.missing}")

    def take_picture(self, preprocess: Preprocess) -> None:
        """Send the picture through the preprocessing, and let the model answer to it."""
        self._picture = take_picture(preprocess, self._model)
        if self._picture.missing:
            self.warnings.append(f"its preprocessing is not proved: {self._picture.missing}")

    def try_classes(self) -> None:
        """Rebuild the model from its data and compare its answers with the proof; what fails is an obstacle."""
        if self._architecture is None or self._architecture.obstacles:
            return
        where = "what is to be saved"
        try:
            rebuilt = rebuild(self._architecture, self._code, self._tensor, where, device_of(self._model))
            proof = self._proof if self._proof and not self._proof.missing else None
            verdict = examine(rebuilt, proof, self._kept.__getitem__, where) if proof else Verdict(True)
            reason = "" if verdict.holds else f"rebuilt from its data, {verdict.said}"
        except PerdureError as error:
            reason = str(error)
        if reason:
            self._architecture = msgspec.structs.replace(self._architecture, obstacles=(reason,))

    def _tensor(self, ref: TensorRef) -> torch.Tensor:
        tensor = (self._kept if ref.in_blob else self.captured.tensors)[ref.name].detach()
        return tensor.clone() if tensor.is_inference() else tensor  # which cannot be trained on

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
            (PICTURE, self._picture, picture.encode),
            (SOURCES, self._sources, sources.encode),
        ]
        contents = {name: encode(part) for name, part, encode in parts if part is not None}
        for content in contents.values():
            values.check_count(content)
        packed = dict(pack(name, content) for name, content in contents.items())
        return {**packed, **self._buffers}


def _loadable(found: Architecture) -> Architecture:
    """Return an architecture, or where it has more values than are loaded again, one that says so alone."""
    try:
        values.check_count(architecture.encode(found))
    except InputError as error:
        return Architecture(obstacles=(*found.obstacles, str(error).removeprefix("saving: ")))
    return found


def _is_same(tensor: torch.Tensor, stored: torch.Tensor) -> bool:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return tensor.layout == stored.layout and tensor.shape == stored.shape
    return (tensor.data_ptr(), tensor.dtype, tensor.shape) == (stored.data_ptr(), stored.dtype, stored.shape)


def _without_lazy(captured: Captured) -> Captured:
    """Leave out what a lazy module has not initialised; the architecture says that it is there."""
    captured.tensors = {name: tensor for name, tensor in captured.tensors.items() if not isinstance(tensor, _LAZY)}
    return captured


_LAZY = (torch.nn.parameter.UninitializedParameter, torch.nn.parameter.UninitializedBuffer)


def _unsupported(obstacles: Sequence[str], no_graph: str) -> UnsupportedModelError:
    listed = "".join(f"\n  {obstacle}" for obstacle in obstacles[:20])
    more = f"\n  and {len(obstacles) - 20} more" if len(obstacles) > 20 else ""
    graph_said = f"it has no graph: {no_graph}" if no_graph else "no graph was asked for (give example=…)"
    return UnsupportedModelError(
        f"saving: the model cannot be rebuilt from its classes:{listed}{more}\nand {graph_said}."
        f" Give them names of their own (a function instead of a lambda), or save the weights alone with save_weights."
    )
