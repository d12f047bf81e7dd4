"""`"truncate"`: the first elements along each axis that is too long."""

from __future__ import annotations

from typing import Any

import torch

from perdure.weights.adapting.adaptation import Shape, adaptation, everything


def _refuse(file: Shape, model: Shape, **_: Any) -> str:
    if len(file) != len(model) or any(n_file < n_model for n_file, n_model in zip(file, model, strict=True)):
        return f"the file's {file} is not at least as large as the model's {model} along each axis"
    return ""


@adaptation("truncate", refuse=_refuse, n_kept=everything, reference="tensor[:n] along each axis")
def truncate(tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Take the first elements along each axis."""
    return tensor[tuple(slice(size) for size in own.shape)]
