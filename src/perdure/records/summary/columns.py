"""The columns of a summary's text: what is known of each module, as much of it as fits a width."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

from perdure.records.names import fold, human_bytes, printable
from perdure.records.summary.figures import cells, duration, ends_of, exact, shape_text, short, shortened
from perdure.records.summary.summary import Shape, Summary, SummaryRow
from perdure.records.summary.tree import Branch

Span = tuple[str, str]
"""A piece of a line, and what it is: `"guide"`, `"name"`, `"kind"`, `"title"`, `"figure"`, `"shape"`, `"note"`, or `""`."""

_GAP = "  "
_MOST_GUIDES = 40
_ROOM_FOR_NAMES = 24


@dataclasses.dataclass
class Column:
    """One column: its title, what stands in it for each branch, in short too, and how soon it is left out."""

    title: str
    role: str
    texts: list[str]
    briefer: list[str]
    rank: int = 0

    def __post_init__(self) -> None:
        self.width = max(map(cells, (self.title, *self.texts)))


def columns_of(summary: Summary, branches: list[Branch]) -> list[Column]:
    """Return the columns of which something is known, the first to be left out with the highest rank."""
    called = any(branch.row.calls for branch in branches)
    has_flops = any(branch.row.flops is not None for branch in branches)
    partly = 0 < summary.n_trainable < summary.n_parameters
    operations = "mult-adds" if summary.convention == "torchinfo" else "FLOPs"

    def column(title: str, cell: Callable[[Branch], str], rank: int, role: str = "figure") -> Column:
        texts = [cell(branch) for branch in branches]
        return Column(title, role, texts, texts, rank)

    parameters = dataclasses.replace(
        column("parameters", lambda branch: _parameters(branch, exact), 0),
        briefer=[_parameters(branch, short) for branch in branches],
    )
    found = [
        column("output", lambda branch: output_text(branch.row), 6, "shape")
        if called
        else column("weights", _weights, 6, "shape"),
        column("calls", lambda branch: str(branch.row.n_calls) if branch.row.n_calls > 1 else "", 4),
        parameters,
        column("trains", _trains if partly else lambda branch: "", 3),
        column("size", _size if not has_flops else lambda branch: "", 2),
        column(operations, lambda branch: _short(branch.row.flops), 0),
        column("activations", lambda branch: _bytes(branch.activation_bytes), 2),
        column("time", lambda branch: "" if branch.seconds is None else duration(branch.seconds), 1),
    ]
    return [column for column in found if any(column.texts)]


def fit(columns: list[Column], names: Iterable[int], width: int) -> tuple[int, list[Column], list[str]]:
    """Make the columns fit beside the names, in this order: figures in short, names cut, columns left out.

    Args:
        columns: all of them.
        names: how many columns of the terminal each name wants.
        width: how many there are in all.

    Returns:
        what is left for the names; the columns that stay; the titles of those that do not.
    """
    natural = max(names)
    least = min(natural, max(24, width // 3))

    def left() -> int:
        return width - sum(len(_GAP) + column.width for column in columns)

    if left() < natural:
        columns = [dataclasses.replace(column, texts=column.briefer) for column in columns]
    gone: list[str] = []
    while left() < least and any(column.rank for column in columns):
        last = max(columns, key=lambda column: column.rank)
        columns = [column for column in columns if column is not last]
        gone.append(last.title)
    return max(min(natural, left()), 12), columns, gone


def cells_of(columns: list[Column], place: int) -> list[Span]:
    """Return what stands in the columns for one branch."""
    return [piece for column in columns for piece in _aligned(column.texts[place], column)]


def titles_of(columns: list[Column]) -> list[Span]:
    """Return the titles of the columns, each where its column is."""
    return [(text, role and "title") for column in columns for text, role in _aligned(column.title, column)]


def _aligned(text: str, column: Column) -> list[Span]:
    pad = " " * (column.width - cells(text))
    return (
        [(_GAP + pad, ""), (text, column.role)] if column.role == "figure" else [(_GAP, ""), (text + pad, column.role)]
    )


def name_of(branch: Branch, lasts: tuple[bool, ...], width: int | None, say_shape: bool) -> list[Span]:
    """Return a branch's guides, name, how many it stands for, its class and what it is the same as, within a width."""
    guide = _guide(lasts)
    label = ends_of(branch.label or '""') if lasts else ends_of(branch.row.kind) or "(model)"
    times = f" × {branch.n}" if branch.n > 1 else ""
    kind = f" ({printable(branch.row.kind)})" if branch.row.kind and lasts else ""
    if branch.tensor and say_shape:
        kind = f" ({tensor_text(branch)})"
    tied = tie_of(branch)
    tie = f" = {ends_of(', '.join(tied))}" if tied else ""
    if width is not None:
        guide = shortened(guide, max(width // 2, width - _ROOM_FOR_NAMES))
        room = width - cells(guide) - len(times)
        label = shortened(label, max(room - cells(kind + tie), room * 2 // 3 if kind or tie else room))
        kind = _fitting(kind, room - cells(label))
        tie = _fitting(tie, room - cells(label + kind))
    return [(guide, "guide"), (label, "name"), (times, "figure"), (kind, "kind"), (tie, "note")]


def _guide(lasts: tuple[bool, ...]) -> str:
    """Draw the lines from the model to a branch; of those that lie very deep, the nearest only."""
    if not lasts:
        return ""
    above = "".join("   " if last else "│  " for last in lasts[-_MOST_GUIDES:-1])
    return ("…" if len(lasts) > _MOST_GUIDES else "") + above + ("└─ " if lasts[-1] else "├─ ")


def _fitting(text: str, width: int) -> str:
    return shortened(text, width) if width > 5 else ""


def tie_of(branch: Branch) -> list[str]:
    """Name what a module or tensor is the same as, or the tensors that a module's own are tied to."""
    names = [row.same_as for row in branch.rows if row.same_as]
    if not branch.children and not branch.tensor:
        names += [tensor.tied_to for row in branch.rows for tensor in row.tensors if tensor.tied_to]
    return fold(names)


def tensor_text(branch: Branch) -> str:
    """Return shape and type of the largest tensor that a module holds itself, or of the tensor that a branch is."""
    if not branch.row.tensors:
        return ""
    largest = max(branch.row.tensors, key=lambda tensor: math.prod(tensor.shape))
    return f"{shape_text(largest.shape)} {printable(largest.dtype, 20)}"


def _weights(branch: Branch) -> str:
    return "" if branch.children else tensor_text(branch)


def _output(branch: Branch) -> str:
    return output_text(branch.row)


def output_text(row: SummaryRow) -> str:
    """Return the shape of what a module gave first, and how many more tensors it gave."""
    shapes: tuple[Shape, ...] = row.output_shapes
    more = f" +{len(shapes) - 1}" if len(shapes) > 1 else ""
    return f"{shape_text(shapes[0])}{more}" if shapes else ""


def _parameters(branch: Branch, write: Callable[[int], str]) -> str:
    return _counted(branch.row.n_parameters, branch.row.n_tied, write)


def _size(branch: Branch) -> str:
    return _counted(branch.row.n_bytes, branch.row.tied_bytes, human_bytes)


def _counted(number: int, elsewhere: int, write: Callable[[int], str]) -> str:
    """Write a figure, and in brackets what of it is counted where it stands elsewhere."""
    if number == elsewhere:
        return f"({write(number)})" if number else ""
    return f"{write(number - elsewhere)} (+{write(elsewhere)})" if elsewhere else write(number)


def _trains(branch: Branch) -> str:
    row = branch.row
    if not row.n_parameters:
        return ""
    return "no" if not row.n_trainable else "yes" if row.n_trainable == row.n_parameters else "in part"


def _short(number: int | None) -> str:
    return short(number) if number else ""


def _bytes(number: int | None) -> str:
    return human_bytes(number) if number else ""
