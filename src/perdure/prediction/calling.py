"""How a model is called with images alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from perdure.errors import InputError
from perdure.models.execution import FrozenGraph
from perdure.models.operators import constant, dtype_named
from perdure.records.graph import Argument, Graph, Leaf


class Call(NamedTuple):
    """How a model takes images.

    Attributes:
        keyword: the argument that takes them; empty where they are the only one, in place.
        others: what else it has to be given, by keyword.
        least: how many images it takes at once, at least.
        most: how many at most; None for any number.
        dtype: the type that it wants them in; None where that is not known.
    """

    keyword: str = ""
    others: Mapping[str, Any] = MappingProxyType({})
    least: int = 1
    most: int | None = None
    dtype: torch.dtype | None = None

    def answer(self, model: nn.Module, images: torch.Tensor) -> Any:
        """Return what a model gives for images, at least `least` and at most `most` of them."""
        if self.dtype is not None and self.dtype.is_floating_point and images.is_floating_point():
            images = images.to(self.dtype)
        return model(**{self.keyword: images}, **self.others) if self.keyword else model(images)


def call_of(model: nn.Module) -> Call:
    """Return how a model is called: as its graph says, or else with a batch as its only argument.

    Raises:
        InputError: its graph takes something other than one tensor.
    """
    if isinstance(model, FrozenGraph):
        return _call_of_graph(model.perdure_graph)
    first = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), None)
    return Call(dtype=None if first is None else first.dtype)


def _call_of_graph(graph: Graph) -> Call:
    leaves = {argument.name: _leaf(graph, argument) for argument in graph.arguments if argument.given is not None}
    tensors = [name for name, leaf in leaves.items() if leaf is not None and leaf.dtype]
    if len(tensors) != 1 or None in leaves.values():
        raise InputError(
            "predicting: the model takes more than one tensor. A Predictor is for models of images; load others with "
            "perdure.load."
        )
    name = tensors[0]
    others = {key: constant(leaf.value) for key, leaf in leaves.items() if leaf is not None and key != name}
    way = next(argument.way for argument in graph.arguments if argument.name == name)
    leaf = leaves[name]
    assert leaf is not None
    least, most = _batch(graph, leaf)
    return Call(name if others or way == "keyword" else "", others, least, most, dtype_named(leaf.dtype))


def _leaf(graph: Graph, argument: Argument) -> Leaf | None:
    """Return the one leaf that an argument consists of; None where it is nested."""
    given = argument.given
    return graph.leaves[given["at"]] if isinstance(given, dict) and "at" in given else None


def _batch(graph: Graph, leaf: Leaf) -> tuple[int, int | None]:
    """Return how many images a graph takes at once: at least, and at most."""
    size = leaf.shape[0] if leaf.shape else None
    if isinstance(size, int):
        return size, size
    symbol = size.get("s") if isinstance(size, dict) else None
    bounds = graph.symbols[symbol] if symbol is not None else None
    return (max(1, bounds.min), bounds.max) if bounds else (1, None)
