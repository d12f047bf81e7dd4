"""`"channels"`: a first convolution for more or fewer input channels."""

from __future__ import annotations

from typing import Any

import torch

from perdure.weights.adapting.adaptation import Parameter, Shape, adaptation, everything


def _refuse(file: Shape, model: Shape, **_: Any) -> str:
    if len(file) < 3 or len(file) != len(model):
        return f"{file} and {model} are not the shapes of kernels (outputs, inputs, sizes)"
    if file[0] != model[0] or file[2:] != model[2:] or 0 in (file[1], model[1]):
        return f"the shapes {file} and {model} differ in more than the number of input channels (axis 1)"
    return ""


@adaptation(
    "channels",
    refuse=_refuse,
    n_kept=everything,
    of_reals=True,
    parameters=(
        Parameter("scale", "grey", lambda value: value in ("grey", "ratio"), "'grey' or 'ratio' (as timm scales)"),
    ),
    reference="timm's adapt_input_conv, which it equals for one channel and for multiples; else with scale='ratio'",
)
def channels(tensor: torch.Tensor, own: torch.Tensor, *, scale: str) -> torch.Tensor:
    """Repeat the input channels in turn, or add up those that are too many; the response to grey stays what it was.

    A channel that is repeated n times is divided by n. Of N channels that shall be M, the one of number i is added to
    number i mod M. So the sum over the input channels, which grey is answered with, is the same.

    Args:
        tensor: the file's kernel, of shape (outputs, inputs, sizes).
        own: the model's.
        scale: `"ratio"` takes the first channels in turn times (file's number / model's number), and one channel for all
            their sum; this is what timm does.
    """
    n_file, n_model = tensor.shape[1], own.shape[1]
    exact = tensor if tensor.dtype == torch.float64 else tensor.float()
    turns = torch.arange(n_model, device="cpu") % n_file
    if n_model == 1:
        made = exact.sum(1, keepdim=True)
    elif scale == "ratio":
        made = exact.index_select(1, turns) * (n_file / n_model)
    elif n_model < n_file:
        made = torch.zeros(own.shape, dtype=exact.dtype, device="cpu")
        made.index_add_(1, torch.arange(n_file, device="cpu") % n_model, exact)
    else:
        counts = torch.bincount(turns, minlength=n_file)[turns].to(exact.dtype)
        made = exact.index_select(1, turns) / counts.view(1, -1, *[1] * (exact.dim() - 2))
    return made.to(tensor.dtype)
