"""A case of the sweep: how to build a model, and what it is called with."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from perdure.models.structure import flatten, with_leaves

LIBRARIES = ("zoo", "transformers", "torchvision")


class Case(NamedTuple):
    """One model.

    Attributes:
        build: builds it, in train mode.
        args: its arguments in place; the first axis of every tensor is the batch.
        kwargs: its arguments by keyword.
        dynamic: what else `save` is told of free axes.
        graph: False where there is nothing to trace yet.
        fixed: the graph takes the example's batch alone, because the model does.
        first: the model is run once in eval mode before it is saved.
    """

    build: Callable[[], nn.Module]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    graph: bool = True
    fixed: bool = False

    def resized(self, n: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with a batch of another size."""
        return _resized(self.args, n), _resized(self.kwargs, n)


def _resized(value: Any, n: int) -> Any:
    leaves, _ = flatten(value, "the example")
    rows = [leaf[torch.arange(n) % len(leaf)] if isinstance(leaf, torch.Tensor) and leaf.dim() else leaf for leaf in leaves]
    return with_leaves(copy.copy(value), iter(rows))


@functools.cache
def cases_of(library: str) -> dict[str, Case]:
    """Return the cases of a library by name; it is imported for that."""
    torch.manual_seed(0)
    if library == "zoo":
        from sweep.zoo_cases import CASES

        return CASES
    if library == "transformers":
        from sweep.transformers_cases import cases

        return cases()
    from sweep.torchvision_cases import cases

    return cases()
