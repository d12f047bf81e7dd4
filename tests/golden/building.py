"""Summaries to render: of small and large modules on `meta`, and of files that are only described.

What a call costs is put in by hand: a multiplication and an addition for each weight and output, twice that in FLOPs; twice
the outputs in bytes; a time in proportion.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from perdure.records.summary.rows import rows_of
from perdure.records.summary.summary import Memory, ModuleCall, Summary, SummaryRow, SummaryTensor


def summary_of(module: nn.Module, *inputs: torch.Tensor, timed: bool = False, **fields: Any) -> Summary:
    """Return the summary of a module on `meta`, and, with inputs, of a call of it."""
    paths: dict[int, str] = {}
    same = {
        name: paths[id(one)]
        for name, one in module.named_modules(remove_duplicate=False)
        if paths.setdefault(id(one), name) != name
    }
    same = {name: first for name, first in same.items() if not any(name.startswith(f"{other}.") for other in same)}
    modules = {
        name: type(one).__name__
        for name, one in module.named_modules(remove_duplicate=False)
        if not any(name.startswith(f"{other}.") for other in same)
    }
    tensors = [tensor for tensor in _tensors(module) if tensor.name.rpartition(".")[0] in modules.keys() - same.keys()]
    rows = rows_of(modules, tensors, same)
    if inputs:
        rows = _called(module, inputs, rows, timed)
        top = rows[0]
        state = top.n_parameters * 4
        fields |= dict(flops=top.flops, macs=top.macs, activation_bytes=top.activation_bytes, ran="fake tensors")
        fields |= dict(
            memory=Memory(
                top.n_bytes,
                4096,
                top.n_bytes + 4096 + (top.activation_bytes or 0),
                state,
                "adamw",
                2 * state,
                9 * state,
            )
        )
    return summary(type(module).__name__, rows, **fields)


def summary(title: str, rows: tuple[SummaryRow, ...], **fields: Any) -> Summary:
    """Return the summary of rows, with the totals that these have."""
    top = rows[0]
    totals = {"n_parameters": top.n_parameters, "n_trainable": top.n_trainable, "n_buffers": top.n_buffers}
    return Summary(**{"title": title, "format": "module", "rows": rows, "n_bytes": top.n_bytes, **totals, **fields})


def described(title: str, *tensors: SummaryTensor, modules: dict[str, str] | None = None, **fields: Any) -> Summary:
    """Return the summary of a file that holds these tensors."""
    return summary(title, rows_of(modules or {}, tensors), **{"format": "safetensors", **fields})


def _tensors(module: nn.Module) -> list[SummaryTensor]:
    firsts: dict[int, str] = {}
    found = []
    named = [(*pair, "parameter") for pair in module.named_parameters(remove_duplicate=False)]
    named += [(*pair, "buffer") for pair in module.named_buffers(remove_duplicate=False)]
    order = {name: place for place, name in enumerate(dict(module.named_modules(remove_duplicate=False)))}
    for name, tensor, role in sorted(named, key=lambda each: order[each[0].rpartition(".")[0]]):
        first = firsts.setdefault(id(tensor), name)
        tied = first if first != name else ""
        size = 0 if tied else tensor.numel() * tensor.element_size()
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.append(SummaryTensor(name, dtype, tuple(tensor.shape), size, role, tensor.requires_grad, tied))
    return found


def _called(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], rows: tuple[SummaryRow, ...], timed: bool
) -> tuple[SummaryRow, ...]:
    calls: dict[str, list[ModuleCall]] = defaultdict(list)
    macs: dict[str, int] = defaultdict(int)
    sizes: dict[str, int] = defaultdict(int)
    names = {id(one): name for name, one in reversed(list(module.named_modules()))}
    active: list[str] = []

    def before(one: nn.Module, args: Any) -> None:
        active.append(names[id(one)])

    def after(one: nn.Module, args: Any, output: Any) -> None:
        own = names[id(one)]
        shapes = [tuple(tuple(each.shape) for each in found) for found in (_flat(args), _flat(output))]
        calls[own].append(ModuleCall(*shapes))
        weight = getattr(one, "weight", None)
        cost = math.prod(shapes[1][0]) * weight[0].numel() if isinstance(one, (nn.Linear, nn.Conv2d)) else 0
        for name in dict.fromkeys(active):
            macs[name] += cost
            sizes[name] = max(sizes[name], 8 * math.prod(shapes[1][0]))
        active.pop()

    hooks = [
        hook
        for one in module.modules()
        for hook in (one.register_forward_pre_hook(before), one.register_forward_hook(after))
    ]
    with torch.no_grad():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    return tuple(
        dataclasses.replace(
            row,
            n_calls=len(calls[row.name]),
            calls=tuple(dict.fromkeys(calls[row.name])),
            macs=macs[row.name],
            flops=2 * macs[row.name],
            activation_bytes=sizes[row.name] or None,
            seconds=1e-5 + macs[row.name] * 1e-11 if timed and calls[row.name] else None,
        )
        for row in rows
    )


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in _flat(part)] if isinstance(value, (tuple, list)) else []
