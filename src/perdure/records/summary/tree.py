"""The modules of a summary as a tree, in which neighbours that look the same stand once."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Hashable, Iterator

from perdure.records.names import neighbours_alike, numbered
from perdure.records.summary.summary import Summary, SummaryRow, SummaryTensor

MOST_LINES = 5000
"""Lines of a tree, or of a table of tensors, that are shown to people; more are told by their number."""


def more_lines(n: int) -> str:
    """Say how many lines are not shown, and what shows them."""
    return f"… and {n:,} more lines: a depth leaves some out, JSON has all"


@dataclasses.dataclass
class Branch:
    """A module, or several that look the same; or a tensor beside the modules of one.

    Attributes:
        label: its name within the branch above, e.g. `conv1`, or `layers.{0..11}`.
        rows: the row of each module that it stands for, the first's figures being each one's; one for a tensor too.
        n: how many stand beside each other here; where one of the branches above stands for several, in each of those.
        children: what is below it, what is alike as one.
        tensor: the tensor that it is.
    """

    label: str
    rows: list[SummaryRow]
    n: int = 1
    children: list[Branch] = dataclasses.field(default_factory=list)
    tensor: SummaryTensor | None = None

    @property
    def row(self) -> SummaryRow:
        """The first of its rows."""
        return self.rows[0]

    @property
    def seconds(self) -> float | None:
        """The time of one, in the mean."""
        known = [row.seconds for row in self.rows if row.seconds is not None]
        return statistics.fmean(known) if known else None

    @property
    def activation_bytes(self) -> int | None:
        """The most that one took: it depends on where it stands, and so may differ."""
        return max((row.activation_bytes for row in self.rows if row.activation_bytes is not None), default=None)


def tree_of(summary: Summary) -> Branch:
    """Arrange the rows of a summary as a tree, with neighbours that look the same as one."""
    branches = [Branch(summary.title, [row]) for row in summary.rows] or [
        Branch(summary.title, [SummaryRow("", "", 0)])
    ]
    forms: dict[Hashable, int] = {}
    form_of: dict[int, int] = {}
    for branch in reversed(_with_children(branches)):
        beside = _tensors_beside(branch)
        levels = [*beside, *branch.children]
        for leaf in beside:
            form_of[id(leaf)] = _form(leaf, forms, form_of)
        branch.children = [
            _one(levels, places) for places in neighbours_alike((level.label, form_of[id(level)]) for level in levels)
        ]
        _join(branch)
        form_of[id(branch)] = _form(branch, forms, form_of)
    return branches[0]


def walk(root: Branch) -> Iterator[tuple[Branch, tuple[bool, ...]]]:
    """Give each branch from the top, with, for it and each branch above it, whether it is the last below its own."""
    waiting: list[tuple[Branch, tuple[bool, ...]]] = [(root, ())]
    while waiting:
        branch, lasts = waiting.pop()
        yield branch, lasts
        below = [(child, (*lasts, child is branch.children[-1])) for child in branch.children]
        waiting += reversed(below)


def _with_children(branches: list[Branch]) -> list[Branch]:
    """Put each branch below the one that it belongs to, and name it within that."""
    above: list[Branch] = []
    for branch in branches:
        row = branch.row
        while above and above[-1].row.depth >= row.depth:
            above.pop()
        if above:
            parent = above[-1]
            branch.label = _within(row.name, parent.row)
            parent.children.append(branch)
        above.append(branch)
    return branches


def _within(name: str, module: SummaryRow) -> str:
    """Return a name within a module."""
    return name.removeprefix(f"{module.name}." if module.name else "")


def _tensors_beside(branch: Branch) -> list[Branch]:
    """Return a module's own tensors, where it has modules too, so that what is below it adds up to it; or is the model."""
    if not branch.children and branch.row.depth:
        return []
    return [_leaf(tensor, branch.row) for tensor in branch.row.tensors]


def _leaf(tensor: SummaryTensor, module: SummaryRow) -> Branch:
    size = 1
    for length in tensor.shape:
        size *= length
    is_parameter = tensor.role == "parameter"
    row = SummaryRow(
        tensor.name,
        "",
        module.depth + 1,
        (tensor,),
        n_parameters=size if is_parameter else 0,
        n_trainable=size if is_parameter and tensor.trainable else 0,
        n_buffers=0 if is_parameter else size,
        n_bytes=tensor.n_bytes,
        same_as=tensor.tied_to or None,
        n_tied=size if is_parameter and tensor.tied_to else 0,
        tied_bytes=tensor.n_bytes if tensor.tied_to else 0,
    )
    return Branch(_within(tensor.name, module), [row], tensor=tensor)


def _form(branch: Branch, forms: dict[Hashable, int], form_of: dict[int, int]) -> int:
    """Return a number for what a branch looks like; those that look the same have the same."""
    row = branch.row
    looks = (
        row.kind,
        branch.tensor is not None,
        tuple(
            (tensor.dtype, tensor.shape, tensor.role, tensor.trainable, bool(tensor.tied_to)) for tensor in row.tensors
        ),
        tuple(tensor.name.rpartition(".")[2] for tensor in row.tensors if branch.tensor is None),
        (row.n_parameters, row.n_trainable, row.n_buffers, row.n_bytes, row.n_tied, row.tied_bytes, bool(row.same_as)),
        (row.n_calls, row.calls, row.flops, row.macs, row.backward_flops),
        tuple((child.label, child.n, form_of[id(child)]) for child in branch.children),
    )
    return forms.setdefault(looks, len(forms))


def _one(levels: list[Branch], places: list[int]) -> Branch:
    """Return one branch for those at these places, which look the same."""
    alike = [levels[place] for place in places]
    if len(alike) > 1:
        first = alike[0]
        first.label, first.n = numbered([branch.label for branch in alike]), len(alike)
        for other in alike[1:]:
            for (into, _), (from_, _) in zip(walk(first), walk(other), strict=True):
                into.rows += from_.rows
    return alike[0]


def _join(branch: Branch) -> None:
    """Let a list of layers that look the same, and that is nothing else, stand as these: `layers.{0..11} × 12`."""
    row, children = branch.row, branch.children
    if len(children) != 1 or children[0].n == 1 or children[0].tensor or branch.label.isdigit():
        return
    if row.depth and not (row.tensors or row.n_calls or row.same_as):
        (only,) = children
        branch.label = f"{branch.label}.{only.label}"
        branch.rows, branch.n, branch.children = only.rows, only.n, only.children


def paths(root: Branch) -> Iterator[tuple[str, Branch]]:
    """Give each branch with its path from the model, folds written out: `layers.{0..11}.fc1`."""
    path: list[str] = []
    for branch, lasts in walk(root):
        del path[max(0, len(lasts) - 1) :]
        if lasts:
            path.append(branch.label)
        yield ".".join(path), branch
