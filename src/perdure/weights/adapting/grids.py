"""The grid in a table of positions: its sides, and the rows before or behind it that are no positions of it."""

from __future__ import annotations

import math
from typing import NamedTuple

Sides = tuple[int, int]

MAX_PREFIX = 2
"""Tokens that stand before a grid where nothing is said: none, one of the class, or one of distillation too."""

BEIT_SUFFIX = 3
"""Rows behind a table of relative positions: class to token, token to class, class to class."""


class Grids(NamedTuple):
    """Two grids of one kind: the file's and the model's.

    Attributes:
        old: sides of the file's.
        new: sides of the model's.
        n_before: rows before the grid in both.
        n_behind: rows behind it in both.
    """

    old: Sides
    new: Sides
    n_before: int = 0
    n_behind: int = 0


def find_grids(
    n_old: int, n_new: int, old: Sides | None = None, new: Sides | None = None, n_before: int | None = None
) -> Grids | None:
    """Find the grids in two tables: squares, unless sides are given, with the same few other rows.

    Args:
        n_old: rows of the file's table.
        n_new: rows of the model's.
        old: sides of the file's grid, where known.
        new: sides of the model's grid, where known.
        n_before: rows before the grid, where known.
    """
    befores = range(MAX_PREFIX + 1) if n_before is None else (n_before,)
    others = [(before, 0) for before in befores] + ([(0, BEIT_SUFFIX)] if n_before is None else [])
    for before, behind in others:
        sides = [given or _square(n_rows - before - behind) for n_rows, given in ((n_old, old), (n_new, new))]
        one, other = sides
        if one and other and math.prod(one) + before + behind == n_old and math.prod(other) + before + behind == n_new:
            return Grids(one, other, before, behind)
    return None


def _square(n_rows: int) -> Sides | None:
    side = math.isqrt(n_rows) if n_rows > 0 else 0
    return (side, side) if side and side * side == n_rows else None


def seems_grid(shape: tuple[int, ...]) -> bool:
    """Tell whether a table (1, positions, width) seems to be a square grid behind one token or two; texts' seldom are."""
    return len(shape) == 3 and any(_square(shape[1] - before) for before in range(1, MAX_PREFIX + 1))


def could_be_either(n_old: int, n_new: int) -> bool:
    """Tell whether two lengths are squares by chance, as those of texts may be: even ones, with nothing before."""
    squares = all(_square(n_rows) for n_rows in (n_old, n_new))
    return squares and not (n_old % 2 and n_new % 2)
