"""Operators that PyTorch treats otherwise on tensors without content than on real ones.

Some take more, or fewer, kinds of numbers there; one is taken apart into a dozen others only to find its shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

aten = torch.ops.aten

_OF_ONE_TYPE = frozenset((aten.mm.default, aten.addmm.default, aten.mv.default, aten.addmv.default))
_GROUPED = frozenset((aten._grouped_mm.default,)) if hasattr(aten, "_grouped_mm") else frozenset()


def run_operator(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on what real tensors of these types could run it on.

    Raises:
        RuntimeError: the types of its arguments do not go together; as real tensors would raise.
    """
    if func is aten.native_batch_norm.default and not kwargs and _is_by_running_statistics(*args):
        x, nothing = args[0], args[0].new_empty(0)
        return torch.empty_like(x), nothing, nothing
    if func in _OF_ONE_TYPE:
        _check_one_type(func, args)
    elif func in _GROUPED and isinstance(args[0], FakeTensor) and args[0].dtype is not torch.bfloat16:
        left, right, *others = args
        out = func(left.to(torch.bfloat16), right.to(torch.bfloat16), *others, **kwargs)
        return out.to(left.dtype)
    return func(*args, **kwargs)


def _is_by_running_statistics(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *_: Any
) -> bool:
    """Tell a normalization of a batch on a CPU, in eval mode, to which all that is given fits."""
    if training or mean is None or variance is None or not isinstance(x, FakeTensor) or x.fake_device.type != "cpu":
        return False
    given = [tensor for tensor in (weight, bias, mean, variance) if tensor is not None]
    return x.dim() > 1 and x.is_floating_point() and all(tensor.shape == x.shape[1:2] for tensor in given)


def _check_one_type(func: Any, args: Any) -> None:
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    dtypes = list(dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for tensor in tensors))
    if len(dtypes) > 1 and all(isinstance(tensor, FakeTensor) for tensor in tensors):
        raise RuntimeError(f"{func._schema.name} takes tensors of one dtype, but got {' and '.join(dtypes)}")
