"""`"resize"`: positions of another number, interpolated."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from perdure.weights.adapting.adaptation import Parameter, Shape, adaptation, everything, is_size
from perdure.weights.adapting.grids import Grids, Sides, could_be_either, find_grids, seems_grid

_MODES = (None, "bicubic", "bilinear", "nearest", "linear")


def _is_grid(value: Any) -> bool:
    return value is None or (isinstance(value, list | tuple) and len(value) == 2 and all(map(is_size, value)))


def _differing(file: Shape, model: Shape) -> list[int]:
    return [axis for axis, (one, other) in enumerate(zip(file, model, strict=True)) if one != other]


def _refuse(file: Shape, model: Shape, **options: Any) -> str:
    if len(file) != len(model) or 0 in file + model:
        return f"the shapes {file} and {model} are not those of the same kind of positions"
    axes = _axes(file, model, options)
    if len(axes) > 2 or (len(axes) == 2 and axes[1] - axes[0] != 1):
        return f"the shapes {file} and {model} differ in other axes than those of a grid"
    if len(axes) == 2:
        return ""
    n_old, n_new = file[axes[0]], model[axes[0]]
    known = options["grid"] is not None or options["old_grid"] is not None or options["prefix_tokens"] is not None
    if not known and options["axes"] is None and len(file) == 2 and could_be_either(n_old, n_new):
        return f"{n_old} and {n_new} positions may be rows or square grids: say axes=1 or axes=2"
    no_row = options["axes"] is None and seems_grid(file)
    if (known or no_row or options["axes"] == 2) and _grids(n_old, n_new, options) is None:
        beside = "with the same tokens before them: give grid and old_grid, or axes=1 for rows"
        return f"{n_old} and {n_new} positions are no grids {beside}"
    return ""


def _axes(file: Shape, model: Shape, options: dict[str, Any]) -> list[int]:
    """Return the axes of the positions: those that differ, of a map both; the one of a table also where it does not."""
    axes = _differing(file, model)
    if len(axes) == 1 and len(file) == 4:
        return [2, 3] if axes[0] == 3 else [axes[0], axes[0] + 1] if axes[0] < 3 and axes[0] > 0 else axes
    return axes or [max(len(file) - 2, 0)]


def _grids(n_old: int, n_new: int, options: dict[str, Any]) -> Grids | None:
    if options["axes"] == 1:
        return None
    old, new = options["old_grid"], options["grid"]
    return find_grids(n_old, n_new, old and tuple(old), new and tuple(new), options["prefix_tokens"])


@adaptation(
    "resize",
    refuse=_refuse,
    n_kept=everything,
    of_reals=True,
    applies=lambda grid, old_grid, **_: grid is not None and old_grid is not None and tuple(grid) != tuple(old_grid),
    parameters=(
        Parameter("grid", None, _is_grid, "the sides (height, width) of the model's grid"),
        Parameter("old_grid", None, _is_grid, "the sides (height, width) of the file's grid"),
        Parameter("prefix_tokens", None, lambda value: value is None or is_size(value), "a number of tokens"),
        Parameter("axes", None, lambda value: value in (None, 1, 2), "1 (rows, as of a text) or 2 (a grid)"),
        Parameter("mode", None, lambda value: value in _MODES, "a mode of torch.nn.functional.interpolate"),
        Parameter("align_corners", False, lambda value: isinstance(value, bool), "True or False"),
        Parameter("antialias", False, lambda value: isinstance(value, bool), "True or False"),
    ),
    reference="interpolate_pos_encoding of transformers' ViT (bicubic, corners not aligned); torchvision's "
    "interpolate_embeddings with align_corners=True, timm's resample_abs_pos_embed with antialias=True, BEiT's tables of "
    "relative positions in transformers with mode='bilinear'",
)
def resize(
    tensor: torch.Tensor,
    own: torch.Tensor,
    *,
    grid: Sides | None,
    old_grid: Sides | None,
    prefix_tokens: int | None,
    axes: int | None,
    mode: str | None,
    align_corners: bool,
    antialias: bool,
) -> torch.Tensor:
    """Interpolate embeddings or biases of positions, in float32 or finer.

    A table, (1, positions, width), (positions, width) or (positions, heads), is a grid where both numbers of positions are
    squares, with the same 0, 1 or 2 tokens before them, or 3 rows behind them (BEiT's relative positions): these are kept.
    Else it is a row. A map, such as (1, width, height, width), is interpolated along the two axes that differ.

    Args:
        tensor: the file's.
        own: the model's.
        grid: sides of the model's grid, where it is not square.
        old_grid: sides of the file's grid, where it is not square.
        prefix_tokens: rows before the grid.
        axes: 1 for a row, 2 for a grid, where the numbers do not tell.
        mode: bicubic for a grid and linear for a row, unless given.
        align_corners: as `torch.nn.functional.interpolate`; of bicubic, bilinear and linear.
        antialias: the same; of bicubic and bilinear.
    """
    options = {"grid": grid, "old_grid": old_grid, "prefix_tokens": prefix_tokens, "axes": axes}
    at = _axes(tuple(tensor.shape), tuple(own.shape), options)
    how: dict[str, Any] = {"mode": mode, "align_corners": align_corners, "antialias": antialias}
    moved = (tensor if tensor.dtype == torch.float64 else tensor.float()).movedim(at, list(range(-len(at), 0)))
    if len(at) == 2:
        made = _interpolate(moved, tuple(own.shape[axis] for axis in at), how)
    else:
        n_old, n_new = tensor.shape[at[0]], own.shape[at[0]]
        grids = _grids(n_old, n_new, options)
        made = _interpolate(moved, (n_new,), how) if grids is None else _in_grid(moved, grids, how)
    return made.movedim(list(range(-len(at), 0)), at).to(tensor.dtype).contiguous()


def _in_grid(rows: torch.Tensor, grids: Grids, how: dict[str, Any]) -> torch.Tensor:
    """Interpolate what lies along the last axis as a grid, and keep what stands before and behind it."""
    before, inner, behind = rows.split(
        [grids.n_before, rows.shape[-1] - grids.n_before - grids.n_behind, grids.n_behind], -1
    )
    made = _interpolate(inner.unflatten(-1, grids.old), grids.new, how).flatten(-2)
    return torch.cat([before, made, behind], -1)


def _interpolate(values: torch.Tensor, sides: tuple[int, ...], how: dict[str, Any]) -> torch.Tensor:
    """Interpolate along the last axes, one or two."""
    mode = how["mode"] or ("bicubic" if len(sides) == 2 else "linear")
    if len(sides) == 1 and mode in ("bicubic", "bilinear"):
        mode = "linear"
    if len(sides) == 2 and mode == "linear":
        mode = "bilinear"
    more: dict[str, Any] = {} if mode == "nearest" else {"align_corners": how["align_corners"]}
    if mode in ("bicubic", "bilinear"):
        more["antialias"] = how["antialias"]
    flat = values.reshape(1, -1, *values.shape[values.dim() - len(sides) :])
    made = functional.interpolate(flat, size=sides, mode=mode, **more)
    return made.reshape(*values.shape[: values.dim() - len(sides)], *sides)
