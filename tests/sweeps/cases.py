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

_ROUNDING = "eager takes PyTorch's fast path of attention, the graph the ordinary one, which rounds otherwise"
_BRANCH = "its attention branches on the numbers of the mask, which a trace cannot follow"
CAUSES = {
    "attention": _ROUNDING,
    "transformer": _ROUNDING,
    "encoder": _ROUNDING,
    "encoder, normed first": _ROUNDING,
    "encoder with padding": _ROUNDING,
    "encoder with masks": _ROUNDING,
    "encoder and decoder": _ROUNDING,
    "longformer": _BRANCH,
    "led": _BRANCH,
    "switch-transformers": "its experts are a loop over those that were hit, and its forward pass moves its own modules",
    "nystromformer": "where it is traced transformers gives it another mask, which does not fit",
    "vilt": "it makes sizes of what it counts in the mask",
    "encodec": "it branches on the numbers of its input",
}
"""Why the graphs of some models differ from eager, or cannot be had."""


class Case(NamedTuple):
    """One model.

    Attributes:
        build: builds it.
        example: its arguments, a tuple of those in place or a dict of those by keyword. The first axis of every tensor
            is the batch.
        batches: the sizes of the batch at which answers are compared.
        graph: False where there is nothing to trace yet.
    """

    build: Callable[[], nn.Module]
    example: tuple[Any, ...] | dict[str, Any]
    batches: tuple[int, ...] = (1, 2, 3, 5)
    graph: bool = True

    def resized(self, n: int) -> Any:
        """Return the arguments with a batch of another size."""
        leaves, _ = flatten(self.example, "the example")
        return with_leaves(copy.copy(self.example), (_rows(leaf, n) for leaf in leaves))


def _rows(leaf: Any, n: int) -> Any:
    return leaf[torch.arange(n) % len(leaf)] if isinstance(leaf, torch.Tensor) and leaf.dim() else leaf


@functools.cache
def cases_of(library: str) -> dict[str, Case]:
    """Return the cases of a library by name; the library is imported for that."""
    torch.manual_seed(0)
    if library == "zoo":
        from sweeps import zoo_cases

        return zoo_cases.cases()
    if library == "torchvision":
        from sweeps import torchvision_cases

        return torchvision_cases.cases()
    from sweeps import transformers_cases

    return transformers_cases.cases()
