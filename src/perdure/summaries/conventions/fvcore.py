"""The convention `fvcore`: the FLOPs that fvcore counts, where a multiplication with its addition is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch._ops import OpOverload

from perdure.summaries.conventions.counting import Counter, arguments, computes, name_of

_FREE_NAMES = """\
Int ScalarImplicit __and__ arange bitwise_not cat chunk clamp clamp_ constant_pad_nd contiguous copy_ detach dropout
empty eq expand flatten floor floor_divide full full_like gather ge gt index index_put_ masked_fill max narrow
new_empty new_full new_zeros nonzero ones permute relu relu_ remainder reshape roll select size slice split
split_with_sizes squeeze stack t to transpose type_as unbind unsqueeze unsqueeze_ view zeros zeros_like
"""
_FREE = frozenset(f"aten::{name}" for name in _FREE_NAMES.split())
"""The operators that fvcore takes for free of FLOPs."""

_UNSEEN_NAMES = """\
conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution lstm_cell gru_cell rnn_tanh_cell
rnn_relu_cell
"""
_UNSEEN = frozenset(f"aten::{name}" for name in _UNSEEN_NAMES.split())
"""The operators that PyTorch's tracer, by which fvcore sees, leaves out for what they are made of."""


class FvcoreCounter(Counter):
    """Counts operators as PyTorch's tracer records them: before autograd takes apart those that are made of others."""

    sees_composites = True

    def __init__(self, model: Any = None) -> None:
        super().__init__(model)
        self._depth = 0

    def on_operator(self, func: Any, args: Any, kwargs: Any, out: Any, path: str) -> None:
        if not self._depth:
            self._record(func, args, kwargs, out, path)

    def enter(self, func: OpOverload) -> None:
        self._depth += name_of(func) not in _UNSEEN

    def leave(self, func: OpOverload, args: Any, kwargs: Any, out: Any, path: str) -> None:
        if name_of(func) not in _UNSEEN:
            self._depth -= 1
            self.on_operator(func, args, kwargs, out, path)

    def _record(self, func: Any, args: Any, kwargs: Any, out: Any, path: str) -> None:
        name = name_of(func)
        formula = _FORMULAS.get(name)
        if formula is not None:
            self.counts[path] += formula(arguments(func, args, kwargs), out)
        elif name not in _FREE and computes(func):
            self._uncounted[name] += 1


Arguments = dict[str, Any]
Formula = Callable[[Arguments, Any], int]


def _product(left: str, right: str) -> Formula:
    """Count a product by the first factor's size and the other's columns."""
    return lambda given, out: given[left].numel() * (given[right].shape[-1] if given[right].dim() > 1 else 1)


def _linear(given: Arguments, out: Any) -> int:
    return given["input"].numel() * given["weight"].shape[0]


def _convolution(given: Arguments, out: Any) -> int:
    inputs = given["input"]
    places = inputs if given["transposed"] else out
    return inputs.shape[0] * given["weight"].numel() * math.prod(places.shape[2:])


def _einsum(given: Arguments, out: Any) -> int:
    """Count the multiplications and additions of the best order, as NumPy prints it: with four digits.

    Two products of three axes each are so common that they count exactly.
    """
    equation = str(given["equation"]).replace(" ", "")
    shapes = [tuple(tensor.shape) for tensor in given["tensors"]]
    letters = {letter: chr(ord("a") + at) for at, letter in enumerate(dict.fromkeys(filter(str.isalpha, equation)))}
    equation = "".join(letters.get(letter, letter) for letter in equation)
    if equation == "abc,abd->acd":
        return math.prod(shapes[0]) * shapes[1][-1]
    if equation == "abc,adc->adb":
        return math.prod(shapes[0]) * shapes[1][1]
    empty = [np.broadcast_to(np.zeros(()), shape) for shape in shapes]
    said = np.einsum_path(equation, *empty, optimize="optimal")[1]
    line = next(line for line in said.splitlines() if "optimized flop" in line.lower())
    return math.floor(float(line.split(":")[-1]) / 2)


def _normalization(given: Arguments, out: Any) -> int:
    return given["input"].numel() * (4 if given["weight"] is None else 5)


def _batch_normalization(given: Arguments, out: Any) -> int:
    if given["training"]:
        return _normalization(given, out)
    return given["input"].numel() * (1 if given["weight"] is None else 2)


def _each_of_result(times: int) -> Formula:
    return lambda given, out: times * out.numel()


def _each_of_input(given: Arguments, out: Any) -> int:
    return given["self"].numel()


_FORMULAS: dict[str, Formula] = {
    "aten::addmm": _product("mat1", "mat2"),
    "aten::mm": _product("self", "mat2"),
    "aten::bmm": _product("self", "mat2"),
    "aten::matmul": _product("self", "other"),
    "aten::linear": _linear,
    "aten::convolution": _convolution,
    "aten::_convolution": _convolution,
    "aten::einsum": _einsum,
    "aten::batch_norm": _batch_normalization,
    "aten::layer_norm": _normalization,
    "aten::group_norm": _normalization,
    "aten::instance_norm": _normalization,
    "aten::upsample_nearest2d": _each_of_result(1),
    "aten::upsample_bilinear2d": _each_of_result(4),
    "aten::grid_sampler": _each_of_result(4),
    "aten::adaptive_avg_pool2d": _each_of_input,
}
