"""Rows, as of classes or tokens: some are the file's, and those that it does not have are made."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from perdure.weights.adapting.adaptation import NEW_ROWS, Parameter, Shape
from perdure.weights.storing import as_integers

AXIS = Parameter(
    "axis", 0, lambda value: isinstance(value, int) and not isinstance(value, bool), "the axis of the rows"
)


def new_rows(default: str) -> Parameter:
    """Return the parameter that says what the file's lack of rows is filled with."""
    meaning = "'own' (what the model has), 'mean' (of the file's rows) or 'zeros'"
    return Parameter("new", default, lambda value: value in NEW_ROWS, meaning)


def refuse_rows(file: Shape, model: Shape, *, axis: int = 0, **_: Any) -> str:
    """Say why rows cannot be copied; nothing where only their number differs."""
    if len(file) != len(model) or not -len(file) <= axis < len(file):
        return f"the shapes {file} and {model} have no rows along axis {axis} in common"
    axis %= len(file)
    if file[:axis] + file[axis + 1 :] != model[:axis] + model[axis + 1 :]:
        return f"the shapes {file} and {model} differ in more than the number of rows along axis {axis}"
    return ""


def origins(n_file: int, n_model: int, old: Sequence[Any] | None, new: Sequence[Any] | None) -> list[int]:
    """Return for each row of the model the file's row that it is given, or -1: by index, or where named by name."""
    if old is None or new is None:
        return [row if row < n_file else -1 for row in range(n_model)]
    places = {label_key(label): row for row, label in enumerate(old)}
    return [places.get(label_key(label), -1) for label in new]


def label_key(label: Any) -> Hashable:
    """Return what labels are compared by: themselves, lists as tuples."""
    return tuple(map(label_key, label)) if isinstance(label, list | tuple) else label


def n_rows_kept(file: Shape, model: Shape, *, axis: int = 0, rows: Sequence[int] | None = None, **_: Any) -> int:
    """Count the elements of the place that come from the file."""
    axis %= len(model)
    n_rows = min(file[axis], model[axis]) if rows is None else sum(row >= 0 for row in rows)
    return n_rows * math.prod(model[:axis] + model[axis + 1 :])


def with_rows(tensor: torch.Tensor, own: torch.Tensor, rows: Sequence[int], axis: int, new: str) -> torch.Tensor:
    """Return rows of the file's tensor in the model's order, those that it does not have as `new` says.

    Args:
        tensor: the file's.
        own: the model's, whose type the result has.
        rows: for each row of the result the file's, or -1.
        axis: along which rows lie.
        new: `"own"`, `"mean"` (over the file's rows, in at least float32) or `"zeros"`.
    """
    there = [place for place, row in enumerate(rows) if row >= 0]
    if new == "own" and len(there) < len(rows):
        made = own.detach().to("cpu", copy=True)
    else:
        made = torch.zeros(own.shape, dtype=own.dtype, device="cpu")
    if new == "mean" and len(there) < len(rows):
        exact = tensor.dtype if tensor.dtype in (torch.float64, torch.complex64, torch.complex128) else torch.float32
        made = tensor.to(exact).mean(axis, keepdim=True).to(own.dtype).expand(own.shape).clone()
    if there:
        places, taken = (torch.tensor(numbers, device="cpu") for numbers in (there, [rows[place] for place in there]))
        rows_of_file = as_integers(tensor).index_select(axis, taken).view(tensor.dtype)
        as_integers(made).index_copy_(axis, places, as_integers(rows_of_file.to(own.dtype)))
    return made
