"""What counts the operations of a model's calls, whatever the convention."""

from __future__ import annotations

import functools
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch._C import TensorType
from torch._ops import OpOverload

_MOVING_NAMES = """\
_conj_copy _reshape_alias_copy _reshape_copy _to_copy _unsafe_index _unsafe_index_put _unsafe_view arange
as_strided_ as_strided_copy as_strided_scatter bernoulli bernoulli_ bucketize cat chunk clone complex
constant_pad_nd contiguous copy copy_ diag_embed diagonal_copy diagonal_scatter embedding embedding_dense_backward
embedding_renorm_ empty empty_like empty_permuted empty_strided expand_copy eye fill fill_ flip full full_like
gather index index_copy index_copy_ index_fill index_fill_ index_put index_put_ index_select lift lift_fresh
lift_fresh_copy linspace masked_fill masked_fill_ masked_scatter masked_scatter_ masked_select meshgrid
native_channel_shuffle new_empty new_empty_strided new_full new_ones new_zeros nonzero nonzero_static normal normal_
ones ones_like permute_copy pixel_shuffle pixel_unshuffle rand rand_like randint randint_like randn randn_like
random_ randperm reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d
replication_pad2d replication_pad3d resize_ roll rot90 scalar_tensor scatter scatter_ searchsorted select_backward
select_copy select_scatter set_ slice_backward slice_copy slice_scatter split_copy split_with_sizes_copy
squeeze_copy stack t_copy take take_along_dim transpose_copy tril tril_ tril_indices triu triu_ triu_indices
unbind_copy unfold_backward unfold_copy uniform uniform_ unsqueeze_copy view_as_complex_copy view_as_real_copy
view_copy where zero zero_ zeros zeros_like
"""
_MOVING = frozenset(_MOVING_NAMES.split())
"""The operators of `aten` that allocate, fill or move numbers without computing any, and are no views."""


class Counter:
    """Counts the operations of a model's calls, module by module; the base of those of the conventions.

    Attributes:
        sees_composites: it tells apart the operators that are made of others, such as `linear`. Autograd takes them
            apart, so that the calls must be made in inference mode, where they come whole: `enter`, then the operators
            that they are made of, then `leave`. A counter of another kind needs neither.
        counts_backward: its convention gives the operations of a backward pass numbers.
        counts: the operations of each module by its path, those of the modules below it not included. The unit is the
            convention's; `flops_of` and `macs_of` tell the meaning.
    """

    sees_composites = False
    counts_backward = True

    def __init__(self, model: nn.Module | None = None) -> None:
        """Begin at zero.

        Args:
            model: whose calls are counted, while its tensors have content.
        """
        self.counts: Tally[str] = Tally()
        self._uncounted: Tally[str] = Tally()

    @property
    def uncounted(self) -> dict[str, int]:
        """The operators that compute something and were given no number, and how often each was called."""
        return dict(self._uncounted)

    def on_operator(self, func: Any, args: Any, kwargs: Any, out: Any, path: str) -> None:
        """An operator that is not made of others ran.

        Args:
            func: the operator, `OpOverload` or of higher order.
            args: its arguments in place.
            kwargs: those by keyword.
            out: its result.
            path: the module that runs.
        """

    def enter(self, func: OpOverload) -> None:
        """An operator that is made of others begins."""

    def leave(self, func: OpOverload, args: Any, kwargs: Any, out: Any, path: str) -> None:
        """It ends. `out` is None where it failed."""

    def on_call(self, module: nn.Module, kind: str, path: str, shape: tuple[int, ...]) -> None:
        """A module's call has ended; `shape` is that of the tensor that stands for its result, empty where none does."""

    def of_alternatives(self, runs: Sequence[Callable[[], Any]]) -> Any:
        """Run what are alternatives, the branches of a condition; the one of the most operations counts.

        Returns:
            The result of the first.
        """
        before, counts = self.counts, []
        results = []
        for run in runs:
            self.counts = Tally()
            results.append(run())
            counts.append(self.counts)
        self.counts = before
        self.counts.update(max(counts, key=lambda tally: sum(tally.values())))
        return results[0]

    @staticmethod
    def flops_of(count: int) -> int:
        """Return the floating-point operations that a count stands for."""
        return count

    @staticmethod
    def macs_of(count: int) -> int:
        """Return the multiply-accumulate operations that a count stands for."""
        return count


def name_of(func: Any) -> str:
    """Return an operator's name, such as `aten::add`; those of one name differ only in the kinds of their arguments."""
    return func._schema.name if isinstance(func, OpOverload) else f"{func.namespace}::{func.name()}"


def arguments(func: OpOverload, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return an operator's arguments by name, defaults included."""
    values = {argument.name: argument.default_value for argument in func._schema.arguments}
    values.update(zip(values, args, strict=False))
    return {**values, **kwargs}


@functools.cache
def computes(func: Any) -> bool:
    """Tell whether an operator computes numbers; views, and what moves, fills or allocates, do not."""
    if not isinstance(func, OpOverload):
        return True
    schema = func._schema
    views = any(result.alias_info is not None and not result.alias_info.is_write for result in schema.returns)
    tensors = any(_holds_tensors(result.type) for result in schema.returns)
    namespace, _, base = schema.name.partition("::")
    return not views and (tensors or not schema.returns) and not (namespace == "aten" and base in _MOVING)


def _holds_tensors(kind: Any) -> bool:
    return isinstance(kind, TensorType) or any(map(_holds_tensors, kind.containedTypes()))
