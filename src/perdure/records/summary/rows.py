"""The rows of a summary, from the modules of a model and the tensors that they hold.

Names may be any that a file can have, so nothing here recurses, and all of it takes time and memory in proportion to what
it is given.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from perdure.errors import LimitError
from perdure.records.names import SENSIBLE_LENGTH
from perdure.records.summary.summary import Summary, SummaryRow, SummaryTensor

MAX_DEPTH = 50
"""Levels of modules that are told from the names of tensors; a name's further dots are a part of its last level."""

MAX_MODULES = 100_000
"""Modules that are told from the names of tensors, all together."""

MAX_SHARED = 5_000_000
"""Tensors at the further places of shared modules, counted over all of these places."""


def rows_of(
    modules: Mapping[str, str], tensors: Iterable[SummaryTensor], same: Mapping[str, str] | None = None
) -> tuple[SummaryRow, ...]:
    """Arrange tensors under their modules and add up, each element once within each row.

    Args:
        modules: the class of each module by its path, in the model's order; a path that is missing on the way to another,
            or to a parameter or a buffer, is put in, of no known class.
        tensors: all of them, in the model's order; one that is tied names another that is there and is not.
        same: the paths of modules that stand at another path before, with that path.

    Raises:
        LimitError: modules are shared in more ways than those of any model.
    """
    tree = _Tree()
    for path, kind in modules.items():
        if len(path) <= SENSIBLE_LENGTH:
            tree.node(path).kind = kind
    shared = {path: first for path, first in (same or {}).items() if len(path) <= SENSIBLE_LENGTH}
    for path, first in shared.items():
        tree.node(path).same_as = first
    for tensor in tensors:
        tree.owner_of(tensor.name, tells=bool(tensor.role) or not modules).tensors.append(tensor)
    order = list(tree.in_order())
    _count(order, tree, shared)
    return tuple(node.row() for node in order)


def down_to(summary: Summary, depth: int | None) -> Summary:
    """Leave out the rows that are more than `depth` levels below the model; all totals stay."""
    if depth is None:
        return summary
    return dataclasses.replace(summary, rows=tuple(row for row in summary.rows if row.depth <= depth))


_Sizes = tuple[int, int, int, int]
"""Elements of parameters, of the trainable ones and of buffers, and bytes of all."""

_NOTHING: _Sizes = (0, 0, 0, 0)


class _Node:
    """A module on the way to becoming a row."""

    __slots__ = ("at_several", "children", "depth", "kind", "name", "parent", "same_as", "tensors", "tied", "totals")

    def __init__(self, name: str, parent: _Node | None) -> None:
        self.name, self.kind, self.parent = name, "", parent
        self.depth: int = parent.depth + 1 if parent else 0
        self.children: list[_Node] = []
        self.tensors: list[SummaryTensor] = []
        self.totals = self.tied = _NOTHING
        self.at_several: dict[str, SummaryTensor] = {}
        self.same_as: str | None = None

    def add(self, sizes: _Sizes) -> None:
        self.totals = _sum(self.totals, sizes)

    def add_tied(self, tensor: SummaryTensor) -> None:
        """Count a tensor of several places, and whether it is one that stands elsewhere."""
        self.totals = _sum(self.totals, _sizes(tensor))
        if self.name and not tensor.name.startswith(f"{self.name}."):
            self.tied = _sum(self.tied, _sizes(tensor))

    def row(self) -> SummaryRow:
        n_parameters, n_trainable, n_buffers, n_bytes = self.totals
        return SummaryRow(
            self.name,
            self.kind,
            self.depth,
            tuple(self.tensors),
            n_parameters=n_parameters,
            n_trainable=n_trainable,
            n_buffers=n_buffers,
            n_bytes=n_bytes,
            n_tied=self.tied[0],
            tied_bytes=self.tied[3],
            same_as=self.same_as,
        )


def _sum(sizes: _Sizes, more: _Sizes) -> _Sizes:
    return sizes[0] + more[0], sizes[1] + more[1], sizes[2] + more[2], sizes[3] + more[3]


class _Tree:
    """The modules, by their paths."""

    def __init__(self) -> None:
        self.root = _Node("", None)
        self._nodes: dict[str, _Node] = {"": self.root}
        self._n_told = 0

    def node(self, path: str) -> _Node:
        """Return a module, put in where it is missing, with all above it."""
        node = self.root
        for stop in (*(match.start() for match in _DOT.finditer(path)), len(path)):
            node = self._nodes.get(path[:stop]) or self._put(path[:stop], node)
        return node

    def get(self, path: str) -> _Node | None:
        return self._nodes.get(path)

    def owner_of(self, name: str, *, tells: bool) -> _Node:
        """Return the module that a tensor of this name is in; only if the name `tells` of modules they are put in."""
        owner = self._nodes.get(name[: max(0, name.rfind("."))])
        return owner or self._told(name, put_in=tells)

    def _told(self, name: str, *, put_in: bool) -> _Node:
        """Return the module that a name tells of, put in with all above it as far as the limits allow."""
        node = self.root
        for level, match in enumerate(_DOT.finditer(name, 0, SENSIBLE_LENGTH)):
            inner = self._nodes.get(name[: match.start()])
            if inner is None:
                if not put_in or level >= MAX_DEPTH or self._n_told >= MAX_MODULES:
                    break
                self._n_told += 1
                inner = self._put(name[: match.start()], node)
            node = inner
        return node

    def _put(self, path: str, parent: _Node) -> _Node:
        found = self._nodes[path] = _Node(path, parent)
        parent.children.append(found)
        return found

    def in_order(self) -> Iterator[_Node]:
        """Give the modules, each followed by what is below it."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children)


_DOT = re.compile(r"\.")


def _count(order: list[_Node], tree: _Tree, shared: Mapping[str, str]) -> None:
    """Give each module its totals: what stands at one place alone is added up, all else is collected by its identity."""
    firsts: dict[str, SummaryTensor] = {}
    places: Counter[str] = Counter()
    for node in order:
        for tensor in node.tensors:
            key = tensor.tied_to or tensor.name
            if not tensor.tied_to or key not in firsts:
                firsts[key] = tensor
            places[key] += 1
    within = _within_shared(order, set(shared.values()))
    for node in order:
        for tensor in node.tensors:
            key = tensor.tied_to or tensor.name
            if places[key] > 1 or node.name in within:
                _collect(node, {key: firsts[key]})
            else:
                node.add(_sizes(tensor))
    n_shared = 0
    for path, first in shared.items():
        node, source = tree.node(path), tree.get(first)
        if source is None or source is node:
            continue
        n_shared += len(source.at_several)
        if n_shared > MAX_SHARED:
            raise LimitError(
                f"summarizing: its shared modules hold more than {MAX_SHARED} tensors at all their places."
            )
        _collect(node, source.at_several)
    for node in reversed(order):
        if node.parent:
            node.parent.add(node.totals)
    for node in order:
        for tensor in node.at_several.values():
            node.add_tied(tensor)


def _within_shared(order: list[_Node], firsts: set[str]) -> set[str]:
    """Return the paths of the modules that stand at several places, and of all below them."""
    within: set[str] = set()
    for node in order:
        if node.name in firsts or (node.parent and node.parent.name in within):
            within.add(node.name)
    return within


def _collect(node: _Node | None, tensors: Mapping[str, SummaryTensor]) -> None:
    """Note tensors in a module and in those above it; those above one that knows a tensor already know it too."""
    while node is not None:
        known = node.at_several
        tensors = {key: tensor for key, tensor in tensors.items() if key not in known}
        if not tensors:
            return
        known.update(tensors)
        node = node.parent


def _sizes(tensor: SummaryTensor) -> _Sizes:
    """Return what a tensor adds to a row."""
    n_elements = math.prod(tensor.shape)
    if tensor.role == "parameter":
        return n_elements, n_elements if tensor.trainable else 0, 0, tensor.n_bytes
    return (0, 0, n_elements, tensor.n_bytes) if tensor.role == "buffer" else _NOTHING
