"""`summarize`: what is in a model, from its file alone or from the module."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perdure.errors import InputError, UnsupportedModelError
from perdure.records.summary.rows import down_to
from perdure.records.summary.summary import Summary
from perdure.summaries.files import read_summary

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
    progress: Callable[[int, int], None] | None = None,
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
        progress: called as `progress(n_bytes, total_bytes)` whenever statistics of tensors of that many bytes more are done.

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
    if depth is not None and (type(depth) is not int or depth < 0):
        raise InputError(f"summarizing: depth= is a number of levels below the model, not {depth!r}.")
    if isinstance(model_or_path, str | os.PathLike):
        if latency or loss is not None:
            raise InputError("summarizing a file: latency= and loss= are for modules. Load the model and summarize it.")
        found = _of_file(model_or_path, prefix, example, input_size, convention, optimizer)
        if statistics:
            found = _with_statistics_of_file(found, model_or_path, prefix, progress)
        return down_to(found, depth)
    if prefix is not None:
        raise InputError("summarizing a module: prefix= is for checkpoint files.")
    from perdure.summaries.module_summaries import summarize_module

    found = summarize_module(
        model_or_path,
        example,
        input_size,
        convention=convention,
        optimizer=optimizer,
        loss=loss,
        latency=latency,
        statistics=statistics,
        progress=progress,
    )
    return down_to(found, depth)


def _of_file(
    path: str | os.PathLike[str],
    prefix: str | None,
    example: Any,
    input_size: Any,
    convention: str,
    optimizer: str | None,
) -> Summary:
    found, holds_graph = read_summary(path, prefix)
    follows = example is not None or input_size is not None or optimizer is not None
    if prefix is None and holds_graph:
        from perdure.summaries.graph_summaries import follow_graph

        return follow_graph(found, path, example, input_size, convention=convention, optimizer=optimizer)
    if follows and prefix is not None:
        raise InputError(
            "summarizing: example=, input_size= and optimizer= are for a whole model, not for a prefix= of it."
        )
    if follows:
        raise UnsupportedModelError(
            f"summarizing {os.fspath(path)}: it holds no graph to follow. Summarize the module, or save it with an example."
        )
    return found


def _with_statistics_of_file(
    found: Summary, path: str | os.PathLike[str], prefix: str | None, progress: Callable[[int, int], None] | None
) -> Summary:
    from perdure.summaries.statistics import statistics_of
    from perdure.weights.opening import open as open_weights

    with open_weights(path, prefix=prefix) as weights:
        return dataclasses.replace(found, statistics=statistics_of(weights, progress))
