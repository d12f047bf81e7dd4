"""`"reshape"`: the same numbers in the same order, as of a linear layer that is a convolution of one pixel."""

from __future__ import annotations

import math
from typing import Any

import torch

from perdure.weights.adapting.adaptation import Shape, adaptation, everything


def _refuse(file: Shape, model: Shape, **_: Any) -> str:
    return "" if math.prod(file) == math.prod(model) else f"{file} and {model} have not as many elements"


@adaptation("reshape", refuse=_refuse, n_kept=everything, reference="torch.reshape")
def reshape(tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Give the numbers the model's shape, in their order."""
    return tensor.reshape(own.shape)
