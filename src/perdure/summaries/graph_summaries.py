"""The summary of a file, with what its graph says a call costs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from perdure.errors import InputError
from perdure.foreign.opening import with_any
from perdure.models.examples import Example, examples_in
from perdure.models.structure import leaf_places, unflatten
from perdure.models.unread_graphs import UnreadGraph, unread_graph
from perdure.records.graph import Graph, Leaf, leaves_of
from perdure.records.summary.summary import Summary
from perdure.summaries.conventions.registry import convention_named
from perdure.summaries.costed import with_costs
from perdure.summaries.costs import costs_of
from perdure.summaries.inputs import checked_shape, shapes_of
from perdure.summaries.module_summaries import name_of_optimizer, optimizer_for
from perdure.summaries.training_steps import NewOptimizer
from perdure.weights.dtypes import by_name


def follow_graph(
    found: Summary,
    path: str | os.PathLike[str],
    example: Any,
    input_size: Any,
    *,
    convention: str,
    optimizer: str | NewOptimizer | None,
) -> Summary:
    """Add to the summary of a file what a call of its graph costs: for an example, or the one that it was saved with.

    Raises:
        InputError: the example or the sizes do not fit the graph.
        UnsupportedModelError: the graph uses what cannot be without content.
    """
    counter = convention_named(convention).counter
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    unread = with_any(path, lambda stored: unread_graph(stored, mode))
    assert unread is not None, "the caller has seen that there is a graph"
    examples = examples_in(example, "summarizing") or _examples(unread, input_size)
    if not examples:
        said = "the file keeps no example that its graph could be followed for: give an example or an input size"
        return dataclasses.replace(found, notes=(*found.notes, said))
    costs = costs_of(unread.model, examples, counter, new_optimizer=optimizer_for(optimizer))
    costs.ran = "graph"
    return with_costs(found, costs, convention, name_of_optimizer(optimizer))


def _examples(unread: UnreadGraph, input_size: Any) -> list[Example]:
    """Return the example that was saved, or one of these sizes."""
    if input_size is None:
        return [] if unread.example is None else [unread.example]
    graph = unread.model.perdure_graph
    shapes = _shapes(graph, input_size)
    leaves = [_tensor(leaf, next(shapes)) if leaf.dtype else leaf.value for leaf in graph.leaves]
    return [_call(graph, leaves)]


def _tensor(leaf: Leaf, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=by_name(leaf.dtype, "the graph"), device="meta")


def _shapes(graph: Graph, input_size: Any) -> Iterator[tuple[int, ...]]:
    """Give a shape for each tensor that a graph takes, in order."""
    names = [
        name
        for argument in graph.arguments
        if argument.given is not None
        for name, number in zip(leaf_places(argument.given, argument.name), leaves_of(argument.given), strict=True)
        if graph.leaves[number].dtype
    ]
    if isinstance(input_size, Mapping):
        given = [input_size[name] for name in names if name in input_size]
        fits = set(input_size) == set(names)
    else:
        given = shapes_of(input_size)
        alike = len({str(leaf.shape) for leaf in graph.leaves if leaf.dtype}) == 1
        given = given * len(names) if alike and len(given) == 1 else given
        fits = len(given) == len(names)
    if not fits:
        raise InputError(
            f"summarizing: the graph takes {len(names)} tensors, {', '.join(names)}; input_size has other ones. Give a "
            f"shape for each, in this order or by name."
        )
    return iter([checked_shape(sizes) for sizes in given])


def _call(graph: Graph, leaves: list[Any]) -> Example:
    """Return arguments in place and by keyword."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in graph.arguments:
        if argument.given is None:
            continue
        value = unflatten(argument.given, leaves)
        if argument.way == "rest":
            args += value
        elif argument.way == "keyword" or (argument.way == "either" and len(args) != graph.arguments.index(argument)):
            kwargs[argument.name] = value
        else:
            args.append(value)
    return tuple(args), kwargs
