"""The convention `aten`: what `torch.utils.flop_counter.FlopCounterMode` counts, with fused operators too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry

from perdure.summaries.conventions.counting import Counter, computes, name_of
from perdure.summaries.conventions.fused import FORMULAS


class AtenCounter(Counter):
    """Counts by PyTorch's own formulas, those that users have registered included.

    The fused operators for which PyTorch has no formula count as what they are made of: attention on a CPU, the fast path of
    transformer layers, recurrent layers of vendors' libraries, products of quantized numbers.
    """

    def on_operator(self, func: Any, args: Any, kwargs: Any, out: Any, path: str) -> None:
        count = _count(func, args, kwargs, out)
        if count is not None:
            self.counts[path] += count
        elif computes(func):
            self._uncounted[name_of(func)] += 1

    @staticmethod
    def macs_of(count: int) -> int:
        return count // 2


def _count(func: Any, args: Any, kwargs: Any, out: Any) -> int | None:
    formula: Callable[..., Any] | None = flop_registry.get(
        func._overloadpacket if isinstance(func, OpOverload) else func
    )
    try:
        if formula is not None:
            return int(formula(*args, **kwargs, out_val=out))
        formula = FORMULAS.get(name_of(func))
        return None if formula is None else formula(out, *args, **kwargs)
    except Exception:  # a formula, perhaps a user's, for which these arguments are too unusual: they are listed
        return None
