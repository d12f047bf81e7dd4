"""`"head"`: an output layer for more, fewer or other classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from perdure.weights.adapting.adaptation import Parameter, Shape, adaptation
from perdure.weights.adapting.rows import AXIS, label_key, n_rows_kept, new_rows, origins, refuse_rows, with_rows


def _are_labels(value: Any) -> bool:
    if not isinstance(value, list | tuple):
        return value is None
    try:
        return len(set(map(label_key, value))) == len(value)
    except TypeError:  # of something that cannot be looked up, such as a dict
        return False


def _refuse(file: Shape, model: Shape, *, labels: Any, old_labels: Any, axis: int, **_: Any) -> str:
    if reason := refuse_rows(file, model, axis=axis):
        return reason
    if labels is None and old_labels is None:
        return ""
    if labels is None or old_labels is None:
        return f"{'labels' if labels is None else 'old_labels'}, the other list of labels, is missing"
    for names, n_rows, whose in ((labels, model[axis], "model"), (old_labels, file[axis], "file")):
        if len(names) != n_rows:
            return f"{len(names)} labels were given for the {n_rows} classes of the {whose}"
    return ""


def _n_kept(file: Shape, model: Shape, *, labels: Any, old_labels: Any, axis: int, **_: Any) -> int:
    return n_rows_kept(file, model, axis=axis, rows=origins(file[axis], model[axis], old_labels, labels))


@adaptation(
    "head",
    refuse=_refuse,
    n_kept=_n_kept,
    applies=lambda labels, **_: labels is not None,
    parameters=(
        Parameter("labels", None, _are_labels, "a list of the model's classes, each once"),
        Parameter("old_labels", None, _are_labels, "a list of the file's classes, each once"),
        new_rows("own"),
        AXIS,
    ),
    reference="rows by index as in transformers' resize_token_embeddings(mean_resizing=False); by label our own",
)
def head(
    tensor: torch.Tensor,
    own: torch.Tensor,
    *,
    labels: Sequence[Any] | None,
    old_labels: Sequence[Any] | None,
    new: str,
    axis: int,
) -> torch.Tensor:
    """Copy the rows of classes that both have: by index, or by label. Others stay as the model was initialised.

    Args:
        tensor: the file's weight or bias; the classes lie along `axis`.
        own: the model's.
        labels: of the model's classes.
        old_labels: of the file's; those that the file itself has, where it has some.
        new: what other rows are given.
        axis: that of the classes.
    """
    rows = origins(tensor.shape[axis], own.shape[axis], old_labels, labels)
    return with_rows(tensor, own, rows, axis, new)
