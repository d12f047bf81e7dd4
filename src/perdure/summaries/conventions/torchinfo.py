"""The convention `torchinfo`: the mult-adds that torchinfo counts."""

from __future__ import annotations

import math
from collections import Counter as Tally
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from perdure.summaries.conventions.counting import Counter, computes, name_of


class TorchinfoCounter(Counter):
    """Counts from the parameters of each module that is called and has none below it, and from the shape of its result.

    Weights and biases of a convolution count once for each place of its result and each example, those of recurrent layers
    once for each step, all others once for each example. Of pruned parameters those count that are left.
    """

    counts_backward = False

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__(model)
        self._kept = _kept_of_pruned(model) if model is not None else {}
        self._pending: dict[str, Tally[str]] = {}

    @property
    def uncounted(self) -> dict[str, int]:
        return dict(sum(self._pending.values(), self._uncounted))

    def on_operator(self, func: Any, args: Any, kwargs: Any, out: Any, path: str) -> None:
        if computes(func):
            self._pending.setdefault(path, Tally())[name_of(func)] += 1

    def on_call(self, module: nn.Module, kind: str, path: str, shape: tuple[int, ...]) -> None:
        ran = self._pending.pop(path, Tally())
        count = (
            0
            if isinstance(module, torch.jit.ScriptModule) or any(module.children())
            else self._count(module, kind, path, shape)
        )
        self.counts[path] += count
        if not count:
            self._uncounted += ran

    @staticmethod
    def flops_of(count: int) -> int:
        return 2 * count

    def _count(self, module: nn.Module, kind: str, path: str, size: tuple[int, ...]) -> int:
        in_convolution = "Conv" in kind
        count = 0
        for name, parameter in module.named_parameters():
            if is_lazy(parameter) or not size:
                continue
            n = self._kept.get((path, name), parameter.numel())
            name = name.removesuffix("_orig") if (path, name) in self._kept else name
            if name in ("weight", "bias"):
                count += n * (math.prod(size[:1] + size[2:]) if in_convolution else size[0])
            elif "weight" in name or "bias" in name:
                count += n * math.prod(size[:2])
        return count


def _kept_of_pruned(model: nn.Module) -> dict[tuple[str, str], int]:
    """Count what masks leave of pruned parameters, by the module's path and the parameter's name."""
    kept: dict[tuple[str, str], int] = {}
    for path, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            mask = getattr(module, f"{name[:-5]}_mask", None) if name.endswith("_orig") else None
            if isinstance(mask, torch.Tensor):
                kept[path, name] = mask.numel() if mask.is_meta else int(mask.sum())
    return kept
