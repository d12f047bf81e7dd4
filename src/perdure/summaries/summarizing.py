"""`summarize`: what is in a model, from its file alone or from the module."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perdure.records.summary.rows import down_to
from perdure.records.summary.summary import Summary
from perdure.summaries.files import summarize_file

if TYPE_CHECKING:
    from torch import nn


def summarize(
    model_or_path: nn.Module | str | os.PathLike[str],
    *,
    example: Any = None,
    depth: int | None = None,
    input_size: Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]] | None = None,
    convention: str = "aten",
    optimizer: str | None = None,
    loss: Callable[[nn.Module, Any], Any] | None = None,
    latency: bool = False,
    statistics: bool = False,
    prefix: str | None = None,
) -> Summary:
    """Tell what is in a model: its modules, parameters and bytes, and, given an example, what a call of it costs.

    Of a file nothing is run and, unless its graph is followed or `statistics` are wanted, no tensor is read. A forward pass
    is followed on tensors without content, so that it takes neither the memory nor the time of a real one; the module is
    left as it was. Sizes are those of the given or saved example.

    Args:
        model_or_path: a module, on any device, `meta` too; or a file or folder of any kind that `perdure.open` reads.
        example: arguments of the model: a tensor, a tuple of arguments in place, a dict of arguments by keyword, or a list
            of several of these, whose operations are added and of whose peaks the highest counts. Where None, a file's
            graph is followed for the example that it was saved with, and a module is not run.
        depth: rows down to so many levels below the model; what is below is in their totals.
        input_size: in place of an example, the shape of the tensor that the model takes, or the shapes of several, or a dict
            of them by keyword. They are of the model's floating type; where a file's graph says otherwise, of that.
        convention: how operations are counted: `"aten"` as `torch.utils.flop_counter.FlopCounterMode`, with every kind of
            fused attention; `"torchinfo"` as torchinfo's mult-adds; `"fvcore"` as fvcore, where a multiplication with an
            addition is one FLOP.
        optimizer: `"sgd"`, `"momentum"`, `"adam"`, `"adamw"`, … : simulates a step of training with it in train mode, which
            gives the operations of the backward pass and the peak of memory.
        loss: `loss(model, example)` returns the scalar that is differentiated; by default the model's own loss, where its
            output has one, or else the sum of what it gives.
        latency: also run the module on real tensors and measure the time of each module.
        statistics: also read all tensors, one after the other, for statistics of their values.
        prefix: the keys that lead to the state dict of a checkpoint file, as in `perdure.open`.

    Returns:
        The summary; `print` shows it as a tree.

    Raises:
        InputError: the example does not fit the model, or no such convention or optimizer is known.
        UnsupportedModelError: the forward pass cannot be followed, for the reason given.
        FormatError, CorruptError, UnsafeError, ProtocolError, MissingFileError, StorageError: as `perdure.info`.

    Example:
        >>> print(perdure.summarize(model, input_size=(1, 3, 224, 224)))
        >>> perdure.summarize("old.pth").n_parameters
    """
    if isinstance(model_or_path, str | os.PathLike):
        return down_to(summarize_file(model_or_path, prefix=prefix), depth)
    raise NotImplementedError
