"""`"pad"`: zeros behind the elements along each axis that is too short."""

from __future__ import annotations

from typing import Any

import torch

from perdure.weights.adapting.adaptation import Shape, adaptation, shared_corner


def _refuse(file: Shape, model: Shape, **_: Any) -> str:
    if len(file) != len(model) or any(n_file > n_model for n_file, n_model in zip(file, model, strict=True)):
        return f"the file's {file} is not at most as large as the model's {model} along each axis"
    return ""


@adaptation("pad", refuse=_refuse, n_kept=shared_corner, reference="torch.nn.functional.pad with zeros, at the ends")
def pad(tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Put zeros behind the elements along each axis."""
    made = torch.zeros(own.shape, dtype=tensor.dtype, device="cpu")
    made[tuple(slice(size) for size in tensor.shape)] = tensor
    return made
