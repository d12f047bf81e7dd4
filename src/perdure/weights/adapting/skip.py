"""`"skip"`: the place keeps what the model has."""

from __future__ import annotations

import torch

from perdure.weights.adapting.adaptation import adaptation


@adaptation(
    "skip",
    refuse=lambda file, model: "",
    n_kept=lambda file, model: 0,
    reference="the model's own",
    applies=lambda: True,
)
def skip(tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Leave the model's own values."""
    return own
