"""Memory that operators take for themselves on a CPU, which no shape tells.

A convolution by oneDNN of contiguous tensors copies its input into a layout of blocks of channels, computes into such a one,
and copies that back; the two of input and output live at once, then the two of output and result. Any other convolution is a
product of matrices, of which one is made of the input. Attention has a block of scores for each thread. A layer of an LSTM
packs its weights and has room for all gates of all steps; in training it keeps all states. Found by PyTorch's profiler of
memory with 2.13.0 on x86; it differs by a few per cent with the sizes, the threads and the instruction set.
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
    if x.dim() not in (3, 4, 5):
        return None
    pointwise = max(*weight.shape[2:], *stride, *dilation) == 1
    if not _is_for_onednn(x, weight, groups, pointwise):
        return None if pointwise or groups > 1 else _by_columns(x, weight, x if transposed else out, dilation)
    copied = _bytes(x) if not _is_dense(x) else 0
    if transposed:
        return Workspace(copied + max(_bytes(x) + _bytes(weight) + _bytes(out), 2 * _bytes(out) if groups == 1 else 0))
    if not x.is_contiguous() and not copied:  # channels last: as oneDNN has them itself
        return Workspace(_bytes(weight))
    taken = _bytes(x) if x.shape[1] > _FEW_CHANNELS else 0
    return Workspace(copied + max(taken + _bytes(weight), _bytes(out)))


def _is_for_onednn(x: torch.Tensor, weight: torch.Tensor, groups: int, pointwise: bool) -> bool:
    if x.dtype is not torch.float32 or (pointwise and x.shape[0] < _MANY and torch.get_num_threads() == 1):
        return False
    wide = x.dim() > 3 and min(weight.shape[-2:]) > 3
    return groups > 1 or wide or x.shape[0] > 1 or math.prod(x.shape[:4]) > _LARGE


def _by_columns(x: torch.Tensor, weight: torch.Tensor, places: torch.Tensor, dilation: Any) -> Workspace:
    """A product of matrices: for each place the numbers that it takes stand in a column, those of all images at once."""
    n_images = x.shape[0] if places is not x and max(dilation) == 1 else 1
    return Workspace(n_images * math.prod(weight.shape[1:]) * math.prod(places.shape[2:]) * x.element_size())


def _in_blocks(x: torch.Tensor) -> int:
    """Return the bytes of a tensor whose channels are filled up to whole blocks."""
    return _bytes(x) * (-(-x.shape[1] // _BLOCK) * _BLOCK) // max(1, x.shape[1])


def _is_dense(x: torch.Tensor) -> bool:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return x.is_contiguous() or (last is not None and x.is_contiguous(memory_format=last))


_FEW_CHANNELS = 3
"""Channels of an image, which is read as it lies."""

_BLOCK = 8
"""Channels that lie beside each other in a layout of blocks."""


def _convolution_backward(args: Any, out: Any) -> Workspace | None:
    """What the gradient of the weights takes; a gradient that is one number everywhere is written out before."""
    gradient, x, weight, stride, dilation, transposed, groups = *args[:3], args[4], args[6], args[7], args[9]
    if x.dim() not in (3, 4, 5):
        return None
    copied = 0 if _is_dense(gradient) else _bytes(gradient)
    pointwise = max(*weight.shape[2:], *stride, *dilation) == 1
    if not _is_for_onednn(x, weight, groups, pointwise):
        columns = None if pointwise or groups > 1 else _by_columns(x, weight, x if transposed else gradient, dilation)
        return Workspace(copied + (columns.transient_bytes if columns else 0))
    if not x.is_contiguous():
        return Workspace(copied + _bytes(weight))
    taken = _in_blocks(x) if x.shape[1] > _FEW_CHANNELS else 0
    return Workspace(copied + taken + _in_blocks(gradient))


def _attention(args: Any, out: Any) -> Workspace:
    return _attention_by_blocks(args[0], args[1], 1)


def _attention_backward(args: Any, out: Any) -> Workspace:
    return _attention_by_blocks(args[1], args[2], 2)


def _attention_by_blocks(query: torch.Tensor, key: torch.Tensor, n_scores: int) -> Workspace:
    """Each thread has room, in single precision, for a block of scores and the rows of its result."""
    length, width = query.shape[-2], query.shape[-1]
    rows = min(length, 256 if length >= 768 else 64 if length >= 192 else 32)
    scores = rows * min(key.shape[-2], 512)
    return Workspace(torch.get_num_threads() * 4 * (n_scores * scores + (2 * rows + rows * width) * (n_scores == 1)))


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
    aten.convolution_backward.default: _convolution_backward,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward,
    aten.mkldnn_rnn_layer.default: _lstm_layer,
    aten.mkldnn_rnn_layer_backward.default: _lstm_layer_backward,
}
