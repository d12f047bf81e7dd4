"""Memory that operators take for themselves on a CPU, which no shape tells: what oneDNN copies into its own layouts.

A convolution of contiguous tensors copies its input into a layout of blocks of channels, computes into such a one, and
copies that back; the two of input and output live at once, then the two of output and result. A layer of an LSTM packs its
weights and has room for all gates of all steps; in training it keeps all states. Found by PyTorch's profiler of memory with
2.13.0 on x86; it differs by a few per cent with the sizes and the instruction set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

aten = torch.ops.aten


class Workspace(NamedTuple):
    """What an operator takes beside its results, in bytes: while it runs, and as long as its last result lives."""

    transient_bytes: int
    kept_bytes: int = 0


def workspace_of(func: Any, args: Any, out: Any) -> Workspace | None:
    """Return what an operator takes for itself; None where that is not known to be anything."""
    found = _WORKSPACES.get(func)
    if found is None or not torch.backends.mkldnn.enabled or not torch.backends.mkldnn.is_available():
        return None
    return found(args, out) if args[0].device.type == "cpu" else None


_LARGE = 20480
_MANY = 16
"""Elements above which PyTorch leaves the convolution of one image to oneDNN, and images from which it leaves pointwise ones
to it on one thread (`ConvParams::use_mkldnn`)."""


def _convolution(args: Any, out: Any) -> Workspace | None:
    x, weight, stride, dilation, transposed, groups = args[0], args[1], args[3], args[5], args[6], args[8]
    if x.dim() not in (4, 5) or transposed or x.dtype is not torch.float32 or not x.is_contiguous():
        return None
    pointwise = max(*weight.shape[2:], *stride, *dilation) == 1
    if pointwise and x.shape[0] < _MANY and torch.get_num_threads() == 1:
        return None
    wide = min(weight.shape[2:]) > 3
    if groups == 1 and not wide and x.shape[0] == 1 and x.numel() <= _LARGE:
        return None
    taken = _bytes(x) if x.shape[1] > _FEW_CHANNELS else 0
    return Workspace(max(taken + _bytes(weight), _bytes(out)))


_FEW_CHANNELS = 3
"""Channels of an image, which is read as it lies."""


def _lstm_layer(args: Any, out: Any) -> Workspace:
    x, w_x, w_h, hidden, train = args[0], args[1], args[2], args[10], args[-1]
    states = math.prod(x.shape[:2]) * hidden * x.element_size()
    gates = _bytes(out[0]) * w_h.shape[0] // hidden
    return Workspace(_bytes(w_x) + _bytes(w_h) + gates, 16 * states if train else 0)


def _lstm_layer_backward(args: Any, out: Any) -> Workspace:
    gates = 4 * _bytes(args[0])
    return Workspace(2 * (_bytes(args[1]) + _bytes(args[2])) + gates)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


_WORKSPACES: dict[Any, Callable[[Any, Any], Workspace | None]] = {
    aten.convolution.default: _convolution,
    aten.mkldnn_rnn_layer.default: _lstm_layer,
    aten.mkldnn_rnn_layer_backward.default: _lstm_layer_backward,
}
