"""What `diff` reports: frozen, free of torch, with a short table as text and JSON-ready data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from perdure.records.names import fold

_MAX_LINES = 40


@dataclasses.dataclass(frozen=True)
class TensorChange:
    """How a tensor of one name differs between two files.

    Two elements are equal if they have the same bits once both are exact in float64, so that +0 and −0 differ, or if
    both are NaN. All figures are computed in float64. Those of values are None where the shapes differ, where values
    were not read, or where PyTorch cannot compute with the type.

    Attributes:
        dtypes: both types, as PyTorch names them.
        shapes: both shapes.
        n_elements: how many elements were compared.
        n_different: how many of them are not equal; 0 where only the type differs.
        max_abs: the largest |a − b|; infinite where just one of the two is NaN, or they are unlike infinities.
        max_rel: the largest |a − b| / max(|a|, |b|), from 0 to 2; infinite as above.
        cosine: the cosine of the angle between both as vectors, over the elements that are finite in both.
        change: ‖a − b‖ / max(‖a‖, ‖b‖), by which changes are sorted; infinite as above.
        n_nan: how many elements are NaN in each.
        n_infinite: how many elements are infinite in each.
    """

    dtypes: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    n_elements: int = 0
    n_different: int | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    cosine: float | None = None
    change: float | None = None
    n_nan: tuple[int, int] = (0, 0)
    n_infinite: tuple[int, int] = (0, 0)

    @property
    def weight(self) -> float:
        """How much changed: what cannot be compared comes first."""
        return math.inf if self.change is None else self.change

    def __str__(self) -> str:
        parts = [" → ".join(dict.fromkeys(self.dtypes))]
        shapes = [str(list(shape)) for shape in self.shapes]
        parts.append(" → ".join(dict.fromkeys(shapes)))
        if self.n_different is not None:
            parts.append(f"{self.n_different} of {self.n_elements} differ" if self.n_different else "values equal")
        if self.n_different and self.max_abs is not None and self.max_rel is not None:
            parts.append(f"by ≤ {self.max_abs:.3g} ({self.max_rel:.3g} relative)")
            parts.append(f"cosine {_decimals(self.cosine)}")
            parts.append(f"change {self.change:.3g}")
        for label, (one, other) in (("NaN", self.n_nan), ("infinite", self.n_infinite)):
            if one or other:
                parts.append(f"{label} {one} → {other}")
        return ", ".join(parts)


def _decimals(cosine: float | None) -> str:
    return "none" if cosine is None else f"{cosine:.9g}"


@dataclasses.dataclass(frozen=True)
class Diff:
    """How two saved models differ.

    Attributes:
        paths: what was compared.
        added: names that only the second has.
        removed: names that only the first has.
        renamed: names of the first whose tensor has another name in the second, guessed from equal content.
        changed: names whose tensors differ in shape, type or values, with how; those that changed most come first.
        equal: names whose tensors are equal: type, shape, and each element.
        n_by_digest: how many of these are equal by the digests in both files, and were not read.
        n_unread: how many have the same type and shape, and neither digests to compare nor were they read.
        tied: names that share memory with another in one of the two only, with that other, or empty text.
        described: what else the files say about themselves, where it differs: `environment.torch`, `notes`, …
    """

    paths: tuple[str, str]
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)
    changed: dict[str, TensorChange] = dataclasses.field(default_factory=dict)
    equal: tuple[str, ...] = ()
    n_by_digest: int = 0
    n_unread: int = 0
    tied: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    described: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether both have the same tensors under the same names; what they say about themselves does not count."""
        return not (self.added or self.removed or self.renamed or self.changed)

    def __str__(self) -> str:
        return "\n".join([self._head(), *self._structure(), *self._values(), *self._said()])

    def _head(self) -> str:
        counts = [
            f"{len(names)} {label}"
            for label, names in (
                ("added", self.added),
                ("removed", self.removed),
                ("renamed", self.renamed),
                ("changed", self.changed),
            )
            if names
        ]
        by_digest = f" ({self.n_by_digest} of them by digest, not read)" if self.n_by_digest else ""
        counts.append(f"{len(self.equal)} equal{by_digest}")
        if self.n_unread:
            counts.append(f"{self.n_unread} of the same form, not compared")
        return f"{self.paths[0]} → {self.paths[1]}: {', '.join(counts)}"

    def _structure(self) -> Iterable[str]:
        for mark, names in (("-", self.removed), ("+", self.added)):
            yield from _cut([f"  {mark} {name}" for name in fold(names)])
        yield from _cut([f"  renamed {name}" for name in fold(f"{a} → {b}" for a, b in self.renamed.items())])
        yield from _cut([f"  tied {name}: {a or 'no'} → {b or 'no'}" for name, (a, b) in self.tied.items()])

    def _values(self) -> Iterable[str]:
        """Show every change; repeated layers of which all changed alike in form take one line."""
        alike: dict[str, list[str]] = {}
        for name, change in self.changed.items():
            alike.setdefault(str(change), []).append(name)
        lines = [f"  {name}  {text}" for text, names in alike.items() for name in fold(names)]
        yield from _cut(lines)

    def _said(self) -> Iterable[str]:
        yield from _cut([f"  {what}: {_shown(a)} → {_shown(b)}" for what, (a, b) in self.described.items()])


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - _MAX_LINES
    return [*lines[:_MAX_LINES], f"  … and {more} more lines"] if more > 0 else lines


def _shown(value: Any) -> str:
    text = "none" if value is None or value == "" else str(value)
    return text if len(text) <= 100 else f"{text[:99]}…"
