"""The summary of a module."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from perdure.errors import InputError
from perdure.models.wrapping import unwrapped
from perdure.records.summary.summary import Summary
from perdure.summaries.conventions.registry import convention_named
from perdure.summaries.costed import with_costs
from perdure.summaries.costs import costs_of
from perdure.summaries.inputs import examples_for
from perdure.summaries.latency import latency_of
from perdure.summaries.modules import rows_of_module
from perdure.summaries.training_steps import Loss, NewOptimizer, optimizer_named


def summarize_module(
    model: nn.Module,
    example: Any,
    input_size: Any,
    *,
    convention: str,
    optimizer: str | NewOptimizer | None,
    loss: Loss | None,
    latency: bool,
    statistics: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Tell what is in a module, and what the calls for an example cost; as `perdure.summarize`."""
    if not isinstance(model, nn.Module):
        raise InputError(f"summarizing: a module or a path was expected, not {type(model).__name__}.")
    inner = unwrapped(model)
    counter, step = convention_named(convention).counter, optimizer_for(optimizer)
    examples = examples_for(inner, example, input_size)
    if not examples and (optimizer is not None or loss is not None or latency):
        raise InputError("summarizing: optimizer=, loss= and latency= need an example= or an input_size=.")
    found = module_summary(inner)
    if examples:
        costs = costs_of(inner, examples, functools.partial(counter, inner), new_optimizer=step, loss=loss)
        found = with_costs(found, costs, convention, name_of_optimizer(optimizer))
    if latency:
        found = _with_latency(found, latency_of(inner, examples))
    if statistics:
        found = _with_statistics(found, inner, progress)
    return found


def module_summary(model: nn.Module) -> Summary:
    """Tell what is in a module, which is not run."""
    rows = rows_of_module(model)
    return Summary(
        title=rows[0].kind,
        format="module",
        n_parameters=rows[0].n_parameters,
        n_trainable=rows[0].n_trainable,
        n_bytes=rows[0].n_bytes,
        n_buffers=rows[0].n_buffers,
        rows=rows,
    )


def optimizer_for(optimizer: str | NewOptimizer | None) -> NewOptimizer | None:
    """Return what makes an optimizer, from its name or as it was given."""
    return optimizer_named(optimizer) if isinstance(optimizer, str) else optimizer


def name_of_optimizer(optimizer: str | Callable[..., Any] | None) -> str:
    """Return what an optimizer is called."""
    return optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", "optimizer")


def _with_latency(summary: Summary, seconds: dict[str, float]) -> Summary:
    rows = tuple(dataclasses.replace(row, seconds=seconds.get(row.name)) for row in summary.rows)
    return dataclasses.replace(summary, rows=rows)


def _with_statistics(summary: Summary, model: nn.Module, progress: Callable[[int, int], None] | None) -> Summary:
    from perdure.summaries.statistics import statistics_of

    tensors = {name: tensor.detach() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    return dataclasses.replace(summary, statistics=statistics_of(tensors, progress))
