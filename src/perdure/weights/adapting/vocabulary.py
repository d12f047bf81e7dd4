"""`"vocabulary"`: embeddings and output layers for more or fewer tokens."""

from __future__ import annotations

import torch

from perdure.weights.adapting.adaptation import adaptation
from perdure.weights.adapting.rows import AXIS, n_rows_kept, new_rows, origins, refuse_rows, with_rows


@adaptation(
    "vocabulary",
    refuse=refuse_rows,
    n_kept=n_rows_kept,
    parameters=(new_rows("mean"), AXIS),
    reference="transformers' resize_token_embeddings: mean_resizing=True (without its noise of 1e-9 of the covariance), and "
    "mean_resizing=False with new='own'",
)
def vocabulary(tensor: torch.Tensor, own: torch.Tensor, *, new: str, axis: int) -> torch.Tensor:
    """Copy the rows of tokens that both have, by index; new ones become the mean of the file's.

    Args:
        tensor: the file's weight or bias; the tokens lie along `axis`.
        own: the model's.
        new: what other rows are given.
        axis: that of the tokens.
    """
    return with_rows(tensor, own, origins(tensor.shape[axis], own.shape[axis], None, None), axis, new)
