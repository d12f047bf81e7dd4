"""The rows of a summary, from the modules of a model and the tensors that they hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from perdure.records.summary.summary import SummaryRow, SummaryTensor


def rows_of(
    modules: Mapping[str, str], tensors: Iterable[SummaryTensor], same: Mapping[str, str] | None = None
) -> tuple[SummaryRow, ...]:
    """Arrange tensors under their modules and add up, each element once within each row.

    Args:
        modules: the class of each module by its path, in the model's order; a path that is missing on the way to another,
            or to a tensor, is put in, of no known class.
        tensors: all of them, in the model's order, each before those that are tied to it.
        same: the paths of modules that stand at another path before, with that path.
    """
    nodes: dict[str, _Node] = {"": _Node("", modules.get("", ""), 0)}
    for path, kind in modules.items():
        _node(nodes, path).kind = kind
    for tensor in tensors:
        _add(nodes, tensor)
    for path, first in (same or {}).items():
        node = _node(nodes, path)
        node.same_as, node.counted = first, _node(nodes, first).counted
        for parent in _above(path):
            nodes[parent].counted.update(node.counted)
    return tuple(node.row() for node in _in_order(nodes))


class _Node:
    """A module on the way to becoming a row."""

    def __init__(self, name: str, kind: str, depth: int) -> None:
        self.name, self.kind, self.depth = name, kind, depth
        self.children: list[_Node] = []
        self.tensors: list[SummaryTensor] = []
        self.counted: dict[str, SummaryTensor] = {}
        self.same_as: str | None = None

    def row(self) -> SummaryRow:
        counted = self.counted.values()
        parameters = [tensor for tensor in counted if tensor.role == "parameter"]
        elsewhere = [tensor for name, tensor in self.counted.items() if not self._holds(name)]
        return SummaryRow(
            self.name,
            self.kind,
            self.depth,
            tuple(self.tensors),
            n_parameters=_elements(parameters),
            n_trainable=_elements(tensor for tensor in parameters if tensor.trainable),
            n_buffers=_elements(tensor for tensor in counted if tensor.role == "buffer"),
            n_bytes=sum(tensor.n_bytes for tensor in counted),
            same_as=self.same_as,
            n_tied=_elements(tensor for tensor in elsewhere if tensor.role == "parameter"),
            tied_bytes=sum(tensor.n_bytes for tensor in elsewhere),
        )

    def _holds(self, name: str) -> bool:
        """Tell whether a tensor of this name stands in this module or below it."""
        return not self.name or name.startswith(f"{self.name}.")


def _elements(tensors: Iterable[SummaryTensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)


def _above(path: str) -> list[str]:
    """Return the paths of the modules that a path lies in, the model's last."""
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, -1, -1)]


def _node(nodes: dict[str, _Node], path: str) -> _Node:
    if path not in nodes:
        parent = nodes[""]
        for at in (*reversed(_above(path)), path):
            if at not in nodes:
                nodes[at] = _Node(at, "", parent.depth + 1)
                parent.children.append(nodes[at])
            parent = nodes[at]
    return nodes[path]


def _add(nodes: dict[str, _Node], tensor: SummaryTensor) -> None:
    """Put a tensor into its module, and among what is counted there and above."""
    owner = _node(nodes, tensor.name.rpartition(".")[0])
    owner.tensors.append(tensor)
    for path in (owner.name, *(_above(owner.name) if owner.name else ())):
        nodes[path].counted.setdefault(tensor.tied_to or tensor.name, tensor)


def _in_order(nodes: dict[str, _Node]) -> Iterable[_Node]:
    waiting = [nodes[""]]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(node.children)
