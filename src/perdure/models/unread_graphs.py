"""The graph of a saved model on tensors without content: none of the file's tensors is read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from perdure.disk.stored import StoredTensors
from perdure.models.contents import Contents
from perdure.models.execution import FrozenGraph, build
from perdure.models.proving import Example, example_like


class UnreadGraph(NamedTuple):
    """A model in the form of its graph, without content.

    Attributes:
        model: the model.
        example: arguments in place and by keyword, like those that the file's proof has; None where it has none.
    """

    model: FrozenGraph
    example: Example | None


def unread_graph(stored: StoredTensors, mode: FakeTensorMode | None = None) -> UnreadGraph | None:
    """Build the graph of a saved model on tensors that have types and shapes alone.

    Parameters are `nn.Parameter`, tied ones one object, and get gradients where those of the saved model did. Tensors that
    the graph does not use are in the model too.

    Args:
        stored: the opened file or folder.
        mode: makes the tensors, which are on the CPU then; None makes them on `meta`.

    Returns:
        The model with its example; None where the file has no graph.

    Raises:
        UnsupportedModelError: the graph uses a sparse or quantized tensor.
        CorruptError, LimitError, ProtocolError: as `perdure.load`.
    """
    contents = Contents(stored, verify=False)
    graph = contents.graph
    if graph is None:
        return None

    def make(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if mode is None:
            return torch.empty(shape, dtype=dtype, device="meta")
        with mode:
            return torch.empty(shape, dtype=dtype, device="cpu")

    model = build(graph, contents.unread_tensors_of_graph(graph, make), where=contents.where)
    proof = contents.proof
    if proof is None or proof.tree is None:
        return UnreadGraph(model, None)
    return UnreadGraph(model, example_like(proof, make, contents.where))
