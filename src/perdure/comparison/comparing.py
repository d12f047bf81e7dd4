"""`diff`: how two saved models differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from perdure.comparison.measuring import measure
from perdure.comparison.sides import Side, opened
from perdure.comparison.statements import compare_statements
from perdure.records.differences import Diff, TensorChange
from perdure.weights.opening import Origin, Weights

Progress = Callable[[int, int], None]
"""Told how many bytes were just compared and how many there are in all."""

Comparable = Origin | Weights | nn.Module | Mapping[str, torch.Tensor]


def diff(a: Comparable, b: Comparable, *, values: bool = True, progress: Progress | None = None) -> Diff:
    """Compare two saved models: names, shapes, types, values, and what the files say about themselves.

    Values are read block by block and never all at once. Where both files have BLAKE3 digests, tensors whose digests are
    equal are taken as equal without being read; `perdure.check` tells whether a file is what its digests say.

    Args:
        a: what `perdure.open` takes or returned, a module, or a mapping of names to tensors.
        b: likewise.
        values: compare values; with False, only digests where both sides have them.
        progress: called as `progress(n_bytes, total_bytes)` whenever tensors of that many bytes more were compared.

    Returns:
        What was added, removed, renamed and changed from `a` to `b`, and what is equal.

    Raises:
        DigestError, CorruptError, ProtocolError, MissingFileError, StorageError: as `perdure.open` and reading.
        InputError: something that is neither a file nor holds tensors.

    Example:
        >>> print(perdure.diff("before.safetensors", "after.safetensors"))
    """
    with opened(a) as one, opened(b) as other:
        return _Comparison(one, other, values, progress).diff()


class _Comparison:
    """Two sides and what was found out about them."""

    def __init__(self, one: Side, other: Side, values: bool, progress: Progress | None) -> None:
        self._one, self._other, self._values = one, other, values
        self._progress = progress
        self._changed: dict[str, TensorChange] = {}
        self._equal: list[str] = []
        self._n_by_digest = self._n_unread = 0

    def diff(self) -> Diff:
        one, other = self._one, self._other
        common = [name for name in one.specs if name in other.specs]
        removed = [name for name in one.specs if name not in other.specs]
        added = [name for name in other.specs if name not in one.specs]
        renamed = self._renamed(removed, added)
        targets = set(renamed.values())
        total = sum(one.specs[name].n_bytes for name in common)
        for name in common:
            self._compare(name)
            if self._progress is not None:
                self._progress(one.specs[name].n_bytes, total)
        return Diff(
            paths=(one.where, other.where),
            added=tuple(name for name in added if name not in targets),
            removed=tuple(name for name in removed if name not in renamed),
            renamed=renamed,
            changed=dict(sorted(self._changed.items(), key=lambda item: -item[1].weight)),
            equal=tuple(self._equal),
            n_by_digest=self._n_by_digest,
            n_unread=self._n_unread,
            tied=self._tied(common),
            described=compare_statements(one, other),
        )

    def _compare(self, name: str) -> None:
        a, b = self._one.specs[name], self._other.specs[name]
        digests = self._one.digest_of(name), self._other.digest_of(name)
        alike = (a.dtype, a.shape) == (b.dtype, b.shape)
        if alike and digests[0] and digests[0] == digests[1]:
            self._equal.append(name)
            self._n_by_digest += 1
        elif a.shape != b.shape or not (self._values or alike):
            self._changed[name] = TensorChange((a.dtype, b.dtype), (a.shape, b.shape))
        elif self._values:
            change = measure(name, name, self._one, self._other)
            if change is None:
                self._equal.append(name)
            else:
                self._changed[name] = change
        elif digests[0] and digests[1] and " " not in "".join(digests):
            self._changed[name] = TensorChange((a.dtype, b.dtype), (a.shape, b.shape))
        else:
            self._n_unread += 1

    def _renamed(self, removed: list[str], added: list[str]) -> dict[str, str]:
        """Pair names that only one side has and whose tensors have the same content, in order; each is paired once.

        Contents are read where a file does not give their digests, but only of tensors of a type and shape that some tensor
        of the other side has.
        """
        kinds = {_kind(self._other, name) for name in added} & {_kind(self._one, name) for name in removed}
        waiting: dict[Any, list[str]] = {}
        for name in added:
            if _kind(self._other, name) in kinds and (key := self._key(self._other, name)):
                waiting.setdefault(key, []).append(name)
        found: dict[str, str] = {}
        for name in removed:
            if _kind(self._one, name) in kinds and (key := self._key(self._one, name)) and waiting.get(key):
                same = waiting[key]
                last = name.rpartition(".")[2]
                target = next((other for other in same if other.rpartition(".")[2] == last), same[0])
                same.remove(target)
                found[name] = target
        return found

    def _key(self, side: Side, name: str) -> Any:
        """Return what tensors of the same content have in common; None where that is not known."""
        if not side.is_dense(name):
            return None
        digest = side.content(name) if self._values else side.specs[name].digest
        return (_kind(side, name), digest) if digest else None

    def _tied(self, common: list[str]) -> dict[str, tuple[str, str]]:
        """Return the names that share memory in one of two files only, or with another tensor."""
        if not (self._one.manifest and self._other.manifest):
            return {}
        pairs = {name: (self._one.owner(name), self._other.owner(name)) for name in common}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _kind(side: Side, name: str) -> tuple[str, tuple[int, ...]]:
    spec = side.specs[name]
    return spec.dtype, spec.shape
